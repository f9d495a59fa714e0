"""How far a restored picture is from the clean one, as a training makes it smaller.

Each takes (restored, clean), both (B, C, H, W) float, and gives a scalar: a mean over all values.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

CHARBONNIER_EPSILON = 1e-3


def l1(restored: Tensor, clean: Tensor) -> Tensor:
    """Mean absolute difference, of all losses the usual one for the highest PSNR (EDSR, arXiv 1707.02921)."""
    return F.l1_loss(restored.float(), clean)


def charbonnier(restored: Tensor, clean: Tensor) -> Tensor:
    """Mean of sqrt(difference^2 + epsilon^2), an L1 that is smooth around 0 (LapSRN, arXiv 1710.01992)."""
    return torch.hypot(restored.float() - clean, restored.new_tensor(CHARBONNIER_EPSILON, dtype=torch.float32)).mean()


def frequency(restored: Tensor, clean: Tensor) -> Tensor:
    """L1 of the pixels plus L1 of their Fourier coefficients, real and imaginary parts apart (arXiv 2108.05054).

    The transform is orthonormal, so that the weight of both, 1, means the same for every size of picture.
    """
    difference = restored.float() - clean
    coefficients = torch.view_as_real(torch.fft.rfft2(difference, norm="ortho"))
    return difference.abs().mean() + coefficients.abs().mean()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"l1": l1, "charbonnier": charbonnier, "frequency": frequency}
