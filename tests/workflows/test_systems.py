"""systems: the catalogue, with what is built here."""

import json
from pathlib import Path

import pytest

from ommatid.workflows.systems import search_systems


def test_built_systems_say_where() -> None:
    (swin,) = (row for row in search_systems("swin") if row.id == "swin")
    assert swin.where == "ommatid.models.backbones.swin"


def test_systems_of_an_area() -> None:
    rows = search_systems(area="restoration")
    assert rows
    assert {row.area for row in rows} == {"restoration"}


def test_a_mistyped_area_names_the_right_one_and_all() -> None:
    with pytest.raises(
        ValueError, match=r"no area is called 'mixr' \(did you mean 'mixer'\?\); areas: backbone, .*vlm"
    ):
        search_systems(area="mixr")


def test_as_json(tmp_path: Path) -> None:
    rows = search_systems("swin", json_path=tmp_path / "systems.json")
    written = json.loads((tmp_path / "systems.json").read_text())
    assert [row["id"] for row in written] == [row.id for row in rows]
