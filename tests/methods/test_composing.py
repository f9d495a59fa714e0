"""Which compositions a search chooses from, and what they may cost."""

from __future__ import annotations

import pytest

from ommatid.methods.composing.budget import Budget
from ommatid.methods.composing.search import Search
from ommatid.methods.composing.space import WRAPPERS, Space, chosen_parts

SPACE = Space(32, 3, ("window", "attention"), ("mlp",))


def test_budgets_as_people_write_them() -> None:
    budget = Budget.parse("latency<5ms, params<=10M,macs<0.3G")
    assert budget.limits == {"latency_ms": 5.0, "parameters": 10e6, "macs": 0.3e9}
    assert budget.exceeded("latency_ms", 5.0) == "latency_ms 5 is over 5"
    assert budget.exceeded("latency_ms", 4.9) is None
    assert Budget.parse("latency<2s").limits == {"latency_ms": 2000.0}


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("latency", "'latency' is not a limit: write for example latency<5ms"),
        ("latancy<5ms", r"'latancy' cannot be limited \(did you mean 'latency'\?\)"),
        ("params<10ms", "10ms is no amount; units are k, m, b, g"),
        ("latency<5", "5 is no amount; units are us, ms, s"),
        ("params<0", "allowed is more than 0"),
    ],
)
def test_what_is_no_budget_is_told(text: str, refusal: str) -> None:
    with pytest.raises(ValueError, match=refusal):
        Budget.parse(text)


def test_names_and_wildcards_choose_parts() -> None:
    assert chosen_parts("mixer", "window*, attention") == ("window", "window_mlp", "windowed", "attention")
    assert not set(chosen_parts("mixer", None)) & set(WRAPPERS)
    with pytest.raises(ValueError, match=r"mixer = 'windw' is not possible \(did you mean 'window'"):
        chosen_parts("mixer", "windw")


def test_all_that_is_drawn_can_be_composed() -> None:
    pytest.importorskip("optuna")
    everything = Space(32, 3, chosen_parts("mixer", None), chosen_parts("channel_mixer", None))
    for fields in Search.drawn(everything, lambda fields: None, 20, seed=0):
        assert everything.config(fields).num_classes == 3


def test_a_search_remembers_over_processes(tmp_path) -> None:
    pytest.importorskip("optuna")
    first = Search(tmp_path / "search.db", SPACE, seed=0)
    narrow = first.propose(lambda fields: None if fields["dims"][0] == 32 else "width")
    assert narrow.fields["dims"][0] == 32
    first.finish(narrow.number, 0.5, 3.0, {"curve": [{"epoch": 1}]})
    first.note(narrow.number, {"latency_ms": 4.0})
    begun = first.propose(lambda fields: None)
    again = Search(tmp_path / "search.db", SPACE, seed=0)
    assert [(tried.number, tried.state) for tried in again.tried()] == [(0, "finished"), (1, "begun")]
    assert again.tried()[0].facts["curve"] == [{"epoch": 1}]
    assert again.notes(0) == {"latency_ms": 4.0}
    assert again.rejected.get("width", 0) == first.rejected.get("width", 0)
    again.stop(begun.number, {})
    assert [tried.state for tried in again.tried()] == ["finished", "stopped"]


def test_a_budget_that_nothing_fits_is_told(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("optuna")
    monkeypatch.setattr("ommatid.methods.composing.search.CANDIDATES", 100)
    search = Search(tmp_path / "search.db", SPACE, seed=0)
    with pytest.raises(ValueError, match="none of 100 compositions fits: 100 by latency; allow more in the budget"):
        search.propose(lambda fields: "latency")


def test_a_file_that_is_no_search_is_told(tmp_path) -> None:
    pytest.importorskip("optuna")
    (tmp_path / "search.db").write_text("no database")
    with pytest.raises(ValueError, match="cannot be used as the file of a search"):
        Search(tmp_path / "search.db", SPACE, seed=0)
