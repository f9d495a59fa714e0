"""PSNR and SSIM as the super-resolution literature counts them: on luma, in 8 bits, without the border.

A restored picture is what its 8-bit file would be. Luma is that of BT.601 in video range, 16 to 235, not rounded again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

SSIM_SIGMA, SSIM_WINDOW = 1.5, 11
"""Of the Gaussian that SSIM looks through, in pixels (Wang et al., 2004)."""

SSIM_EDGE = SSIM_WINDOW // 2

PERFECT = 100.0
"""PSNR, in dB, of a picture that equals the clean one, for which it would be infinite."""


def psnr_y(restored: Tensor, clean: Tensor, border: int = 0) -> Tensor:
    """Peak signal-to-noise ratio of each picture (B,), in dB, the peak being 255.

    restored, clean: (B, 3, H, W), or (B, 1, H, W) grey, 0 to 1. border: pixels along each side that are left out, in
    super-resolution as many as its factor. Raises ValueError where nothing is left.
    """
    ours, theirs = _luma_within(restored, border, 1), _luma_within(clean, border, 1)
    ratio = peak_signal_noise_ratio(ours, theirs, data_range=255.0, reduction="none", dim=(1, 2, 3))
    return ratio.clamp(max=PERFECT)


def ssim_y(restored: Tensor, clean: Tensor, border: int = 0) -> Tensor:
    """Mean structural similarity of each picture (B,), 1 for equal ones, where the whole window lies in the picture.

    Arguments as of `psnr_y`; at least 11 pixels have to be left along both axes.
    """
    ours, theirs = _luma_within(restored, border, SSIM_WINDOW), _luma_within(clean, border, SSIM_WINDOW)
    _, similarity = structural_similarity_index_measure(
        ours, theirs, sigma=SSIM_SIGMA, kernel_size=SSIM_WINDOW, data_range=255.0, return_full_image=True
    )
    # The library's mean counts windows over a mirrored border too; the literature's does not.
    return similarity[..., SSIM_EDGE:-SSIM_EDGE, SSIM_EDGE:-SSIM_EDGE].mean(dim=(1, 2, 3))


class MeanOverPictures(MeanMetric):
    """The mean of what `measure(restored, clean)` gives for each picture (B,)."""

    def __init__(self, measure: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.measure = measure

    def update(self, restored: Tensor, clean: Tensor) -> None:  # type: ignore[override]
        super().update(self.measure(restored, clean))


def restoration_metrics(border: int) -> MetricCollection:
    """`psnr` and `ssim`, means over pictures; updated by (restored, clean), arguments as of `psnr_y`."""
    return MetricCollection(
        {
            "psnr": MeanOverPictures(partial(psnr_y, border=border)),
            "ssim": MeanOverPictures(partial(ssim_y, border=border)),
        },
        compute_groups=False,
    )


def luma(picture: Tensor) -> Tensor:
    """(B, 3 or 1, H, W) float, 0 to 1 -> (B, 1, H, W), 16 to 235; of grey, its 8-bit values."""
    eight_bit = (picture.float() * 255).round().clamp(0, 255)
    if picture.shape[1] == 1:
        return eight_bit
    red, green, blue = eight_bit.split(1, dim=1)
    return 16 + (65.481 * red + 128.553 * green + 24.966 * blue) / 255


def _luma_within(picture: Tensor, border: int, least: int) -> Tensor:
    height, width = (side - 2 * border for side in picture.shape[-2:])
    if min(height, width) < least:
        raise ValueError(
            f"a picture of {picture.shape[-1]} x {picture.shape[-2]} pixels has {width} x {height} left within a "
            f"border of {border}; needed: {least} x {least} or more"
        )
    return luma(picture[..., border : border + height, border : border + width])
