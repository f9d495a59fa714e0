"""Reference checkpoints: what fits is placed, what does not is named."""

import numpy as np
import pytest
import torch

import ommatid
from ommatid.models.reference import changed, from_flax, one_later, rename, zero_based
from ommatid.nn.tokens import resample_sequence

TINY = {"dim": 16, "depth": 1, "heads": 2, "num_classes": 3}


def reference_state(image_size: int) -> dict[str, torch.Tensor]:
    grid = (image_size // 16) ** 2
    shapes = {"cls_token": (1, 1, 16), "pos_embed": (1, 1 + grid, 16), "patch_embed.proj.weight": (16, 3, 16, 16)}
    shapes |= {"patch_embed.proj.bias": (16,), "norm.weight": (16,), "norm.bias": (16,)}
    shapes |= {"head.weight": (3, 16), "head.bias": (3,)}
    block = {"norm1.weight": (16,), "norm1.bias": (16,), "attn.qkv.weight": (48, 16), "attn.qkv.bias": (48,)}
    block |= {"attn.proj.weight": (16, 16), "attn.proj.bias": (16,), "norm2.weight": (16,), "norm2.bias": (16,)}
    block |= {"mlp.fc1.weight": (64, 16), "mlp.fc1.bias": (64,), "mlp.fc2.weight": (16, 64), "mlp.fc2.bias": (16,)}
    shapes |= {f"blocks.0.{name}": shape for name, shape in block.items()}
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def test_everything_placed_from_numpy_too() -> None:
    model = ommatid.create_model("vit", image_size=32, **TINY)
    state = reference_state(32)
    report = ommatid.load_reference(model, {name: np.asarray(value) for name, value in state.items()})
    assert report.complete
    assert report.placed == len(state)
    assert torch.equal(model.head.weight, state["head.weight"])


def test_what_does_not_fit_is_named() -> None:
    model = ommatid.create_model("vit", image_size=32, **TINY)
    state = reference_state(32) | {"head.weight": torch.zeros(5, 16), "extra": torch.zeros(1)}
    del state["norm.bias"]
    report = ommatid.load_reference(model, state)
    assert not report.complete
    assert report.unexpected == ["extra"]
    assert report.missing == ["token_norm.bias"]
    assert "head.weight" in report.mismatched[0]
    assert "1 unexpected: extra" in str(report)


def test_positions_follow_the_image_size() -> None:
    model = ommatid.create_model("vit", image_size=64, **TINY)
    state = reference_state(32)
    assert ommatid.load_reference(model, state).complete
    assert torch.equal(model.sequence.position, resample_sequence(state["pos_embed"], (2, 2), (4, 4)))
    assert torch.equal(model.sequence.position[:, 0], state["pos_embed"][:, 0])


def test_unregistered_models_are_refused() -> None:
    with pytest.raises(ValueError, match="not a registered model"):
        ommatid.load_reference(torch.nn.Linear(2, 2), {})


def test_rules_count_from_zero_and_move_to_the_next_stage() -> None:
    rules = [
        (r"^block(\d)\.(\w+)\.", zero_based("stages.{}.blocks.{}.")),
        (r"^layers\.(\d)\.", one_later("stages.{}.")),
    ]
    assert rename("block1.first.weight", rules) == "stages.0.blocks.first.weight"
    assert rename("layers.1.weight", rules) == "stages.2.weight"


def test_only_tensors_whose_names_match_are_changed() -> None:
    state = changed({"a.table": torch.ones(2), "table.b": torch.ones(2)}, r"\.table$", lambda table: 2 * table)
    assert state["a.table"].tolist() == [2, 2]
    assert state["table.b"].tolist() == [1, 1]


def test_layers_of_flax_compute_the_same_here() -> None:
    """Against sums by the definitions: kernels are (rows, columns, in, out), transposed ones see pixels spread out."""
    kernels = {"a/Dense_0": (4, 5), "a/Conv_0": (3, 3, 4, 5), "a/ConvTranspose_0": (2, 2, 4, 5)}
    flax = {f"{name}/kernel": torch.randn(shape) for name, shape in kernels.items()}
    state = from_flax(flax | {"a/LayerNorm/scale": torch.ones(4), "a/LayerNorm/bias": torch.zeros(4)})
    assert set(state) == {f"{name.replace('/', '.')}.weight" for name in [*kernels, "a/LayerNorm"]} | {
        "a.LayerNorm.bias"
    }
    x = torch.randn(1, 4, 3, 3)
    dense = torch.nn.functional.linear(x[0, :, 1, 1], state["a.Dense_0.weight"])
    torch.testing.assert_close(dense, x[0, :, 1, 1] @ flax["a/Dense_0/kernel"])
    conv = torch.nn.functional.conv2d(x, state["a.Conv_0.weight"])
    torch.testing.assert_close(conv[0, :, 0, 0], torch.einsum("ihw,hwio->o", x[0], flax["a/Conv_0/kernel"]))
    enlarged = torch.nn.functional.conv_transpose2d(x, state["a.ConvTranspose_0.weight"], stride=2)
    spread = torch.zeros(1, 4, 7, 7)
    spread[..., 1::2, 1::2] = x
    convolved = torch.nn.functional.conv2d(spread, flax["a/ConvTranspose_0/kernel"].permute(3, 2, 0, 1))
    torch.testing.assert_close(enlarged, convolved)


def test_a_state_in_the_usual_layout_stays_as_it_is() -> None:
    state = {"Dense_0.weight": torch.randn(5, 4), "Dense_0.bias": torch.randn(5)}
    assert from_flax(state) == state
