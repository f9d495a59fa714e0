"""Token labelling: what a training step reads."""

import pytest
import torch

from ommatid.models import create_model

TINY = {
    "arch": "hierarchical",
    "image_size": 64,
    "stem_dim": 8,
    "dims": (8, 8, 16, 16),
    "depths": (1, 1, 1, 1),
    "heads": (1, 1, 2, 2),
    "mlp_ratios": (2, 2, 2, 2),
    "num_classes": 5,
}


def test_token_labelling_gives_logits_for_every_token() -> None:
    model = create_model("spectformer", token_label=True, **TINY)
    labelling = model.token_labelling(torch.rand(2, 3, 64, 64))
    assert labelling.logits.shape == (2, 5)
    assert labelling.token_logits.shape == (2, 4, 5)
    assert 0 <= labelling.box.top <= labelling.box.bottom <= 2


def test_token_labelling_needs_the_classifier_of_tokens() -> None:
    model = create_model("spectformer", **TINY)
    with pytest.raises(ValueError, match="token_label = False is not possible"):
        model.token_labelling(torch.rand(2, 3, 64, 64))
