"""Isomer: rows of all images at once are each image's by itself, and the published behaviour is an option."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ommatid.models import create_model
from ommatid.models.decoders.gathering_scattering import GatheringScattering
from ommatid.models.decoders.isomer import saliency

SHAPE: dict[str, Any] = {
    **{"in_dims": [6, 8, 12, 16], "head_dim": 8, "ffn_dim_ratio": 2, "heads": 2, "blocks": 2, "points": 9},
}


def maps(rows: int = 8, columns: int = 8) -> dict[str, Tensor]:
    dims = SHAPE["in_dims"]
    return {f"{name}{i}": torch.randn(3, dims[i], -(-rows >> i), -(-columns >> i)) for name in "xy" for i in range(4)}


def one_image(layer: GatheringScattering, frame: Tensor, flow: Tensor) -> Tensor:
    """The same as its definition says, for maps (H, W, C)."""
    fused = layer.fused(frame, flow)
    heat = layer.heat(fused).sigmoid()
    masks = [heat[..., 0] >= layer.threshold, heat[..., 0] < 1 - layer.threshold]
    if not all(mask.any() for mask in masks):
        return fused
    answer = fused.clone()
    weights = (layer.figure_weights, fused * heat), (layer.ground_weights, fused * (1 - heat))
    for kind, (mask, (weigh, side)) in enumerate(zip(masks, weights, strict=True)):
        tokens, rows = weigh(side).flatten(0, 1).T @ side.flatten(0, 1), fused[mask]
        for part in layer.layers:
            attention, mlp, dim = part.attention, part.mlp, rows.shape[1]
            read, _ = F.multi_head_attention_forward(
                *(rows[:, None], tokens[:, None], tokens[:, None], dim, attention.heads),
                *(attention.qkv.weight[kind], attention.qkv.bias[kind], None, None, False, 0.0),
                *(attention.proj.weight[kind], attention.proj.bias[kind]),
            )
            rows = norm(part.attention_norm, kind, rows + read[:, 0])
            hidden = F.linear(rows, mlp.fc1.weight[kind], mlp.fc1.bias[kind])
            kernel = mlp.kernel[kind][:, None]
            listed = F.conv2d(hidden.T[None, :, :, None], kernel, mlp.bias[kind], padding=1, groups=len(kernel))
            thought = F.linear(listed[0, :, :, 0].T.relu(), mlp.fc2.weight[kind], mlp.fc2.bias[kind])
            rows = norm(part.mlp_norm, kind, rows + thought)
        answer[mask] = rows
    return answer


def norm(layer: Any, kind: int, rows: Tensor) -> Tensor:
    return F.layer_norm(rows, rows.shape[1:], layer.weight[kind], layer.bias[kind])


@pytest.mark.parametrize("threshold", [0.5, 0.6])
def test_all_images_at_once_are_each_by_itself(threshold: float) -> None:
    torch.manual_seed(0)
    layer = GatheringScattering(8, 5, threshold=threshold, heads=2, hidden=16, depth=2).eval()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    frame, flow = torch.randn(4, 5, 7, 8), torch.randn(4, 5, 7, 8)
    with torch.no_grad():
        layer.heat.bias.zero_()
        frame[3] = flow[3] = 0  # no pixel differs from another: one kind, or none
        scattered = layer(frame, flow)
        expected = torch.stack([one_image(layer, *pair) for pair in zip(frame, flow, strict=True)])
    torch.testing.assert_close(scattered.features, expected)
    assert torch.equal(scattered.features[3], scattered.fused[3])
    untouched = (scattered.features == scattered.fused).all(-1)[:3].any()
    assert untouched == (threshold > 0.5)


def test_without_scattering_coarse_levels_only_join_their_maps() -> None:
    torch.manual_seed(0)
    model = create_model("isomer", **SHAPE | {"scattering": False}).train()
    model(**maps()).sum().backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without == model.idle_parameters() != set()


def test_the_answer_is_a_square_of_the_width() -> None:
    model = create_model("isomer", **SHAPE).eval()
    with torch.no_grad():
        logits = model(**maps(rows=10, columns=7))
    assert logits.shape == (3, 1, 28, 28)
    scores = saliency(torch.randn(3, 1, 28, 28), (50, 33))
    assert scores.shape == (3, 1, 50, 33)
    assert scores.amin() == 0
    torch.testing.assert_close(scores.amax((1, 2, 3)), torch.ones(3))


def test_the_network_has_two_backbones() -> None:
    fields = {"part": "network", "backbone": "pvt_v2_b0", "in_dims": [32, 64, 160, 256]}
    model = create_model("isomer", **SHAPE | fields).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, 64, 64), torch.randn(1, 3, 64, 64)).shape == (1, 1, 64, 64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": 0.4}, "threshold = 0.4 .*from 0.5"),
        ({"points": 3}, "points = 3 "),
        ({"heads": 3}, r"heads = 3 .*a divisor of the width \(16\)"),
        ({"in_dims": [4, 4, 4]}, r"in_dims = \(4, 4, 4\).*four"),
    ],
)
def test_what_cannot_be_built_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_model("isomer", **SHAPE | changes)
