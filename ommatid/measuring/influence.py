"""Which pixels a model looks at, by gradients: the effective receptive field, and what speaks for a class."""

from __future__ import annotations

import torch
from torch import Tensor

from ommatid.models.backbone import Backbone


def receptive_field(model: Backbone, images: Tensor, stage: int = -1) -> Tensor:
    """How much each pixel moves the middle of a stage's map, as a share of the pixel that does most: (H, W).

    "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks" (arXiv 1701.04128): absolute
    gradients of the summed features in the middle, averaged over images and channels.

    images: (B, C, H, W).
    """
    model = model.eval()
    images = images.detach().requires_grad_()
    features = model.features(images)[stage]
    middle = features[..., features.shape[-2] // 2, features.shape[-1] // 2]
    (gradient,) = torch.autograd.grad(middle.sum(), images)
    return _relative(gradient.abs().mean((0, 1)))


def class_influence(model: Backbone, image: Tensor, index: int) -> Tensor:
    """How much each pixel speaks for a class, as a share of the pixel that does most: (H, W).

    Absolute gradient of the class's logit, averaged over channels ("Deep Inside Convolutional Networks", arXiv
    1312.6034). image: (1, C, H, W).
    """
    model = model.eval()
    image = image.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model(image)[0, index], image)
    return _relative(gradient.abs().mean((0, 1)))


def _relative(strength: Tensor) -> Tensor:
    return strength / strength.max().clamp_min(1e-20)
