"""What every method on tokens promises: at full keep it changes nothing; less is less; it is a model like any other."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import ommatid
from ommatid.measuring.measure import count_macs
from ommatid.methods.early_exit import exit_early
from ommatid.methods.reduced import Reduced
from ommatid.methods.tokens import (
    cluster_tokens,
    drop_tokens,
    merge_tokens,
    patches,
    prune_dependencies,
    sparsify_attention,
)
from ommatid.methods.tokens.groups import token_groups
from ommatid.methods.tokens.interpreter_training import train_interpreters
from ommatid.methods.tokens.predictor_training import train_predictors
from ommatid.nn.sparse_attention import SparseAttention
from ommatid.nn.trunks.interpreted import InterpretedTrunk
from ommatid.nn.trunks.merging import MergingTrunk
from ommatid.ops.token_merging import sources

Make = Callable[[nn.Module], Reduced]

UNCHANGED: dict[str, Make] = {
    "tome": lambda model: merge_tokens(model, keep=1.0),
    "expedite": lambda model: cluster_tokens(model, keep=1.0),
    "sparsifiner": lambda model: sparsify_attention(model, keep=1.0),
    "early_exit": lambda model: exit_early(model, threshold=1.0),
}
LESS: dict[str, Make] = {
    "tome": lambda model: merge_tokens(model, keep=0.4),
    "tome at first": lambda model: merge_tokens(model, r=[9, 3]),
    "expedite": lambda model: cluster_tokens(model, keep=0.4),
    "ia_red2": drop_tokens,
    "sparsifiner": lambda model: sparsify_attention(model, keep=0.4),
    "early_exit": lambda model: exit_early(model, threshold=-1.0),
}
EXPORTED = sorted(LESS.keys() - {"early_exit"})


@pytest.fixture(params=["vit", "channelvit"])
def plain(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    shape = {"image_size": 24, "patch_size": 4, "dim": 24, "heads": 3, "depth": 4, "num_classes": 5}
    return ommatid.create_model(request.param, **shape).eval()


@pytest.fixture
def image() -> Tensor:
    return torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", UNCHANGED)
def test_full_keep_changes_nothing_at_all(plain: nn.Module, image: Tensor, name: str) -> None:
    reduced = UNCHANGED[name](plain)
    with torch.no_grad():
        assert torch.equal(reduced(image), plain(image))
        assert torch.equal(reduced.tokens(image), plain.tokens(image))


@pytest.mark.parametrize("name", LESS)
def test_less_work_keeps_the_shapes_and_survives_saving(plain: nn.Module, image: Tensor, name: str, tmp_path) -> None:
    reduced = LESS[name](plain)
    reduced.save(tmp_path / "reduced.safetensors")
    loaded = ommatid.load(tmp_path / "reduced.safetensors")
    with torch.no_grad():
        assert torch.equal(loaded(image), reduced(image))
        assert not torch.equal(reduced(image), plain(image))
        assert [map.shape for map in reduced.features(image)] == [map.shape for map in plain.features(image)]
        if name != "sparsifiner":  # its mask is applied by a dense kernel
            assert count_macs(reduced, image) < count_macs(plain, image)


@pytest.mark.parametrize("name", EXPORTED)
def test_what_it_gives_exports(image: Tensor, name: str) -> None:
    torch.manual_seed(0)
    shape = {"image_size": 24, "patch_size": 4, "dim": 24, "heads": 3, "depth": 3, "num_classes": 5}
    reduced = LESS[name](ommatid.create_model("vit", **shape).eval())
    program = torch.export.export(reduced, (image,)).module()
    with torch.no_grad():
        torch.testing.assert_close(program(image), reduced(image), rtol=1e-4, atol=1e-5)


def test_models_without_a_plain_trunk_are_refused() -> None:
    with pytest.raises(ValueError, match="allowed is a plain transformer"):
        merge_tokens(ommatid.create_model("shvit_s1"), r=2)
    reduced = merge_tokens(ommatid.create_model("deit_tiny", num_classes=2), r=2)
    with pytest.raises(ValueError, match="allowed is a plain transformer"):
        cluster_tokens(reduced.model, keep=0.5)


def test_merging_accounts_for_every_patch(plain: nn.Module, image: Tensor) -> None:
    trunk = merge_tokens(plain, keep=0.3).model.blocks
    assert isinstance(trunk, MergingTrunk)
    tokens = torch.randn(2, 1 + patches(plain), 24)
    with torch.no_grad():
        merged = trunk.merged(tokens)
    assert merged.size is not None
    assert merged.place is not None
    assert torch.equal(merged.size.sum((1, 2)), torch.full((2,), float(tokens.shape[1])))
    assert (merged.size[:, 0] == 1).all(), "the class token took something in"
    owners = sources(merged.place, merged.tokens.shape[1])
    assert torch.equal(owners.sum(1), torch.ones_like(owners[:, 0]))
    assert torch.equal(owners.sum(2), merged.size[..., 0])


def test_merging_equal_tokens_changes_nothing() -> None:
    """With proportional attention a merged token counts as its copies would."""
    torch.manual_seed(0)
    model = ommatid.create_model("vit", image_size=32, patch_size=4, dim=24, heads=3, depth=3, num_classes=5).eval()
    pairs = torch.randn(2, 32, 24).repeat_interleave(2, 1)
    tokens = torch.cat([torch.randn(2, 1, 24), pairs], dim=1)
    trunk = merge_tokens(model, r=[32]).model.blocks
    with torch.no_grad():
        torch.testing.assert_close(trunk(tokens, (8, 8)), model.blocks(tokens, (8, 8)), rtol=1e-4, atol=1e-5)


def test_gradients_reach_all_weights_through_merged_tokens(plain: nn.Module, image: Tensor) -> None:
    reduced = merge_tokens(plain, keep=0.4).train()
    reduced(image).sum().backward()
    assert all(parameter.grad is not None for parameter in reduced.parameters())


def test_dropped_patches_have_no_say(image: Tensor) -> None:
    torch.manual_seed(0)
    model = ommatid.create_model("vit", image_size=24, patch_size=4, dim=24, heads=3, depth=3, num_classes=5).eval()
    trunk = drop_tokens(model).model.blocks
    assert isinstance(trunk, InterpretedTrunk)
    for parameter in trunk.interpreters.parameters():
        parameter.data.normal_(0, 0.5)
    tokens = torch.randn(2, 37, 24)
    with torch.no_grad():
        shown = trunk.interpreted(tokens)
        assert all((later <= earlier).all() for earlier, later in zip(shown.policies, shown.policies[1:], strict=False))
        gathered = trunk.first(tokens, (6, 6))
        torch.testing.assert_close(gathered, shown.tokens[:, 0], rtol=1e-4, atol=1e-5)


def test_interpreters_learn_and_the_rest_does_not(image: Tensor) -> None:
    torch.manual_seed(0)
    model = ommatid.create_model("vit", image_size=24, patch_size=4, dim=24, heads=3, depth=3, num_classes=5).eval()
    reduced = drop_tokens(model)
    before = {name: value.clone() for name, value in reduced.state_dict().items()}
    train_interpreters(reduced, lambda: [(image, torch.tensor([0, 1]))] * 3, lr=1e-2)
    changed = {name for name, value in reduced.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(".interpreters." in name for name in changed)


def test_predictors_learn_to_make_the_attention_again(image: Tensor) -> None:
    torch.manual_seed(0)
    model = ommatid.create_model("vit", image_size=24, patch_size=4, dim=24, heads=3, depth=2, num_classes=5).eval()
    reduced = sparsify_attention(model, keep=0.4)
    layer = next(part for part in reduced.modules() if isinstance(part, SparseAttention))
    before = {name: value.clone() for name, value in reduced.state_dict().items()}
    train_predictors(reduced, lambda: [(image, image)] * 3, lr=1e-2)
    changed = {name for name, value in reduced.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(".predictor." in name for name in changed)
    assert layer.mode == "sparse"


def test_the_groups_of_patches_are_those_that_became_one(image: Tensor) -> None:
    torch.manual_seed(0)
    model = ommatid.create_model("vit", image_size=24, patch_size=4, dim=24, heads=3, depth=3, num_classes=5).eval()
    groups = token_groups(merge_tokens(model, r=8), image)
    assert groups is not None
    assert groups.shape == (2, 6, 6)
    assert [len(of_image.unique()) for of_image in groups] == [36 - 3 * 8] * 2
    assert token_groups(sparsify_attention(model, keep=0.5), image) is None


def test_pruning_by_messages_keeps_the_weights() -> None:
    torch.manual_seed(0)
    model = ommatid.create_model("dependencyvit", image_size=24, patch_size=4, dim=24, heads=3, depth=3, num_classes=5)
    image = torch.randn(2, 3, 24, 24)
    none, some = (
        prune_dependencies(model.eval(), layers=[2], ratio=0.0),
        prune_dependencies(model, layers=[2, 3], ratio=0.25),
    )
    with torch.no_grad():
        assert torch.equal(none(image), model(image))
        assert some.tokens(image).shape[1] == 18
