"""Work on a Ray cluster of two workers, and here."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ommatid.workflows.compare import compare
from ommatid.workflows.spread import spread

from .small import TINY, TINY_WORD, photographs
from .test_compare import SETTINGS, read


@pytest.fixture(autouse=True, scope="module")
def functions_of_this_file(two_workers: str) -> None:
    """No package of the workers has them."""
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


def process_of(number: int) -> int:
    if number < 0:
        raise ValueError(f"{number} is not possible: allowed is 0 or more")
    time.sleep(0.3)
    return os.getpid()


@pytest.mark.parametrize("there", [False, True], ids=["here", "two workers"])
def test_results_come_as_they_are_found_and_failures_in_words(there: bool, request: pytest.FixtureRequest) -> None:
    ray = request.getfixturevalue("two_workers") if there else None
    found = {job: (result, failure) for job, result, failure in spread(process_of, [0, 1, -1, 2], ray)}
    assert found.pop(-1) == (None, "-1 is not possible: allowed is 0 or more")
    processes = {process for process, failure in found.values() if failure is None}
    assert len(processes) == (2 if there else 1)
    assert (os.getpid() in processes) is not there


def test_later_jobs_follow_from_earlier_results(two_workers: str) -> None:
    seen: list[int] = []

    def jobs() -> Iterator[int]:
        yield from (1, 2)
        while len(seen) < 3:
            yield 10 + len(seen)

    for job, _, failure in spread(process_of, jobs(), two_workers):
        assert failure is None
        seen.append(job)
    assert set(seen[:2]) == {1, 2}
    assert seen[2:]
    assert max(seen) >= 11


def test_a_comparison_of_a_family_and_a_composition_on_two_workers(two_workers: str, tmp_path: Path) -> None:
    data = photographs(tmp_path / "photographs")
    composition = tmp_path / "mixture.yaml"
    composition.write_text(yaml.safe_dump({"dims": [8, 16], "depths": [1, 1], "mixer": ["window", "attention"]}))
    family = tmp_path / "family.yaml"
    family.write_text(yaml.safe_dump({"model": "pvt_v2", "set": TINY}))
    out = tmp_path / "out"
    compare(data, [TINY_WORD, str(composition), str(family)], ray=two_workers, out=out, **SETTINGS)
    rows = read(out)["runs"]
    assert [(row["family"], row["status"]) for row in rows] == [
        ("pvt_v2", "done"),
        ("pyramid", "done"),
        ("pvt_v2", "done"),
    ]
    assert rows[0]["accuracy"] == rows[2]["accuracy"], "the same model, said in two ways"
    assert rows[1]["run"].startswith("runs/mixture-")
