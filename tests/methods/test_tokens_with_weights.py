"""Every method on tokens together with every method on weights, in either order."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import ommatid
from ommatid.measuring.macs import count_macs
from ommatid.methods.pruning.registry import METHODS as ALL_WEIGHT_METHODS
from ommatid.methods.pruning.registry import Task, nonzero
from ommatid.methods.reduced import Reduced
from ommatid.methods.tokens.groups import token_groups
from ommatid.workflows.reduce_classifier import METHODS as TOKEN_METHODS

WEIGHT_METHODS = {name: method for name, method in ALL_WEIGHT_METHODS.items() if method.prepare is not None}
NEUTRAL = {name: 1.0 for name in TOKEN_METHODS if name != "ia_red2"}
"""Settings that change nothing; interpreters drop what they are not sure of at any."""

LEARNED = ("interpreters.", "predictor.")
"""What methods on tokens bring with them."""

IMAGES = torch.rand(4, 3, 24, 24, generator=torch.Generator().manual_seed(0))
BATCHES = [(IMAGES, torch.arange(4))]

pairs = pytest.mark.parametrize(
    ("weights", "tokens"), [(weights, tokens) for weights in WEIGHT_METHODS for tokens in TOKEN_METHODS]
)


@pytest.fixture
def plain() -> nn.Module:
    torch.manual_seed(0)
    return ommatid.create_model("vit", image_size=24, patch_size=4, dim=24, heads=3, depth=3, num_classes=4).eval()


def lighter(model: nn.Module, name: str, fraction: float = 0.7) -> nn.Module:
    """With fewer weights or units."""
    parameters = nonzero(model)
    task = Task(BATCHES, lambda model: count_macs(model, IMAGES[:1]), lambda model: nonzero(model) / parameters)
    prepare = WEIGHT_METHODS[name].prepare
    assert prepare is not None
    return prepare(model, task)(fraction).model.eval()


def shorter(model: nn.Module, name: str, setting: float | None = None) -> Reduced:
    """With fewer tokens."""
    torch.manual_seed(0)
    method = TOKEN_METHODS[name]
    return method.make(
        model, method.settings[-1] if setting is None else setting, lambda: BATCHES, method.epochs
    ).eval()


def own_weights(model: nn.Module) -> int:
    """Those that are not zero, without what methods on tokens brought."""
    found = {name: value for name, value in model.named_parameters() if not any(part in name for part in LEARNED)}
    return sum(int(torch.count_nonzero(value)) for value in found.values())


def answers(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(IMAGES)


def assert_sound(model: Reduced, folder: Path) -> None:
    """It answers, and does so after it was saved too, and its zeros stay zero in training."""
    expected = answers(model)
    assert expected.shape == (4, 4)
    assert expected.isfinite().all()
    model.save(folder / "both.safetensors")
    loaded = ommatid.load(folder / "both.safetensors")
    assert torch.equal(answers(loaded), expected)
    assert own_weights(loaded) == own_weights(model)
    for subject in (model, loaded):
        loss = subject.train()(IMAGES).square().sum()
        loss.backward()
        learning = torch.optim.SGD([value for value in subject.parameters() if value.grad is not None], 1e-3)
        before = {name: value == 0 for name, value in subject.named_parameters() if value.dim() > 1}
        learning.step()
        if getattr(subject, "sparse", ()):
            assert all((subject.get_parameter(name)[before[name]] == 0).all() for name in subject.sparse)


def groups_of(model: Reduced) -> list[int] | None:
    """How many tokens each image is left with, where the method joins them."""
    found = token_groups(model, IMAGES)
    return None if found is None else [len(of_image.unique()) for of_image in found]


@pairs
def test_fewer_weights_then_fewer_tokens(plain: nn.Module, weights: str, tokens: str, tmp_path: Path) -> None:
    light = lighter(plain, weights)
    assert own_weights(light) < own_weights(plain)
    both, alone = shorter(light, tokens), shorter(plain, tokens)
    assert own_weights(both) == own_weights(light)
    if tokens in ("tome", "expedite"):
        assert groups_of(both) == groups_of(alone)
        assert count_macs(both, IMAGES) < count_macs(light, IMAGES)
        assert count_macs(both, IMAGES) <= count_macs(alone, IMAGES)
    assert_sound(both, tmp_path)


@pairs
def test_fewer_tokens_then_fewer_weights(plain: nn.Module, weights: str, tokens: str, tmp_path: Path) -> None:
    short = shorter(plain, tokens)
    both = lighter(short, weights)
    assert isinstance(both, Reduced)
    assert own_weights(both) < own_weights(short)
    if tokens in ("tome", "expedite"):
        assert groups_of(both) == groups_of(short)
    assert_sound(both, tmp_path)


@pytest.mark.parametrize("weights", WEIGHT_METHODS)
@pytest.mark.parametrize("tokens", NEUTRAL)
def test_what_is_to_remove_no_tokens_changes_nothing(plain: nn.Module, weights: str, tokens: str) -> None:
    light = lighter(plain, weights)
    assert torch.equal(answers(shorter(light, tokens, NEUTRAL[tokens])), answers(light))


@pytest.mark.parametrize("weights", [name for name in WEIGHT_METHODS if name != "2:4"])
@pytest.mark.parametrize("tokens", TOKEN_METHODS)
def test_what_is_to_remove_no_weights_changes_nothing(plain: nn.Module, weights: str, tokens: str) -> None:
    short = shorter(plain, tokens)
    expected = answers(short)
    assert torch.equal(answers(lighter(short, weights, fraction=1.0)), expected)
