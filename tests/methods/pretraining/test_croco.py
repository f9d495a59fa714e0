"""Completion from another view: what is seen, and what is not."""

from __future__ import annotations

import pytest
import torch

import ommatid
from ommatid.methods.pretraining.croco_v2 import CrossViewCompletion, random_hidden
from ommatid.models.modules.croco_v2 import CroCoConfig, CrossViewTransformer

SIZES = {
    "encoder_dim": 16,
    "encoder_depth": 2,
    "encoder_heads": 2,
    "decoder_dim": 16,
    "decoder_depth": 2,
    "decoder_heads": 2,
}


@pytest.fixture(params=["cosine", "RoPE100"])
def learner(request: pytest.FixtureRequest) -> CrossViewCompletion:
    torch.manual_seed(0)
    config = CroCoConfig(image_size=32, patch_size=8, position=request.param, **SIZES)
    return CrossViewCompletion(CrossViewTransformer(config)).eval()


def test_hidden_pixels_are_not_seen_and_the_other_view_is(learner: CrossViewCompletion) -> None:
    first, second, hidden = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32), random_hidden(torch.rand(2, 16), 0.5)
    pixels = hidden.view(2, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    answer = learner(first, second, hidden)
    assert torch.equal(learner(first.masked_fill(pixels, 5.0), second, hidden), answer)
    assert not torch.allclose(learner(first, second.flip(0), hidden), answer, atol=1e-3)


def test_nothing_hidden_needs_no_token(learner: CrossViewCompletion) -> None:
    first, second, hidden = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32), random_hidden(torch.rand(1, 16), 0.0)
    answer = learner(first, second, hidden)
    with torch.no_grad():
        learner.token.add_(1)
    assert torch.equal(learner(first, second, hidden), answer)
    assert learner.loss(first, second, hidden) == 0


def test_every_image_hides_the_same_number_of_patches() -> None:
    assert (random_hidden(torch.rand(5, 25), 0.9).sum(1) == 22).all()


def test_rotations_take_any_size_of_whole_steps_and_tables_one() -> None:
    sizes = SIZES | {"function": "downstream", "layer_dims": (4, 4, 4, 4), "feature_dim": 8, "last_dim": 4}
    rotating = ommatid.create_model("croco_v2", image_size=32, **sizes)
    image = torch.rand(1, 3, 64, 32)
    assert rotating(image, image).shape == (1, 2, 64, 32)
    with pytest.raises(ValueError, match="even sides"):
        rotating(image[..., :48, :], image[..., :48, :])
    added = ommatid.create_model("croco_v2", image_size=32, position="cosine", **sizes)
    with pytest.raises(ValueError, match="fixed by image_size"):
        added(image, image)


@pytest.mark.parametrize(
    ("field", "value"), [("position", "rope"), ("encoder_heads", 3), ("hooks", (0, 1, 2, 9)), ("patch_size", 8)]
)
def test_impossible_networks_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        CroCoConfig(**SIZES | {"function": "downstream", field: value})
