"""Every backbone under every decoder: builds, and learns from an image of odd sides.

By default each backbone is under one decoder, in turn; under all: `pytest tests/models/test_segmenters.py -m pairs`.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from subjects import CASES, NAMES

from ommatid.catalog import parity
from ommatid.models import Backbone, create_model, families
from ommatid.models.decoders.segmenter import DECODERS

NOT_OF_THE_BACKBONE = ("in_channels", "num_classes", "drop_path_rate")


def tiny_backbones() -> dict[str, dict[str, Any]]:
    """For each family of backbones of images, the fields of a segmenter on its first reference case."""
    found: dict[str, dict[str, Any]] = {}
    for id, name in NAMES:
        case, family = parity.load_case(CASES / id, name), families()[id]
        config = family.config.from_dict(case.config)
        is_backbone = family.class_of(config) is family.model and issubclass(family.model, Backbone)
        if is_backbone and id not in found and len(case.input_specs["image"]["shape"]) == 4:
            fields = {key: value for key, value in case.config.items() if key not in NOT_OF_THE_BACKBONE}
            in_channels = case.input_specs["image"]["shape"][1]
            found[id] = {"backbone": id, "backbone_fields": fields, "in_channels": in_channels}
    return found


BACKBONES = tiny_backbones()
IN_TURN = [(id, list(DECODERS)[index % len(DECODERS)]) for index, id in enumerate(BACKBONES)]
OTHERS = [(id, decoder) for id in BACKBONES for decoder in DECODERS if (id, decoder) not in IN_TURN]


@pytest.mark.parametrize(
    ("id", "decoder"), [*IN_TURN, *(pytest.param(*pair, marks=pytest.mark.pairs) for pair in OTHERS)]
)
def test_a_segmenter_learns_from_an_image_of_odd_sides(id: str, decoder: str) -> None:
    torch.manual_seed(0)
    model = create_model("segmenter", **BACKBONES[id], decoder=decoder, decoder_dim=8, num_classes=5)
    fixed = model.backbone.image_sizes.fixed
    height, width = (45, 51) if fixed is None else (fixed[0] - 3, fixed[1] - 11)
    image = torch.rand(2, BACKBONES[id]["in_channels"], height, width)
    try:
        logits = model(image)
    except ValueError as refusal:
        if "allowed is" not in str(refusal):
            raise
        pytest.skip(f"takes no such image, and does not say which in `image_sizes`: {refusal}")
    assert logits.shape == (2, 5, height, width)
    logits.square().mean().backward()
    read = [value for name, value in model.named_parameters() if not name.startswith("encoder.backbone.")]
    assert all(value.grad is not None and torch.isfinite(value.grad).all() for value in read)
    reached = [value.grad for value in model.backbone.parameters() if value.grad is not None]
    assert reached
    assert all(torch.isfinite(gradient).all() for gradient in reached)


def test_a_larger_image_than_the_one_size_is_refused_by_that_size() -> None:
    model = create_model("segmenter", **BACKBONES["vir"], num_classes=5)
    with pytest.raises(ValueError, match=r"allowed is up to \(64, 64\), fixed by image_size"):
        model(torch.rand(1, 3, 65, 64))
