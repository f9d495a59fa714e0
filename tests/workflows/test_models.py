"""models: the list must say of each model what building it would."""

import json
from pathlib import Path

import pytest

from ommatid.models import create_model, families, list_models
from ommatid.models.backbones.vit import ViTConfig
from ommatid.workflows import models
from ommatid.workflows.models import models_table


def test_rows_say_what_the_model_is() -> None:
    (row,) = models_table("pvt_v2_b0")
    assert (row.variant, row.family, row.size) == ("pvt_v2_b0", "pvt_v2", (224, 224))
    assert row.parameters == sum(parameter.numel() for parameter in create_model("pvt_v2_b0").parameters())
    assert row.macs == pytest.approx(570e6, rel=0.02)
    assert row.title == "PVT v2: Improved Baselines with Pyramid Vision Transformer"


def test_a_family_outside_the_catalogue_has_its_modules_first_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "all_systems", lambda: ())
    (row,) = models_table("pvt_v2_b0")
    assert row.title == "PVT v2: a pyramid whose attention reads a coarser copy of its own map."


def test_the_whole_list_has_every_variant_at_its_native_size_and_builds_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "count_parameters", lambda name: pytest.fail(f"{name} was built for a list"))
    rows = {row.variant: row for row in models_table()}
    assert list(rows) == list_models()
    assert rows["swin_base_window12_384"].size == (384, 384)
    assert all(row.parameters > 0 and row.macs is None for row in rows.values())


def test_a_model_of_another_package_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    variants = families()["vit"].variants
    monkeypatch.setitem(variants, "elsewhere_tiny", ViTConfig(dim=8, depth=1, heads=1))
    (row,) = models_table("elsewhere_*")
    model = create_model("elsewhere_tiny")
    assert row.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_a_part_takes_no_image() -> None:
    rows = models_table("ulsam_*")
    assert len(rows) == 5
    assert {(row.size, row.macs) for row in rows} == {(None, None)}


def test_as_json(tmp_path: Path) -> None:
    rows = models_table("swin_*", json_path=tmp_path / "models.json")
    written = json.loads((tmp_path / "models.json").read_text())
    assert [row["variant"] for row in written] == [row.variant for row in rows]
    assert written[0]["size"] == [224, 224]


def test_a_pattern_without_a_match_suggests_names() -> None:
    with pytest.raises(ValueError, match=r"no model matches 'swn_tiny' \(did you mean 'swin_tiny'"):
        models_table("swn_tiny")
