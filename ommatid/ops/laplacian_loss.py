"""Regression that says how sure it is: the likelihood of a Laplace distribution with a predicted scale.

As CroCo v2 (arXiv 2211.10408) trains stereo matching and optical flow with it.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["exp", "bounded", "bounded2"]


def laplacian_loss(prediction: Tensor, target: Tensor, log_scale: Tensor, *, max_norm: float | None = None) -> Tensor:
    """Mean over known pixels of error / scale + log scale, the error summed over channels; 0 where none is known: ().

    Args:
        prediction: (B, C, H, W).
        target: the same; infinite or not a number where it is not known.
        log_scale: (B, 1, H, W), from `log_scale`.
        max_norm: targets as long as that are not counted either.
    """
    known = torch.linalg.vector_norm(target, dim=1) < (math.inf if max_norm is None else max_norm)
    pixels = [values.movedim(1, -1)[known] for values in (prediction, target, log_scale)]
    error, log = (pixels[1] - pixels[0]).abs().sum(-1), pixels[2][:, 0]
    return (error * (-log).exp() + log).sum() / known.sum().clamp_min(1)


def log_scale(confidence: Tensor, kind: Kind = "exp", *, a: float = 1.0, b: float = 1.0) -> Tensor:
    """The logarithm of the scale that a network's answer stands for, of any shape.

    Args:
        confidence: the network's answer.
        kind: "exp", the answer itself; "bounded", of a scale between a and b; "bounded2", between -a and a.
        a, b: of the bounded kinds; "bounded2" divides the answer by b.
    """
    if kind == "bounded":
        return ((b - a) * confidence.sigmoid() + a).log()
    return 2 * a * ((confidence / b).sigmoid() - 0.5) if kind == "bounded2" else confidence
