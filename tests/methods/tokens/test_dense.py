"""Fewer tokens under a decoder: the map stays whole, full keep changes nothing, and the file says what it is."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import ommatid
from ommatid.measuring.macs import count_macs
from ommatid.methods.reduced import Reduced
from ommatid.methods.tokens import cluster_tokens
from ommatid.methods.tokens.dense import (
    SHARPNESS,
    cluster_backbone,
    leave_early,
    patch_side,
    reduce_backbone,
    went_on,
)
from ommatid.models.dense import DenseModel

VIT = {"patch_size": 8, "dim": 24, "heads": 3, "depth": 3}
PARTS = {"linear": ("segmenter", {"decoder": "linear", "decoder_dim": 16}), "mlp": ("segmenter", {"decoder_dim": 16})}
EXITING = {"patch_size": 8, "dim": 24, "heads": 3, "depth": 4, "head_after": [1, 2, 3], "head_dim": 12, "head_heads": 2}


@pytest.fixture(params=PARTS)
def plain(request: pytest.FixtureRequest) -> DenseModel:
    torch.manual_seed(0)
    family, fields = PARTS[request.param]
    shape = {"backbone": "vit", "backbone_fields": VIT, "image_size": 96, "num_classes": 4}
    model = ommatid.create_model(family, **shape, **fields).eval()
    assert isinstance(model, DenseModel)
    return model


@pytest.fixture
def exiting() -> DenseModel:
    torch.manual_seed(0)
    model = (
        ommatid.create_model("dtop", **EXITING, image_size=96, decoder_layers=2, num_classes=4)
        .eval()
        .requires_grad_(False)
    )
    assert isinstance(model, DenseModel)
    return model


@pytest.fixture
def image() -> Tensor:
    return torch.randn(1, 3, 70, 90, generator=torch.Generator().manual_seed(0))


def test_full_keep_changes_nothing_at_all(plain: DenseModel, exiting: DenseModel, image: Tensor) -> None:
    with torch.no_grad():
        whole = reduce_backbone(plain, partial(cluster_tokens, keep=1.0))
        assert torch.equal(whole(image), plain(image))
        assert torch.equal(leave_early(exiting, threshold=1.0)(image), exiting(image))


def test_less_work_keeps_the_shape_and_survives_saving(plain: DenseModel, image: Tensor, tmp_path) -> None:
    smaller = reduce_backbone(plain, partial(cluster_tokens, keep=0.4))
    smaller.save(tmp_path / "smaller.safetensors")
    loaded = ommatid.load(tmp_path / "smaller.safetensors")
    assert loaded.config == smaller.config
    assert not isinstance(plain.backbone, Reduced), "the model itself was changed"
    with torch.no_grad():
        assert torch.equal(loaded(image), smaller(image))
        assert smaller(image).shape == plain(image).shape
        assert not torch.equal(smaller(image), plain(image))
    assert count_macs(smaller, image) < count_macs(plain, image)


def test_clusters_are_told_apart_by_the_size_of_the_features(plain: DenseModel, image: Tensor) -> None:
    smaller: Any = cluster_backbone(plain, [image], keep=0.4)
    backbone: Any = plain.backbone
    padded = torch.nn.functional.pad(image, (0, 6, 0, 26))
    with torch.no_grad():
        tokens = backbone.blocks[0](backbone.sequence(backbone.stem(padded.permute(0, 2, 3, 1))))[:, 1:]
    temperature = smaller.backbone.config.settings["temperature"]
    assert temperature == pytest.approx(SHARPNESS / tokens.square().sum(-1).mean().item(), rel=0.01)


def test_what_leaves_is_not_computed(exiting: DenseModel, image: Tensor, tmp_path) -> None:
    smaller = leave_early(exiting, threshold=0.01)
    smaller.save(tmp_path / "smaller.safetensors")
    with torch.no_grad():
        assert torch.equal(ommatid.load(tmp_path / "smaller.safetensors")(image), smaller(image))
    assert count_macs(smaller, image) < count_macs(exiting, image)


def test_pictures_say_which_tokens_went_on(plain: DenseModel, exiting: DenseModel, image: Tensor) -> None:
    assert went_on(plain, image) is went_on(exiting, image) is None
    clustered = went_on(reduce_backbone(plain, partial(cluster_tokens, keep=0.25)), image)
    assert clustered is not None
    assert clustered.shape == (1, 12, 12)  # of the image padded to 96 x 96
    assert len(clustered.unique()) <= 36
    assert patch_side(plain) == patch_side(exiting) == 8
    left = went_on(leave_early(exiting, threshold=0.01), image)
    assert left is not None
    assert left.shape == (1, 9, 12)
    assert 0 < (left >= 0).sum() <= 4 * 5  # five of each class stay


def test_what_it_gives_exports(plain: DenseModel, image: Tensor) -> None:
    smaller = reduce_backbone(plain, partial(cluster_tokens, keep=0.4))
    program = torch.export.export(smaller, (image,)).module()
    with torch.no_grad():
        torch.testing.assert_close(program(image), smaller(image), rtol=1e-4, atol=1e-4)


def test_other_networks_are_refused(exiting: DenseModel) -> None:
    backbone = {"dims": [8, 16], "depths": [1, 1], "heads": [1, 2], "window_size": 4}
    pyramid = ommatid.create_model("segmenter", backbone="swin", backbone_fields=backbone)
    assert isinstance(pyramid, DenseModel)
    with pytest.raises(ValueError, match="allowed is a plain transformer"):
        reduce_backbone(pyramid, partial(cluster_tokens, keep=0.5))
    with pytest.raises(ValueError, match="has no backbone"):
        reduce_backbone(exiting, partial(cluster_tokens, keep=0.5))
    with pytest.raises(ValueError, match="allowed is a dtop"):
        leave_early(pyramid, threshold=0.5)
    with pytest.raises(ValueError, match="allowed is above 0, up to 1"):
        leave_early(exiting, threshold=1.5)
