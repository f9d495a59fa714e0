from __future__ import annotations

import numpy as np
import pytest
import torch

from ommatid.data.degrade import parse
from ommatid.data.patches import as_tensor, degraded_patch, middle, pair_patch


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def eight_ways(picture: np.ndarray) -> list[torch.Tensor]:
    """(3, H, W) of a picture laid in each of the ways a patch may be."""
    turned = [np.rot90(picture, quarter) for quarter in range(4)]
    return [as_tensor(np.ascontiguousarray(way)) for way in (*turned, *(way[:, ::-1] for way in turned))]


@pytest.mark.parametrize(
    "text", ["bicubic x2", "bicubic x3", "jpeg 30", "defocus 2 + bicubic x2 + jpeg 80", "jpeg 60 + bicubic x4"]
)
def test_a_patch_is_what_the_degraded_whole_has_there(text: str) -> None:
    degradation, picture, side = parse(text), noise(133, 151), 12
    wholes = []
    for clean in eight_ways(picture):
        cut = clean[:, : clean.shape[1] // degradation.scale * degradation.scale]
        cut = cut[:, :, : cut.shape[2] // degradation.scale * degradation.scale]
        wholes.append((degradation(cut, torch.Generator()), clean))
    generator = torch.Generator().manual_seed(0)
    for _ in range(12):
        spoilt, clean = degraded_patch(picture, degradation, side, generator)
        assert spoilt.shape == (3, side, side)
        assert any(found(spoilt, clean, *whole, degradation.scale) for whole in wholes)


def found(spoilt: torch.Tensor, clean: torch.Tensor, degraded: torch.Tensor, picture: torch.Tensor, scale: int) -> bool:
    """Whether the patches come from the same place of the two pictures."""
    side = spoilt.shape[-1]
    tiles = picture.unfold(1, side * scale, scale).unfold(2, side * scale, scale)
    places = (tiles == clean[:, None, None]).flatten(3).all(-1).all(0).nonzero()
    return any(
        torch.allclose(degraded[:, top : top + side, left : left + side], spoilt, atol=1e-5)
        for top, left in places.tolist()
    )


def test_patches_come_from_everywhere_and_in_all_eight_ways() -> None:
    picture, generator = noise(9, 11), torch.Generator().manual_seed(0)
    seen = {degraded_patch(picture, parse("noise 0"), 8, generator)[1].numpy().tobytes() for _ in range(600)}
    assert len(seen) == 8 * 2 * 4


def test_a_patch_as_large_as_the_picture() -> None:
    picture = noise(32, 32)
    spoilt, clean = degraded_patch(picture, parse("bicubic x2"), 16, torch.Generator().manual_seed(0))
    assert spoilt.shape == (3, 16, 16)
    assert any(torch.equal(clean, way) for way in eight_ways(picture))


def test_the_two_patches_of_a_pair_show_the_same() -> None:
    degraded, generator = noise(20, 30), torch.Generator().manual_seed(0)
    clean = degraded.repeat(3, axis=0).repeat(3, axis=1)
    for _ in range(10):
        before, after = pair_patch(degraded, clean, 7, generator)
        assert before.shape == (3, 7, 7)
        assert torch.equal(after, before.repeat_interleave(3, 1).repeat_interleave(3, 2))


@pytest.mark.parametrize(("most", "multiple", "shape"), [(None, 1, (37, 50)), (None, 4, (36, 48)), (20, 3, (18, 18))])
def test_the_middle_has_the_sides_asked_for(most: int | None, multiple: int, shape: tuple[int, int]) -> None:
    assert middle(noise(37, 50), most, multiple).shape[:2] == shape


def test_the_middle_lies_in_the_middle_on_the_grid() -> None:
    rows = np.arange(40, dtype=np.uint8).reshape(40, 1, 1).repeat(40, 1)
    assert middle(rows, 16, 4)[:, 0, 0].tolist() == list(range(12, 28))
    assert middle(rows[:38], 16, 4)[0, 0, 0] % 4 == 0
