"""experts: loads that add up, regions drawn on images, and the course of the training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import ommatid
from ommatid.measuring.routing import Decision, Tally, observed, readable, routing_layers
from ommatid.workflows.experts import experts
from ommatid.workflows.train import train

from .small import TINY_SWIN_MOE, save_weights

SWIN_MOE = TINY_SWIN_MOE | {"capacity_factor": 0.5}


@pytest.fixture(scope="module")
def run(few_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experts")
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"epochs": 2, "batch": 32, "lr": 1e-3}))
    settings: dict[str, Any] = {"model": "swin_moe", "set": SWIN_MOE, "recipe": recipe, "size": 16}
    return train(few_digits, **settings, out=folder / "run", progress=False).run


def test_the_page_shows_load_regions_and_course(run: Path) -> None:
    result = experts(run, images=2)
    (layer,) = result["layers"]
    assert (layer["name"], layer["experts"]) == ("stage 2, block 2", 4)
    assert sum(layer["load"]) == pytest.approx(1)
    assert layer["dropped"] >= 0.5 - 1e-6  # half of a fair share is all that experts take
    assert 0 < layer["balance"] <= 1 + 1e-9
    page = Path(result["report"]).read_text()
    assert page.count("<img ") == 2 * 2
    assert "Balance over training" in page
    history = json.loads((run / "experts.json").read_text())
    assert [row["epoch"] for row in history] == [1, 2]
    assert experts(run, images=0)["images"] == []


def test_a_model_without_experts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pvt_v2 has no experts"):
        experts(save_weights(tmp_path / "weights.safetensors", ("0", "1", "2")), "digits")


PATHWAYS = {"depths": (1,), "router_depths": (1,), "num_experts": 3, "ratio": 0.25}
HEADS = {
    "part": "module",
    "dim": 16,
    "heads": 4,
    "resolution": (3, 4),
    "sr_ratio": 1,
    "shared_head": 1,
    "routed_head": 2,
}


@pytest.mark.parametrize(
    ("name", "fields", "shape", "grid"),
    [("adv_moe", PATHWAYS, (2, 3, 8, 8), (1, 1)), ("moh", HEADS, (2, 12, 16), (3, 4))],
)
def test_other_kinds_of_routing_are_seen(
    name: str, fields: dict[str, Any], shape: tuple[int, ...], grid: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    model = ommatid.create_model(name, **fields).eval()
    assert list(routing_layers(model).values()) == [3]
    seen: list[Decision] = []
    with observed(model, lambda _layer, decision: seen.append(decision)), torch.no_grad():
        model(torch.rand(shape))
    (decision,) = seen
    assert decision.grid == grid
    assert decision.kept.shape == (2, grid[0] * grid[1], 3)
    assert decision.kept.gather(2, decision.first.unsqueeze(2)).all()


def test_a_tally_of_even_work_is_balanced() -> None:
    chosen = torch.eye(4, dtype=torch.bool).expand(3, 4, 4)
    tally = Tally(4)
    tally.add(Decision(None, torch.full((3, 4, 4), 0.25), chosen, chosen, chosen.long().argmax(2)))
    found = tally.summary()
    assert found["load"] == [0.25] * 4
    assert (found["balance"], found["entropy"], found["dropped"]) == (pytest.approx(1), pytest.approx(1), 0)


def test_names_are_readable() -> None:
    assert readable("stages.2.blocks.11.channel.inner") == "stage 3, block 12"
    assert readable("router") == "router"
