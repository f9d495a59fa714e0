"""What holds for every token mixer: a map goes through and so do gradients, or it is refused in one clear line."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ommatid.nn import mixers
from ommatid.nn.mixers import Attention
from ommatid.nn.mixers.ss2d import CrossScan
from ommatid.nn.position import RelativePositionBias

SIZE = (17, 23)
SIZES = [SIZE, (28, 14), (28, 28), (3, 31)]


def arguments(name: str) -> dict[str, Any]:
    """What every mixer is made with, by the names of its parameters; each takes those that have no default."""
    return {
        "bias": RelativePositionBias((5, 5), 4),
        "block_size": 7,
        "cell_size": 4,
        "depthwise": True,
        "dim": 64,
        "grid": SIZE,
        "group_size": 5,
        "groups": 4,
        "halo_size": 2,
        "head_dim": 16,
        "heads": 4,
        "hidden": 32,
        "inner_dim": 64,
        "kernel_size": 3,
        "kernel_sizes": (7, 5, 3, 3),
        "key_dim": 16,
        "levels": 2,
        "max_length": SIZE[0] * SIZE[1],
        "mixer": Attention(64, 4),
        "mlp_dim": 64,
        "order": 3,
        "partial_dim": 16,
        "pretrain_size": SIZE,
        "raft": 2,
        "ratio": 2,
        "reduction": 2,
        "regions": 7,
        "scan": CrossScan(64),
        "shifts": (-1, 0, 1, 2),
        "side": 28,
        "size": SIZE,
        "spectrum": (14, 8),
        "stripe_width": 3,
        "tokens": SIZE[0] * SIZE[1],
        "topk": 4,
        "vertical": True,
        "window": SIZE,
        "window_size": 5,
        **OWN_ARGUMENTS.get(name, {}),
    }


# Where a name stands for something else than in other mixers, or a smaller value tests more.
OWN_ARGUMENTS: dict[str, dict[str, Any]] = {
    "AggregatedAttention": {"window_size": 3},
    "Gridded": {"grid": (5, 7)},
    "RectangleWindowAttention": {"window": (4, 8)},
    "SpatialReductionAttention": {"reduction": nn.Identity()},
    "Windowed": {"window": (5, 7)},
}

# What a mixer reads beside the map.
CONTEXT: dict[str, Callable[[Tensor], tuple[Any, ...]]] = {"GuidedAttention": lambda x: (x.detach().mean(-1),)}


def made(name: str) -> nn.Module:
    make = getattr(mixers, name)
    needed = [key for key, value in inspect.signature(make).parameters.items() if value.default is value.empty]
    given = arguments(name)
    return make(**{key: given[key] for key in needed})


@pytest.mark.parametrize("name", mixers.__all__)
def test_maps_and_gradients_go_through_or_are_refused(name: str) -> None:
    torch.manual_seed(0)
    mixer = made(name)
    taken = 0
    for size in SIZES:
        x = torch.randn(2, *size, 64, requires_grad=True)
        try:
            mixed = mixer(x, *CONTEXT.get(name, lambda x: ())(x))
        except ValueError as error:
            refusal = str(error)
            assert "allowed is" in refusal, refusal
            assert "\n" not in refusal, refusal
            continue
        taken += 1
        assert mixed.shape == x.shape
        mixer.zero_grad()
        mixed.square().mean().backward()
        for gradient in (x.grad, *(parameter.grad for parameter in mixer.parameters())):
            assert gradient is not None
            assert torch.isfinite(gradient).all()
    assert taken, "refuses everything"


@pytest.mark.parametrize("name", mixers.__all__)
def test_says_what_it_is_and_what_it_costs(name: str) -> None:
    mixer = getattr(mixers, name)
    explanation = " ".join(inspect.getdoc(mixer).split())
    assert "arXiv" in explanation, "no source"
    assert "Cost" in explanation, "no cost"
    assert "(B, " in explanation, "no shapes"
    assert inspect.getmodule(mixer).__doc__, "no idea in one line"
