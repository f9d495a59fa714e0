"""bench: rows for all, errors in their rows, JSON that holds the same."""

import json
from pathlib import Path

import pytest

from ommatid.workflows.bench import bench


def test_a_model_that_fails_is_a_row_and_the_others_go_on(tmp_path: Path) -> None:
    rows = bench(["pvt_v2_bb0", "pvt_v2_b0"], size=64, throughput_batch=2, rounds=2, json_path=tmp_path / "bench.json")
    mistyped, measured = rows
    assert mistyped.measurement is None
    assert "did you mean 'pvt_v2_b0'" in (mistyped.error or "")
    assert measured.error is None
    assert measured.measurement is not None
    assert measured.measurement.size == (64, 64)
    assert measured.measurement.parameters == 3_666_760

    written = json.loads((tmp_path / "bench.json").read_text())
    assert [row["model"] for row in written["rows"]] == ["pvt_v2_bb0", "pvt_v2_b0"]
    assert written["rows"][0]["latency_ms"] is None
    assert written["rows"][1]["latency_ms"] == measured.measurement.latency_ms
    assert written["machine"]["processor"]
    assert written["settings"]["size"] == 64


def test_an_image_too_small_is_the_rows_error() -> None:
    (row,) = bench(["convnext_tiny"], size=8, rounds=1)
    assert row.error is not None
    assert "8" in row.error
    assert row.measurement is None


def test_against_timm_has_a_ratio_and_says_where_there_is_no_peer() -> None:
    pytest.importorskip("timm", reason="timm, the peer, is not installed")
    paired, alone = bench(["vit_tiny", "nat_mini"], size=32, throughput_batch=1, rounds=2, against="timm")
    assert paired.error is None
    assert paired.against is not None
    assert paired.against.name == "timm vit_tiny_patch16_224"
    assert paired.against.ratio > 0
    assert paired.against.error < 1e-5
    assert alone.measurement is not None
    assert alone.error == "timm has no model of the architecture 'nat_mini'"


@pytest.mark.parametrize(
    ("models", "settings", "message"),
    [
        ([], {}, "no models"),
        (["vit_tiny"], {"batch": 0}, "batch = 0"),
        (["vit_tiny"], {"against": "keras"}, "against = 'keras'"),
        (["vit_tiny"], {"device": "abacus"}, "device = 'abacus'"),
    ],
)
def test_impossible_settings_are_one_error_for_all(models: list[str], settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bench(models, **settings)
