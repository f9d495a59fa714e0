"""What holds for every restoration network: pictures of any size come back at the scale, features are views of maps."""

from __future__ import annotations

import pytest
import torch
from subjects import NAMES, Subject, subject

from ommatid.models import families
from ommatid.models.restorer import Restorer

RESTORERS = [(id, name) for id, name in NAMES if issubclass(families()[id].model, Restorer)]


@pytest.fixture(params=RESTORERS, ids="-".join)
def tiny(request: pytest.FixtureRequest) -> Subject:
    return subject(*request.param)


@pytest.mark.parametrize("size", [(1, 1), (1, 37), (19, 23)])
def test_pictures_of_any_size_come_back_at_the_scale(tiny: Subject, size: tuple[int, int]) -> None:
    with torch.no_grad():
        restored = tiny.model(torch.rand(1, 3, *size))
    assert restored.shape == (1, 3, size[0] * tiny.model.scale, size[1] * tiny.model.scale)
    assert torch.isfinite(restored).all()


def test_features_are_views_of_channels_last_maps(tiny: Subject) -> None:
    if not hasattr(tiny.model, "features"):
        pytest.skip("names its features itself")
    with torch.no_grad():
        features = tiny.model.features(tiny.inputs["image"])
    assert all(stage.permute(0, 2, 3, 1).is_contiguous() for stage in features)
