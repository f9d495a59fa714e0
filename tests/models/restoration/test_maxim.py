"""What MAXIM does beyond answering: drafts at smaller sizes, pictures that are no multiple, its first weights."""

from typing import Any

import pytest
import torch

import ommatid
from ommatid.nn.cross_gating import CrossGating

TINY: dict[str, Any] = {
    "dim": 8,
    "depth": 2,
    "num_stages": 2,
    "num_groups": 1,
    "supervision_scales": 2,
    "high_res_levels": 1,
    "block_size_hr": (4, 2),
    "grid_size_hr": (2, 4),
    "block_size_lr": (2, 2),
    "bottleneck_blocks": 1,
}


def test_training_sees_the_answers_of_all_stages_at_all_sizes() -> None:
    torch.manual_seed(0)
    model = ommatid.create_model("maxim", **TINY).eval()
    image = torch.rand(1, 3, 17, 30)
    with torch.no_grad():
        answers = model.restorations(image)
        assert torch.equal(answers[0], model(image))
    assert [tuple(answer.shape) for answer in answers] == 2 * [(1, 3, 17, 30), (1, 3, 8, 15)]


def test_a_network_of_one_answer_has_no_drafts() -> None:
    model = ommatid.create_model("dlgsanet", dim=12, groups=1, blocks=1).eval()
    image = torch.rand(1, 3, 5, 6)
    with torch.no_grad():
        (answer,) = model.restorations(image)
        assert torch.equal(answer, model(image))


def test_smaller_pictures_hold_the_pixels_in_the_middle() -> None:
    """A network that adds nothing answers with what came in."""
    model = ommatid.create_model("maxim", **TINY | {"depth": 3, "supervision_scales": 3}).eval()
    for unet in model.stages:
        for answer in unet.answers:
            torch.nn.init.zeros_(answer.weight)
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        _, half, quarter = model.restorations(image)[:3]
    assert torch.equal(half, image[..., 1::2, 1::2])
    assert torch.equal(quarter, image[..., 2::4, 2::4])


def test_pads_to_whole_blocks_and_grids_of_every_level() -> None:
    assert ommatid.create_model("maxim_1s").multiple == (64, 64)
    assert ommatid.create_model("maxim", **TINY).multiple == (8, 8)
    odd = TINY | {"block_size_hr": (3, 5), "grid_size_hr": (2, 1)}
    assert ommatid.create_model("maxim", **odd).multiple == (24, 40)


def test_gates_start_open() -> None:
    model = ommatid.create_model("maxim", **TINY)
    gates = [part for part in model.modules() if isinstance(part, CrossGating)]
    assert gates
    for gate in gates:
        assert (gate.gating_x[1].grid.mixer.bias == 1).all()
        assert 0.01 < gate.gating_x[1].window.mixer.weight.std() < 0.03


@pytest.mark.parametrize(
    "impossible", [{"supervision_scales": 3}, {"dim": 1, "reduction": 1, "input_factor": 1}, {"block_size_hr": (0, 2)}]
)
def test_impossible_configs_are_refused(impossible: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="allowed is"):
        ommatid.create_model("maxim", **TINY | impossible)
