"""MonoDETR: it learns a scene in space, whose things come back from the camera's image."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from ommatid.models import create_model
from ommatid.models.decoders.monodetr_decoding import angle_of, detections, things, unprojected
from ommatid.models.decoders.monodetr_losses import nearest_depths

SMALL: dict[str, Any] = {
    "in_dims": [8, 8, 8],
    "encoder_layers": 1,
    "decoder_layers": 2,
    "ffn_dim": 32,
    "encoder_points": 2,
    "decoder_points": 2,
    "queries": 5,
    "groups": 3,
    "depth_bins": 10,
    "image_size": [64, 96],
    "top_k": 4,
}


def maps() -> list[torch.Tensor]:
    """Of images of 60 by 90 pixels, and focal lengths."""
    torch.manual_seed(0)
    sizes = [(8, 12), (4, 6), (2, 3)]
    return [*(torch.randn(2, 8, *size) for size in sizes), torch.full((2, 1), 700.0)]


def targets() -> list[dict[str, torch.Tensor]]:
    scene = {
        "labels": torch.tensor([2, 0]),
        "boxes": torch.tensor([[0.3, 0.4, 0.1, 0.2, 0.1, 0.2], [0.7, 0.5, 0.2, 0.1, 0.2, 0.3]]),
        "depth": torch.tensor([12.0, 35.0]),
        "sizes": torch.tensor([[1.5, 1.6, 4.0], [1.7, 0.6, 0.8]]),
        "heading_bin": torch.tensor([3, 11]),
        "heading_residual": torch.tensor([0.1, -0.2]),
    }
    return [scene, {name: value[:0] for name, value in scene.items()}]


def test_learns_a_scene_in_all_its_parts() -> None:
    model = create_model("monodetr", **SMALL)
    inputs, wanted = maps(), targets()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    history = []
    for _ in range(25):
        losses = model.losses(*inputs, wanted)
        history.append({name: value.item() for name, value in losses.items()})
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    idle = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    assert not idle
    assert sum(history[-1].values()) < 0.5 * sum(history[0].values())
    empty = model.losses(*inputs, [wanted[1], wanted[1]])
    assert all(value.isfinite() for value in empty.values())


def test_groups_of_queries_do_not_see_one_another() -> None:
    model = create_model("monodetr", **SMALL).eval()
    inputs = maps()
    with torch.no_grad():
        _, all_groups = model.answers(*inputs, groups=3)
        _, first = model.answers(*inputs, groups=1)
    assert all_groups[-1].boxes.shape[1] == 15
    torch.testing.assert_close(all_groups[-1].boxes[:, :5], first[-1].boxes)
    torch.testing.assert_close(all_groups[-1].depth[:, :5], first[-1].depth, rtol=1e-4, atol=1e-4)


def test_a_constant_depth_is_a_third_of_every_answer() -> None:
    model = create_model("monodetr", **SMALL).eval()
    inputs = maps()
    with torch.no_grad():
        model.depth.places.fill_(0.0)  # so that the depth is read off the map alone
        found = []
        for metres in (20.0, 50.0):
            model.depth.bins.fill_(metres)
            found.append(model(*inputs))
    torch.testing.assert_close(found[0]["depth_map"], torch.full((2, 4, 6), 20.0))
    inside = (found[0]["boxes"][..., :2] - 0.5).abs().amax(-1) < 0.5
    rise = (found[1]["depth"] - found[0]["depth"])[..., 0][inside]
    torch.testing.assert_close(rise, torch.full_like(rise, 10.0), rtol=1e-3, atol=1e-2)


def test_maps_that_do_not_halve_are_refused() -> None:
    model = create_model("monodetr", **SMALL)
    f8, f16, f32, focal = maps()
    with pytest.raises(ValueError, match=r"size of f16 = \(3, 6\) is not possible: allowed is \(4, 6\)"):
        model(f8, f16[:, :, :3], f32, focal)
    with pytest.raises(
        ValueError, match=r"top_k = 16 is not possible: allowed is 1 to queries times num_classes \(15\)"
    ):
        create_model("monodetr", **SMALL | {"top_k": 16})


def test_the_nearest_thing_hides_those_behind() -> None:
    corners = torch.tensor([[0.2, 0.0, 2.4, 2.0], [1.0, 0.6, 4.0, 3.0]])
    depths = nearest_depths(corners, torch.tensor([30.0, 10.0]), (3, 4))
    far = math.inf
    assert depths.tolist() == [[30, 10, 10, 10], [30, 10, 10, 10], [far, 10, 10, 10]]
    assert nearest_depths(corners[:0], depths[0, :0], (1, 2)).tolist() == [[far, far]]


def test_things_lie_where_the_camera_saw_them() -> None:
    projection = torch.tensor([[700.0, 0.0, 600.0, 45.0], [0.0, 710.0, 180.0, -3.0], [0.0, 0.0, 1.0, 0.0]])
    places = torch.tensor([[2.0, 1.0, 20.0], [-4.0, 1.5, 33.0]])
    seen = torch.cat([places, torch.ones(2, 1)], dim=1) @ projection.T
    torch.testing.assert_close(unprojected(seen[:, :2] / seen[:, 2:], places[:, 2], projection), places)
    angles = torch.tensor([0.4, 3.0, -3.0, -0.5])
    bins = (angles / (math.pi / 6)).round().long() % 12
    residual = (angles - bins * (math.pi / 6) + math.pi) % (2 * math.pi) - math.pi
    heading = torch.zeros(4, 24)
    heading[range(4), bins], heading[range(4), bins + 12] = 1.0, residual
    torch.testing.assert_close(angle_of(heading), angles)

    model = create_model("monodetr", **SMALL).eval()
    with torch.no_grad():
        found = detections(model(*maps()), 4)
    assert found.shape == (2, 4, 37)
    assert (found[..., 1].diff() <= 0).all()
    told = things(found[0], projection, (384, 1280), torch.zeros(3, 3), score_threshold=0.0)
    assert told["locations"].shape == (4, 3)
    torch.testing.assert_close(told["locations"][:, 2], found[0, :, 6])
    assert (told["rotation"].abs() <= math.pi).all()
    assert not len(things(found[0], projection, (384, 1280), torch.zeros(3, 3), score_threshold=2.0)["labels"])
