from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from ommatid.data import open_pictures
from ommatid.tasks.restoration_metrics import luma, psnr_y, restoration_metrics, ssim_y


@pytest.fixture(scope="module")
def pictures() -> tuple[Tensor, Tensor]:
    """Real photographs, noisy and clean, (3, 3, 96, 96)."""
    data = open_pictures("photographs", degrade="noise 5-40")
    noisy, clean = zip(*(data.val.whole(index, 96) for index in range(3)), strict=True)
    return torch.stack(noisy), torch.stack(clean)


def reference_luma(picture: Tensor, border: int) -> np.ndarray:
    """scikit-image's, of the picture as its 8-bit file would be."""
    stored = np.rint(np.clip(picture.permute(1, 2, 0).double().numpy(), 0, 1) * 255).astype(np.uint8)
    return rgb2ycbcr(stored)[border : stored.shape[0] - border, border : stored.shape[1] - border, 0]


@pytest.mark.parametrize("border", [0, 2, 4])
def test_agree_with_scikit_image(pictures: tuple[Tensor, Tensor], border: int) -> None:
    noisy, clean = pictures
    psnr, ssim = psnr_y(noisy, clean, border), ssim_y(noisy, clean, border)
    for index in range(3):
        ours, theirs = (reference_luma(picture[index], border) for picture in (noisy, clean))
        assert psnr[index].item() == pytest.approx(peak_signal_noise_ratio(theirs, ours, data_range=255), abs=1e-4)
        similarity = structural_similarity(
            theirs, ours, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
        )
        assert ssim[index].item() == pytest.approx(similarity, abs=1e-4)


def test_a_known_error_has_its_known_ratio() -> None:
    clean = torch.full((1, 3, 16, 16), 100 / 255)
    restored = torch.full((1, 3, 16, 16), 110 / 255)
    error = 10 * (65.481 + 128.553 + 24.966) / 255
    assert psnr_y(restored, clean).item() == pytest.approx(20 * np.log10(255 / error), abs=1e-3)
    assert psnr_y(clean[:, :1], restored[:, :1]).item() == pytest.approx(20 * np.log10(255 / 10), abs=1e-3)


def test_luma_runs_from_16_to_235_and_grey_is_itself() -> None:
    assert luma(torch.zeros(1, 3, 1, 1)).item() == pytest.approx(16)
    assert luma(torch.ones(1, 3, 1, 1)).item() == pytest.approx(235)
    assert luma(torch.full((1, 1, 1, 1), 0.4)).item() == 102


def test_what_a_file_cannot_hold_counts_as_what_it_holds() -> None:
    clean = torch.ones(1, 3, 16, 16)
    assert psnr_y(clean + 0.5, clean).item() == 100
    assert psnr_y(clean - 0.4 / 255, clean).item() == 100
    assert psnr_y(clean - 0.6 / 255, clean).item() < 60


def test_equal_pictures_are_perfect_and_finite(pictures: tuple[Tensor, Tensor]) -> None:
    _, clean = pictures
    assert psnr_y(clean, clean).tolist() == [100] * 3
    assert ssim_y(clean, clean).tolist() == pytest.approx([1] * 3)


def test_the_border_is_left_out() -> None:
    clean = torch.rand(1, 3, 20, 20)
    spoilt = clean.clone()
    spoilt[..., :2] = 0
    assert psnr_y(spoilt, clean, 2).item() == 100
    assert psnr_y(spoilt, clean, 1).item() < 40


def test_metrics_are_means_over_pictures_of_any_size(pictures: tuple[Tensor, Tensor]) -> None:
    noisy, clean = pictures
    metrics = pickle.loads(pickle.dumps(copy.deepcopy(restoration_metrics(2))))
    metrics.update(noisy[:2], clean[:2])
    metrics.update(noisy[2:, :, :50], clean[2:, :, :50])
    values = torch.cat((psnr_y(noisy[:2], clean[:2], 2), psnr_y(noisy[2:, :, :50], clean[2:, :, :50], 2)))
    assert metrics.compute()["psnr"].item() == pytest.approx(values.mean().item(), abs=1e-4)
    assert 0 < metrics.compute()["ssim"].item() < 1
    metrics.reset()
    metrics.update(clean, clean)
    assert metrics.compute()["psnr"].item() == 100


def test_too_small_a_picture_is_said_to_be_so() -> None:
    small = torch.rand(1, 3, 12, 30)
    with pytest.raises(ValueError, match="30 x 12 pixels has 26 x 8 left within a border of 2; needed: 11 x 11"):
        ssim_y(small, small, 2)
    with pytest.raises(ValueError, match="needed: 1 x 1"):
        psnr_y(small, small, 6)
