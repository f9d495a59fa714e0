"""ViDT: every choice of the config learns a scene; patches are those of Swin; masks come back from vectors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from squares import scene

import ommatid
from ommatid.models import create_model
from ommatid.ops.mask_vectors import cropped, mask_vectors, masks_of, pasted

SMALL: dict[str, Any] = {
    "dims": [16, 32, 64, 128],
    "depths": [1, 1, 2, 1],
    "heads": [1, 2, 2, 4],
    "window_size": 4,
    "det_tokens": 8,
    "num_classes": 3,
    "decoder_layers": 2,
    "ffn_dim": 32,
    "points": 2,
}
PLUS = {"epff": True, "vector_dim": 64, "vector_hidden": 32, "iou_aware": True, "token_label": True}
CONFIGS: dict[str, dict[str, Any]] = {
    "plain": SMALL,
    "one_head": SMALL | {"box_refine": False, "iou_aware": True, "cross_stages": [2, 3]},
    "plus": SMALL | PLUS,
    "wo_neck": SMALL | {"method": "vidt_wo_neck", "decoder_dim": 64, "pos_dim": 24},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_learns_a_scene_and_survives_a_file(name: str, tmp_path) -> None:
    image, targets = scene()
    model = create_model("vidt", **CONFIGS[name])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    history = []
    for _ in range(25):
        losses = model.losses(image, targets)
        history.append({key: value.item() for key, value in losses.items()})
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    idle = [key for key, value in model.named_parameters() if value.requires_grad and value.grad is None]
    assert not idle
    first, last = history[0], history[-1]
    assert all(last[key] < first[key] for key in first)
    assert last["classes"] < 0.5 * first["classes"]
    assert last["boxes"] < 0.6 * first["boxes"]
    empty = model.losses(image[1:].expand(2, -1, -1, -1), 2 * targets[1:])
    assert all(value.isfinite() for value in empty.values())
    found = model.eval().detect(image, score_threshold=0.0, most=5)[0]
    assert len(found["boxes"]) == 5
    model.save(tmp_path / "model.safetensors")
    again = ommatid.load(tmp_path / "model.safetensors")
    assert torch.equal(again.detect(image, score_threshold=0.0, most=5)[0]["boxes"], found["boxes"])


def test_patches_are_those_of_swin() -> None:
    model = create_model("vidt", **SMALL | {"in_channels": 3}).eval()
    fields = {name: SMALL[name] for name in ("dims", "depths", "heads", "window_size")}
    swin = create_model("swin", num_classes=0, image_size=256, **fields).eval()
    ours = model.body.state_dict()
    for name in swin.state_dict():
        path = name.replace("stem.patches.", "stem.").replace(".blocks.", ".")
        path = path.replace(".token.inner.", ".token.inner.window.")
        if ".downsample." in path:
            path = f"merging.{int(path.split('.')[1]) - 1}.{path.partition('.downsample.')[2]}"
        if path in ours:
            swin.state_dict()[name].copy_(ours[path])
    image = torch.rand(1, 3, 256, 256)
    with torch.no_grad():
        for mine, theirs in zip(model.seen(image)[0], swin.maps(image), strict=False):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_padding_changes_nothing_that_is_seen() -> None:
    torch.manual_seed(0)
    model = create_model("vidt", **SMALL | {"valid_sizes": [[64, 96]]}).eval()
    image = torch.rand(2, 3, 96, 128)
    noise = image.clone()
    noise[:, :, 64:], noise[:, :, :, 96:] = 5.0, -3.0
    with torch.no_grad():
        mine, other = model(image), model(noise)
    assert all(torch.equal(mine[name], other[name]) for name in mine)


def test_instances_have_masks_within_their_boxes() -> None:
    model = create_model("vidt", **SMALL | PLUS).eval()
    image, _ = scene()
    for found in model.instances(image, score_threshold=0.0, most=5):
        assert found["masks"].shape == (5, 69, 85)
        for mask, (x1, y1, x2, y2) in zip(found["masks"], found["boxes"].tolist(), strict=True):
            rows, columns = mask.nonzero(as_tuple=True)
            assert ((rows + 0.5 >= y1) & (rows + 0.5 <= y2) & (columns + 0.5 >= x1) & (columns + 0.5 <= x2)).all()
    with pytest.raises(ValueError, match="vector_dim = None is not possible"):
        create_model("vidt", **SMALL).instances(image)


def test_masks_come_back_from_vectors() -> None:
    masks = torch.zeros(2, 50, 60, dtype=torch.bool)
    masks[0, 10:30, 20:45] = True
    masks[1, 5:45, 2:50] = True
    masks[1, 20:30, 20:30] = False
    boxes = torch.tensor([[15.0, 5.0, 50.0, 40.0], [0.0, 0.0, 60.0, 50.0]])
    within = cropped(masks, boxes)
    assert torch.equal(masks_of(mask_vectors(within, 128 * 128)), within)
    seen = pasted(masks_of(mask_vectors(within, 256)), boxes, (50, 60))
    assert (seen != masks).float().mean() < 0.01
    with pytest.raises(ValueError, match="length = 0 is not possible: allowed is 1 to 16384"):
        mask_vectors(within, 0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dims": [16, 32, 64]}, "depths = .* one entry for each of the 3 stages"),
        ({"dims": [16, 32, 64, 96]}, "widths each twice the one before"),
        ({"decoder_dim": 128}, "decoder_dim = 128 is not possible: allowed is 256"),
        ({"pos_dim": 128}, "pos_dim = 128 is not possible: allowed is 256"),
        ({"cross_stages": [4]}, "cross_stages = .4,. is not possible"),
        ({"vector_dim": 8}, "vector_hidden = None is not possible"),
        ({"token_label": True, "num_classes": 92}, "num_classes = 92 is not possible: allowed is up to 91"),
    ],
)
def test_what_cannot_be_built_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_model("vidt", **SMALL | fields)
