"""Sizes of images and maps, and what is said about those that can't be."""

import pytest
import torch

from ommatid.models import create_model
from ommatid.models.sizes import halved, require_at_least, require_exactly, whole_patches


def test_patches_are_whole_and_halves_round_up() -> None:
    assert whole_patches(35, 16) == (2, 2)
    assert whole_patches((35, 15), 16) == (2, 0)
    assert halved((7, 8), 2) == (2, 2)


def test_images_that_do_not_fit_are_refused() -> None:
    image = torch.zeros(1, 3, 8, 6)
    require_at_least(image, 6)
    require_exactly(image, (8, 6))
    with pytest.raises(ValueError, match=r"image size = \(8, 6\) is not possible: allowed is at least 7 a side"):
        require_at_least(image, 7)
    with pytest.raises(ValueError, match=r"allowed is \(8, 8\), fixed by image_size"):
        require_exactly(image, 8)


@pytest.mark.parametrize("name", ["vit", "swin", "vir", "spectformer"])
def test_patches_of_no_size_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="patch_size = 0 is not possible: allowed is a positive integer"):
        create_model(name, patch_size=0)
