"""Making an inference copy: every part folds what is constant once training is over."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


@torch.no_grad()
def deployed_copy(model: Model) -> Model:
    """A copy in evaluation mode in which every part that defines `deploy_()` has folded itself, inner parts first."""
    deployed = copy.deepcopy(model).eval()
    for part in reversed(list(deployed.modules())):
        fold = getattr(part, "deploy_", None)
        if fold:
            fold()
    return deployed.requires_grad_(False)


@torch.no_grad()
def scale_output_(layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d, scale: Tensor) -> None:
    """Multiplies every output channel of a linear or (transposed) convolution layer by `scale`, inside its weights."""
    weight = layer.weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else layer.weight
    weight.mul_(scale.view(-1, *[1] * (weight.dim() - 1)))
    if layer.bias is not None:
        layer.bias.mul_(scale)


@torch.no_grad()
def fold_norm_after_(layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
    """Makes `layer` compute norm(layer(x)), for a batch norm with its running statistics."""
    fold_affine_after_(layer, *batch_norm_affine(norm))


@torch.no_grad()
def fold_affine_after_(layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d, scale: Tensor, shift: Tensor) -> None:
    """Makes `layer` compute scale * layer(x) + shift, of its output channels."""
    if layer.bias is None:
        layer.bias = nn.Parameter(torch.zeros_like(shift))
    scale_output_(layer, scale)
    layer.bias.add_(shift)


@torch.no_grad()
def fold_norm_before_(norm: nn.BatchNorm1d | nn.BatchNorm2d, layer: nn.Linear | nn.Conv2d) -> None:
    """Makes `layer` compute layer(norm(x)), for a batch norm with its running statistics.

    A convolution must not be grouped nor padded: its padding would not be normed.
    """
    fold_affine_before_(*batch_norm_affine(norm), layer)


@torch.no_grad()
def fold_affine_before_(scale: Tensor, shift: Tensor, layer: nn.Linear | nn.Conv2d) -> None:
    """Makes `layer` compute layer(scale * x + shift), of its input channels; a convolution as for a norm."""
    if layer.bias is None:
        layer.bias = nn.Parameter(layer.weight.new_zeros(len(layer.weight)))
    layer.bias.add_(layer.weight.flatten(2).sum(2) @ shift if layer.weight.dim() > 2 else layer.weight @ shift)
    layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.dim() - 2)))


def offline_affine(norm: nn.Module) -> tuple[Tensor, Tensor] | None:
    """(scale, shift) per channel that a norm applies in evaluation mode; None for norms that depend on their input."""
    if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
        return batch_norm_affine(norm)
    affine = getattr(norm, "affine", None)
    return affine() if callable(affine) else None


def batch_norm_affine(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """(scale, shift) per channel that a batch norm applies in evaluation mode."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight
    shift = -norm.running_mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias
