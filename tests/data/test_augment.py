from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ommatid.data import MEAN, STD, Augmentation, batch_mix, eval_transform, train_transform

STILL = Augmentation(crop="centre", flip=0)


def noise(width: int = 32, height: int = 32) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def as_pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def test_an_image_of_the_right_size_is_only_normalised() -> None:
    image = noise()
    expected = (as_pixels(image) / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    for transform in (eval_transform(32), train_transform(STILL, 32)):
        assert torch.allclose(transform(image), expected, atol=1e-6)


def test_evaluation_takes_the_centre_square() -> None:
    image = noise(48, 32)
    assert torch.equal(eval_transform(32)(image), eval_transform(32)(image.crop((8, 0, 40, 32))))


@pytest.mark.parametrize("size", [(8, 8), (33, 50), (1, 1), (1, 5000), (300, 200)])
@pytest.mark.parametrize("crop", ["resized", "padded", "centre"])
def test_any_image_becomes_the_size_asked_for(size: tuple[int, int], crop: str) -> None:
    aug = Augmentation(crop=crop, rand_augment=9, erasing=0.5)
    for transform in (eval_transform(24), train_transform(aug, 24)):
        tensor = transform(noise(*size))
        assert (tensor.shape, tensor.dtype) == ((3, 24, 24), torch.float32)
        assert tensor.isfinite().all()


def test_padded_crop_moves_the_image() -> None:
    image = noise(8, 8)
    padded = torch.nn.functional.pad(as_pixels(image), (2, 2, 2, 2))
    places = [padded[:, top : top + 8, left : left + 8] for top in range(5) for left in range(5)]
    transform = train_transform(Augmentation(crop="padded", crop_padding=2, flip=0), 8)
    moved = [transform.pixels(image) for _ in range(500)]
    seen = {next(i for i, place in enumerate(places) if torch.equal(place, one)) for one in moved}
    assert seen == set(range(25))


def test_flip_has_its_probability() -> None:
    image = noise(4, 4)
    transform = train_transform(Augmentation(crop="centre", flip=0.25), 4)
    flipped = [torch.equal(transform.pixels(image), as_pixels(image).flip(-1)) for _ in range(2000)]
    assert 0.2 < np.mean(flipped) < 0.3


def test_erasing_paints_what_normalises_to_zero() -> None:
    transform = train_transform(Augmentation(crop="centre", flip=0, erasing=1), 32)
    changed = (transform(noise()) - eval_transform(32)(noise())) != 0
    erased = transform(noise())[transform(noise()).abs() < 0.01]
    assert changed.any()
    assert len(erased) >= 0.02 * 3 * 32 * 32


def test_augmentation_is_drawn_from_the_global_generator() -> None:
    transform = train_transform(Augmentation(rand_augment=9, erasing=0.5), 32)
    drawn = [transform(noise()) for seed in (1, 1, 2) if torch.manual_seed(seed)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_the_same_settings_come_back_from_their_dict() -> None:
    aug = Augmentation(erasing=0.1, mixup=0.2)
    assert Augmentation(**asdict(aug)) == aug


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("crop", "random"),
        ("crop_scale", (0.5, 0.2)),
        ("crop_padding", -1),
        ("flip", 2),
        ("rand_augment", 31),
        ("rand_augment_ops", 0),
        ("erasing", -0.5),
        ("mixup", -1),
        ("cutmix", float("nan")),
    ],
)
def test_settings_out_of_range(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"augmentation {field} is .*; allowed: "):
        Augmentation(**{field: value})


def test_no_mix_where_neither_is_on() -> None:
    assert batch_mix(Augmentation(), 10) is None


@pytest.mark.parametrize("strengths", [{"mixup": 1.0}, {"cutmix": 1.0}, {"mixup": 0.5, "cutmix": 1.0}])
def test_mixed_labels_stay_a_distribution(strengths: dict[str, float]) -> None:
    mix = batch_mix(Augmentation(**strengths), 3)
    assert mix is not None
    images, targets = mix(torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0]))
    assert (images.shape, targets.shape) == ((4, 3, 8, 8), (4, 3))
    assert torch.allclose(targets.sum(1), torch.ones(4))


def test_mixed_images_carry_their_labels_share() -> None:
    images = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)])
    for strengths in ({"mixup": 1.0}, {"cutmix": 1.0}):
        mix = batch_mix(Augmentation(**strengths), 2)
        assert mix is not None
        mixed, targets = mix(images, torch.tensor([0, 1]))
        assert torch.allclose(mixed.mean((1, 2, 3)), targets[:, 1], atol=1e-5)
