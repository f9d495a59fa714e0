"""Checkpointing leaves answers and gradients alone, or says why it can't."""

import copy

import pytest
import torch

from ommatid.models import create_model
from ommatid.nn.checkpointing import checkpoint_blocks_


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_answers_and_gradients_stay(name: str) -> None:
    torch.manual_seed(0)
    shape = {"vit": {"dim": 16, "depth": 2, "heads": 2, "image_size": 32}}.get(
        name, {"dims": (8, 16), "depths": (1, 2), "heads": (1, 2), "window_size": 4, "image_size": 32}
    )
    plain = create_model(name, num_classes=3, **shape)
    saving = copy.deepcopy(plain)
    checkpoint_blocks_(saving)
    image = torch.rand(2, 3, 32, 32)
    for model in (plain, saving):
        model(image).square().sum().backward()
    for ours, theirs in zip(saving.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


def test_norms_that_count_their_passes_are_refused() -> None:
    model = create_model(
        "slab", arch="slab_swin", dims=(8, 16), depths=(1, 1), heads=(1, 2), attention_types="LS", image_size=32
    )
    with pytest.raises(ValueError, match="ProgressiveNorm"):
        checkpoint_blocks_(model)
