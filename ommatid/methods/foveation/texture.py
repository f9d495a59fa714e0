"""Texture away from the fixation: inside each window only the statistics of what is there remain.

NeuroFovea: "Towards Metamerism via Foveated Style Transfer" (arXiv 1705.10041).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ommatid.methods.foveation.codec import ImageCodec
from ommatid.methods.foveation.colour import coral
from ommatid.models.config import require
from ommatid.ops.log_polar import LogPolar

EPS = 1e-5


class Textured(NamedTuple):
    """features (B, C, H, W), 0 where no region is; covered (H, W) bool, where there is one."""

    features: Tensor
    covered: Tensor


class RegionStatistics(NamedTuple):
    """Means and standard deviations of every image and channel in every region: (B, C, K)."""

    mean: Tensor
    deviation: Tensor


def region_masks(place: LogPolar, size: tuple[int, int], threshold: float = 0.001) -> Tensor:
    """(1 + N A, H, W) bool: where the fovea, and then each window, weighs more than the threshold. Regions overlap."""
    return torch.cat([place.fovea(size)[None], place.windows(size)]) > threshold


def region_alphas(place: LogPolar, alphas: Sequence[float]) -> Tensor:
    """(1 + N A,): 0 for the fovea, and for each window what is said of its ring."""
    require(len(alphas) == place.rings, "alphas", tuple(alphas), f"one for each of the {place.rings} rings")
    return torch.cat([torch.zeros(1), torch.tensor(alphas).repeat_interleave(place.angles)])


def eccentricity_alphas(areas: Tensor, *, degrees: float = 26.0, pixels: int = 512, slope: float = 1.281) -> Tensor:
    """How much texture a region is made of, from 0 to 1, by its size; fitted to what people cannot tell apart.

    Args:
        areas: (K,) in pixels, the fovea first, of which the answer is 0.
        degrees, pixels: how large the picture appears, and its side.
        slope: of the answer over the radius in degrees.
    """
    radius = (areas / 3.14).sqrt() * (degrees / pixels)  # 3.14, as the exponent was fitted
    alphas = -1 + 2 / (1 + torch.exp(-slope * radius))
    return torch.cat([torch.zeros_like(alphas[:1]), alphas[1:]])


def foveated_texture(content: Tensor, noise: Tensor, masks: Tensor, alphas: Tensor) -> Textured:
    """Every region a mixture of its content and of noise with the content's means and deviations.

    Regions write one after another: where they overlap the last has it. Those of fewer than two positions are left out.

    Args:
        content: (B, C, H, W) features of an image.
        noise: (B, C, H, W) features of noise, of the same encoder.
        masks: (K, H, W) bool.
        alphas: (K,), the noise's share.
    """
    masks = (masks & (masks.sum((1, 2), keepdim=True) > 1)).to(content.device)
    order = torch.arange(1, len(masks) + 1, device=content.device)[:, None, None]
    owner, covered = (masks * order).amax(0).sub(1).clamp(min=0), masks.any(0)
    here, there = (
        RegionStatistics(*(values[..., owner] for values in region_statistics(features, masks)))
        for features in (content, noise)
    )
    texture = (noise - there.mean) / there.deviation * here.deviation + here.mean
    share = alphas.to(content)[owner]
    return Textured(((1 - share) * content + share * texture) * covered, covered)


def region_statistics(features: Tensor, masks: Tensor) -> RegionStatistics:
    """Of features (B, C, H, W) in masks (K, H, W); deviations are unbiased. Of masks without two positions: nothing."""
    values, inside = features.flatten(2).double(), masks.flatten(1).T.double()
    count = inside.sum(0).clamp(min=2)
    mean = values @ inside / count
    variance = (values.square() @ inside - count * mean.square()) / (count - 1)
    return RegionStatistics(mean.to(features.dtype), (variance + EPS).sqrt().to(features.dtype))


def textured_image(
    codec: ImageCodec,
    image: Tensor,
    noise: Tensor,
    place: LogPolar,
    *,
    size: int = 256,
    threshold: float = 0.001,
) -> Tensor:
    """The whole transform: (B, 3, H, W), from 0 to 1 -> (B, 3, size, size).

    Args:
        codec: with weights that give an image back.
        image: what is looked at; it is resized to the noise.
        noise: (3, S, S), standard normal; the only random part. The study has S = 512.
        place: fixation and windows, in pixels of the resized image.
        size: side of the answer.
        threshold: of a window's weight, from which on a position of the features belongs to it.
    """
    inner = (noise.shape[1], noise.shape[2])
    resized = _resized(image, inner)
    content = codec.encode(resized)
    coloured = codec.encode(torch.stack([coral(noise.to(picture), picture) for picture in resized]))
    weights = torch.cat([place.fovea(inner)[None], place.windows(inner)])
    alphas = eccentricity_alphas((weights > 0.5).sum((1, 2)).float(), pixels=inner[0])
    masks = F.adaptive_avg_pool2d(weights, (content.shape[2], content.shape[3])) > threshold
    features, _ = foveated_texture(content, coloured, masks, alphas)
    return _resized(codec.decode(features).clamp(0, 1), (size, size))


def _resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)
