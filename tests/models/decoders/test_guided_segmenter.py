"""Self-guided attention on any backbone: logits of every pixel, and losses that reach every part."""

from __future__ import annotations

import pytest
import torch

from ommatid.models import create_model
from ommatid.models.decoders.guided_attention import GuidedAttention

SMALL = {
    "backbone": "swin",
    "backbone_fields": {"dims": [16, 32, 64], "depths": [1, 1, 1], "heads": [1, 2, 4], "window_size": 4},
    "decoder_dim": 8,
    "num_classes": 5,
}


def test_logits_have_the_size_of_the_image_and_losses_reach_every_part() -> None:
    model = create_model("guided_segmenter", **SMALL)
    image, label = torch.rand(2, 3, 45, 61), torch.randint(0, 5, (2, 45, 61))
    label[0] = 255
    assert model(image).shape == (2, 5, 45, 61)
    losses = model.losses(image, label)
    assert all(loss.dim() == 0 and torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    unused = [name for name, value in model.named_parameters() if value.grad is None]
    assert all(name.startswith("encoder.backbone.norm.") for name in unused), unused
    assert all(torch.isfinite(loss) for loss in model.losses(image[:1], label[:1]).values())


def test_stages_of_equal_weights_and_inputs_mean_the_same() -> None:
    decoder = GuidedAttention([8, 8], 8, 3).eval()
    decoder.stages[1].load_state_dict(decoder.stages[0].state_dict())
    with torch.no_grad():
        for level in decoder.stages[0].levels:
            level.proj.weight.zero_()
            level.proj.bias.fill_(1.0)  # the second stage is guided by what the first was
        guided = decoder([torch.rand(1, 8, 8, 8), torch.rand(1, 4, 4, 8)])
    assert guided.losses()["semantic"].abs().max() == 0


def test_a_map_that_cannot_be_halved_twice_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"size of the finest map = \(8, 6\) is not possible: allowed is multiples of 4"
    ):
        GuidedAttention([8], 8, 3)([torch.rand(1, 8, 6, 8)])
