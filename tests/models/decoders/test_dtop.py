"""DToP as a segmentation network: what it asks its heads, how it learns, and images of any sides."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ommatid.measuring.macs import count_macs
from ommatid.models import create_model

SHAPE: dict[str, Any] = {
    **{"image_size": 64, "patch_size": 8, "dim": 24, "heads": 3, "depth": 4, "head_after": [1, 2, 3]},
    **{"head_dim": 12, "head_heads": 2, "decoder_layers": 2, "num_classes": 4},
}


def network(**changes: Any) -> Any:
    torch.manual_seed(0)
    return create_model("dtop", **SHAPE | changes).eval()


@pytest.fixture
def image() -> Tensor:
    return torch.randn(2, 3, 45, 61, generator=torch.Generator().manual_seed(0))


def test_early_heads_cost_nothing_where_nothing_can_leave(image: Tensor) -> None:
    whole, alone = network(), network(head_after=[3], thresholds=[])
    alone.load_state_dict({name.replace("heads.2.", "heads.0."): value for name, value in _without_early(whole)})
    with torch.no_grad():
        assert torch.equal(whole(image), alone(image))
    assert count_macs(whole.requires_grad_(False), image) == count_macs(alone.requires_grad_(False), image)


def _without_early(model: Any) -> list[tuple[str, Tensor]]:
    early = ("heads.0.", "heads.1.")
    return [(name, value) for name, value in model.state_dict().items() if not name.startswith(early)]


@pytest.mark.parametrize("threshold", [1.0, 0.3, 0.01])
def test_answers_are_logarithms_of_scores(image: Tensor, threshold: float) -> None:
    with torch.no_grad():
        answer = network(thresholds=[threshold] * 2)(image)
    assert answer.shape == (2, 4, 45, 61)
    assert (answer <= 0).all()


def test_whole_patches_are_made_by_black_that_is_cut_off_again(image: Tensor) -> None:
    model = network()
    with torch.no_grad():
        larger = model(F.pad(image, (0, 3, 0, 3)))
        torch.testing.assert_close(model(image), larger[:, :, :45, :61])


def test_tokens_that_left_have_no_say(image: Tensor) -> None:
    """The blocks behind them see the kept ones alone: the answer is as if the others had never been there."""
    model = network(thresholds=[0.2, 1.0])
    with torch.no_grad():
        first, *_, last = model.steps(image[:1])
    stayed = first.left.scatter_kept(48)
    assert 0 < stayed.sum() < 48
    assert torch.equal(last.had.scatter_kept(48), stayed)
    moved = first.canvas != last.canvas
    assert torch.equal(moved.any(1) & ~stayed, torch.zeros_like(stayed)), "an answer changed behind its exit"


def test_its_losses_reach_every_head(image: Tensor) -> None:
    model = network(thresholds=[0.3, 0.3]).train()
    label = torch.randint(0, 4, (2, 45, 61), generator=torch.Generator().manual_seed(0))
    label[:, :5] = 255
    losses = model.losses(image, label)
    assert set(losses) == {"loss_ce", "loss_mask", "loss_dice"}
    sum(losses.values()).backward()
    unused = {name for name, value in model.named_parameters() if value.requires_grad and value.grad is None}
    assert not unused
