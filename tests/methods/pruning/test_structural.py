"""Pruned models are smaller, answer as the masked ones, and go wherever models go, whatever their family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import ommatid
from ommatid.methods.pruning.dimensions import kept, leaves, new_axis, reshape, split, unify
from ommatid.methods.pruning.structural import Structure, describe, difference, masked, prune, verify

MODELS: dict[str, dict[str, Any]] = {
    "vit": {"image_size": 32, "patch_size": 8, "dim": 32, "depth": 2, "heads": 4},
    "swin": {"image_size": 32, "patch_size": 2, "dims": (16, 32), "depths": (2, 1), "heads": (2, 4), "window_size": 4},
    "convnext": {"dims": (16, 32), "depths": (1, 1)},
    "pvt_v2": {"dims": (16, 32), "depths": (1, 1), "heads": (2, 4)},
    "simplenet": {},
}


def tiny(name: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    if name == "pvt_v2":
        model = ommatid.create_model("pvt_v2_b0", num_classes=5)
    else:
        model = ommatid.create_model(name, num_classes=5, **MODELS[name])
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -0.3, 0.5)
    return model.eval(), torch.rand(1, 3, 32, 32)


@pytest.fixture(params=MODELS, scope="module")
def described(request: pytest.FixtureRequest) -> tuple[nn.Module, torch.Tensor, Structure]:
    model, image = tiny(request.param)
    return model, image, describe(model, image)


def halves(structure: Structure) -> dict[str, torch.Tensor]:
    return {group.name: torch.arange(group.size) % 2 == 0 for group in structure.groups}


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_half_of_every_group_gives_the_masked_models_answers(described) -> None:
    model, image, structure = described
    assert structure.groups
    assert verify(model, structure, halves(structure), image) < 1e-4
    assert count(prune(model, structure, halves(structure))) < 0.6 * count(model)


@pytest.mark.parametrize("lite", [(), (2, 3)])
def test_heads_that_lost_units_keep_the_scale_of_their_scores(lite: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    shape = {"image_size": 32, "patch_size": 8, "dim": 32, "heads": 4, "depth": 3}
    model = ommatid.create_model("dependencyvit", num_classes=5, prune_layers=lite, **shape).eval()
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -0.3, 0.5)
    image = torch.rand(1, 3, 32, 32)
    structure = describe(model, image)
    assert any(group.name.endswith("attention.qkv.weight") for group in structure.groups)
    assert verify(model, structure, halves(structure), image) < 1e-6


def test_masks_change_the_model_at_all(described) -> None:
    model, image, structure = described
    assert difference(masked(model, structure, halves(structure)), model, image) > 1e-3


def test_keeping_everything_changes_nothing(described) -> None:
    model, image, structure = described
    everything = {group.name: torch.ones(group.size, dtype=torch.bool) for group in structure.groups}
    pruned = prune(model, structure, everything)
    with torch.no_grad():
        assert torch.equal(pruned(image), model(image))
    assert count(pruned) == count(model)


def test_pruned_models_save_load_train_and_export(described, tmp_path) -> None:
    model, image, structure = described
    pruned = prune(model, structure, halves(structure))
    pruned.save(tmp_path / "pruned.safetensors")
    loaded = ommatid.load(tmp_path / "pruned.safetensors")
    with torch.no_grad():
        assert torch.equal(loaded(image), pruned(image))
        torch.testing.assert_close(loaded.deploy()(image), pruned(image), rtol=1e-3, atol=1e-3)
    assert [stage.shape[1] for stage in loaded.features(image)] == list(loaded.channels)
    program = torch.export.export(loaded, (image,)).module()
    torch.testing.assert_close(program(image), pruned(image))
    loaded.train()(torch.rand(2, 3, 32, 32)).sum().backward()
    again = prune(loaded.eval(), *second_time(loaded, image))
    assert count(again) < count(loaded)


def second_time(model: nn.Module, image: torch.Tensor):
    structure = describe(model, image)
    return structure, {structure.groups[0].name: torch.arange(structure.groups[0].size) > 0}


def test_one_hidden_unit_is_a_row_its_bias_and_a_column() -> None:
    model, image = tiny("vit")
    structure = describe(model, image)
    group = next(group for group in structure.groups if group.kind == "hidden")
    pruned = prune(model, structure, {group.name: torch.arange(group.size) > 0})
    assert count(model) - count(pruned) == 2 * 32 + 1


def test_one_head_is_its_rows_of_queries_keys_and_values_and_its_columns_of_the_output() -> None:
    model, image = tiny("vit")
    structure = describe(model, image)
    group = next(group for group in structure.groups if group.kind == "heads")
    pruned = prune(model, structure, {group.name: torch.arange(group.size) > 0})
    assert count(model) - count(pruned) == 3 * 8 * 33 + 8 * 32


def test_an_unknown_group_is_refused() -> None:
    model, image = tiny("vit")
    with pytest.raises(ValueError, match="is no group"):
        prune(model, describe(model, image), {"nothing": torch.ones(3, dtype=torch.bool)})


def test_a_view_across_units_keeps_them_all() -> None:
    pair, row = new_axis(2), new_axis(6)
    reshape([pair, row], [3, 4])
    assert leaves(pair)[0].frozen
    assert leaves(row)[0].frozen


def test_axes_whose_parts_are_the_same_become_the_same() -> None:
    one, other = new_axis(3), new_axis(3)
    unify(one + other, other + one)
    assert leaves(one) == leaves(other)


def test_dimensions_follow_views_and_pieces() -> None:
    joint = new_axis(24)
    three, heads, width = reshape([joint], [3, 4, 2])
    unify(heads, new_axis(4))
    heads[0].root.kept = torch.tensor([True, False, True, True])
    assert kept(joint).view(3, 4, 2)[:, 1].sum() == 0
    assert kept(joint).sum() == 18
    pair = new_axis(6)
    first, second = split(pair, [3, 3])
    unify(first, second)
    assert len(leaves(pair)) == 2
    assert leaves(pair)[0] is leaves(pair)[1]
    assert len(three) == len(width) == 1
