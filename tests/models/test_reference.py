"""Reference checkpoints: what fits is placed, what does not is named."""

import numpy as np
import pytest
import torch

import ommatid
from ommatid.models.reference import changed, one_later, rename, zero_based
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
