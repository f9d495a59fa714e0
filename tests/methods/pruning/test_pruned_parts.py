"""Every part that lost units answers as the masked original, whatever its weights: no constant follows what is left."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

import ommatid
from ommatid.methods.pruning.structural import Structure, describe, difference, masked, prune
from ommatid.nn.parts import Role, parts

ROLES: tuple[Role, Role] = ("mixer", "channel_mixer")
PARTS = [(role, name) for role in ROLES for name in parts(role) if name != "none"]
SCALED = ("conv_projection", "masked_attention", "retention")
"""Mixers whose scale is a number that they multiply with, and whose width can be pruned."""

INSIDE = ".inner."
"""In the names of what belongs to the part, and not to the model around it."""


class Subject(NamedTuple):
    """A model whose only block holds one part; weights so large that a wrong scale of anything shows."""

    model: nn.Module
    structure: Structure
    image: Tensor

    def inner_groups(self) -> list[str]:
        """Names of the groups that have units inside of the part."""
        groups = self.structure.groups
        return [group.name for group in groups if any(INSIDE in name for name, _ in group.members)]

    def reasons(self) -> list[str]:
        """Why what belongs to the part stays whole."""
        tensors = [name for name in self.structure.axes if INSIDE in name]
        return list(dict.fromkeys(why for name in tensors for why in self.structure.reasons(name)))


@pytest.fixture(params=PARTS, ids=["-".join(part) for part in PARTS], scope="module")
def subject(request: pytest.FixtureRequest) -> Subject:
    role, name = request.param
    torch.manual_seed(0)
    shape = {"image_size": 32, "patch_size": 4, "dims": (32,), "depths": (1,), "head_dim": 8, "mlp_ratios": 2.0}
    chosen = {"mixer": "none", "channel_mixer": "none"} | {role: name}
    model = ommatid.create_model("pyramid", num_classes=5, **shape, **chosen).eval()
    image = torch.rand(1, 3, 32, 32)
    # With weights of zero no scale matters: what is found is all that tracing offers.
    structure = describe(without_weights(model), image)
    return Subject(with_large_weights(model), structure, image)


@torch.no_grad()
def without_weights(model: nn.Module) -> nn.Module:
    emptied = copy.deepcopy(model)
    for parameter in emptied.parameters():
        parameter.zero_()
    return emptied


@torch.no_grad()
def with_large_weights(model: nn.Module) -> nn.Module:
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            value.add_(torch.empty_like(value).uniform_(0.0 if "running_var" in name else -0.3, 0.5))
    return model


def scaled_anew(model: nn.Module) -> nn.Module:
    """As if what is scaled by the width of heads had half of it."""
    copied = copy.deepcopy(model)
    for module in copied.modules():
        if isinstance(getattr(module, "scale", None), float):
            module.scale *= 2**0.5
    return copied


def halves(structure: Structure, names: list[str]) -> dict[str, Tensor]:
    """Every other unit of the groups of these names."""
    sizes = {group.name: group.size for group in structure.groups}
    return {name: torch.arange(sizes[name]) % 2 == 0 for name in names}


def test_half_of_each_group_gives_the_masked_models_answers(subject: Subject) -> None:
    model, structure, image = subject
    exact, picture = copy.deepcopy(model).double(), image.double()
    errors = {}
    for group in structure.groups:
        kept = halves(structure, [group.name])
        errors[group.name] = difference(prune(exact, structure, kept), masked(exact, structure, kept), picture)
    assert all(error < 1e-5 for error in errors.values()), errors
    if not subject.inner_groups():
        reasons = subject.reasons()
        assert reasons or not any(axes for name, axes in structure.axes.items() if INSIDE in name)
        pytest.skip("; ".join(reasons) or "it has no weights")


@pytest.mark.parametrize("subject", [("mixer", name) for name in SCALED], indirect=True)
def test_a_scale_of_the_width_that_is_left_would_show(subject: Subject) -> None:
    model, structure, image = subject
    kept = halves(structure, subject.inner_groups())
    assert difference(scaled_anew(prune(model, structure, kept)), masked(model, structure, kept), image) > 1e-3


def test_pruned_parts_save_load_and_deploy(subject: Subject, tmp_path: Path) -> None:
    model, structure, image = subject
    pruned = prune(model, structure, halves(structure, [group.name for group in structure.groups])).eval()
    pruned.save(tmp_path / "pruned.safetensors")
    loaded = ommatid.load(tmp_path / "pruned.safetensors")
    with torch.no_grad():
        assert torch.equal(loaded(image), pruned(image))
        torch.testing.assert_close(loaded.deploy()(image), pruned(image), rtol=1e-3, atol=1e-3)
