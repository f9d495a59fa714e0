"""The colours of one picture in another: what makes noise of the right colours."""

from __future__ import annotations

import torch
from torch import Tensor


def coral(source: Tensor, target: Tensor) -> Tensor:
    """The source with the colour statistics of the target: (C, h, w) and (C, h', w') -> (C, h, w).

    Means, standard deviations and the correlations of channels are matched. "Return of Frustratingly Easy Domain
    Adaptation" (arXiv 1511.05547), as NeuroFovea ("Towards Metamerism via Foveated Style Transfer", arXiv 1705.10041)
    has it: scatters are sums over pixels, plus the identity.
    """
    scores, _, _ = _standardised(source)
    target_scores, mean, deviation = _standardised(target)
    matched = _root(target_scores) @ torch.linalg.inv(_root(scores)) @ scores
    return (matched * deviation + mean).view(source.shape).to(source.dtype)


def _standardised(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (C, pixels), means and standard deviations (C, 1), in float64."""
    pixels = image.flatten(1).double()
    mean, deviation = pixels.mean(1, keepdim=True), pixels.std(1, keepdim=True)
    return (pixels - mean) / deviation, mean, deviation


def _root(scores: Tensor) -> Tensor:
    """(C, C): the square root of the scatter of scores, plus the identity."""
    scatter = scores @ scores.T + torch.eye(len(scores), dtype=scores.dtype, device=scores.device)
    left, values, right = torch.linalg.svd(scatter)
    return left * values.sqrt() @ right
