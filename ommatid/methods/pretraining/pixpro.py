"""PixPro: pixels of two views that lie on one another are to look alike, one of them made of its like neighbours.

"Propagate Yourself: Exploring Pixel-Level Consistency for Unsupervised Visual Representation Learning"
(arXiv 2011.10043).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.methods.pretraining.momentum import follow_, frozen_copy, momentum_at
from ommatid.methods.pretraining.pixel_matching import consistency_loss
from ommatid.models.backbone import Backbone, channels_last
from ommatid.models.config import PartConfig, require, require_positive
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register, register_part
from ommatid.nn.conv import Conv2d
from ommatid.nn.norm import BatchNorm2d


def propagate(features: Tensor, values: Tensor, *, power: float = 2.0, clamp: float = 0.0) -> Tensor:
    """Every pixel's value as a sum of all, weighed by how alike they are: (B, H, W, C), (B, H, W, C') -> (B, H, W, C').

    Args:
        features: what is compared, by max(cosine, clamp)^power.
        values: what is added up, of length 1 each.
        power, clamp: of the weights, which need not sum to 1.
    """
    direction = F.normalize(features.flatten(1, 2), dim=-1)
    likeness = (direction @ direction.mT).clamp_min(clamp)
    if power < 1:  # whose gradient at 0 would be infinite
        likeness = likeness + 1e-6
    return (likeness**power @ F.normalize(values.flatten(1, 2), dim=-1)).unflatten(1, features.shape[1:3])


class PixelMLP(nn.Module):
    """Two linear layers at every pixel, a batch norm and a ReLU between: (B, H, W, C) -> (B, H, W, C')."""

    def __init__(self, dim: int, hidden: int, out_dim: int) -> None:
        super().__init__()
        self.linear1 = Conv2d(dim, hidden, 1)
        self.bn1 = BatchNorm2d(hidden)
        self.linear2 = Conv2d(hidden, out_dim, 1)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear2(self.bn1(self.linear1(features)).relu())


class PixelPropagation(nn.Module):
    """The pixel propagation module: (B, H, W, C) -> (B, H, W, C). Cost: 2 (H W)^2 C multiply-adds, and the transform's.

    Args:
        dim: C.
        power, clamp: as in `propagate`.
        transform_layers: of the values: 0, 1 or 2.
    """

    def __init__(self, dim: int, *, power: float = 2.0, clamp: float = 0.0, transform_layers: int = 1) -> None:
        super().__init__()
        self.power, self.clamp = power, clamp
        self.value_transform: nn.Module = nn.Identity()
        if transform_layers:
            self.value_transform = Conv2d(dim, dim, 1) if transform_layers == 1 else PixelMLP(dim, dim, dim)

    def forward(self, features: Tensor) -> Tensor:
        return propagate(features, self.value_transform(features), power=self.power, clamp=self.clamp)


class Views(NamedTuple):
    """Something of each of the two views."""

    first: Tensor
    second: Tensor


class PixProHeads(nn.Module):
    """What is learned behind the encoder: features (B, H, W, C) of two views, seen by query and key encoder -> loss ().

    Args:
        dim: C.
        inner_dim, out_dim: of the projectors.
        pos_ratio: of `matching_pixels`.
        power, clamp, transform_layers: of the propagation.
        instance_weight: of the loss of whole views against each other, for which there are heads unless it is 0.
    """

    def __init__(
        self,
        dim: int,
        *,
        inner_dim: int = 4096,
        out_dim: int = 256,
        pos_ratio: float = 0.7,
        power: float = 2.0,
        clamp: float = 0.0,
        transform_layers: int = 1,
        instance_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.pos_ratio, self.instance_weight = pos_ratio, instance_weight
        self.projector = PixelMLP(dim, inner_dim, out_dim)
        self.projector_k = frozen_copy(self.projector)
        self.propagation = PixelPropagation(out_dim, power=power, clamp=clamp, transform_layers=transform_layers)
        if instance_weight:
            self.projector_instance = PixelMLP(dim, inner_dim, out_dim)
            self.projector_instance_k = frozen_copy(self.projector_instance)
            self.predictor = PixelMLP(out_dim, inner_dim, out_dim)

    def forward(self, queries: Views, keys: Views, boxes: Views) -> Tensor:
        loss = self.pixel_loss(queries, keys, boxes)
        return loss + self.instance_weight * self.instance_loss(queries, keys) if self.instance_weight else loss

    def pixel_loss(self, queries: Views, keys: Views, boxes: Views) -> Tensor:
        first, second = (F.normalize(self.propagation(self.projector(view)), dim=-1) for view in queries)
        with torch.no_grad():
            first_key, second_key = (F.normalize(self.projector_k(view), dim=-1) for view in keys)
        there = consistency_loss(first, second_key, boxes.first, boxes.second, self.pos_ratio)
        return there + consistency_loss(second, first_key, boxes.second, boxes.first, self.pos_ratio)

    def instance_loss(self, queries: Views, keys: Views) -> Tensor:
        first, second = (mean_direction(self.predictor(self.projector_instance(view))) for view in queries)
        with torch.no_grad():
            first_key, second_key = (mean_direction(self.projector_instance_k(view)) for view in keys)
        return -2 * ((first * second_key).sum(-1).mean() + (second * first_key).sum(-1).mean())

    def follow_(self, momentum: float) -> None:
        """Moves the key heads towards the query heads."""
        follow_(self.projector_k, self.projector, momentum)
        if self.instance_weight:
            follow_(self.projector_instance_k, self.projector_instance, momentum)


def mean_direction(features: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C), of length 1."""
    return F.normalize(features.mean((1, 2)), dim=-1)


class PixPro(nn.Module):
    """Two views of each image (B, C_in, H, W), and their boxes (B, 4) -> the loss ().

    `encoder`, trained in place, is what is kept afterwards.

    Args:
        encoder: its last map is compared.
        options: of `PixProHeads`.
    """

    def __init__(self, encoder: Backbone, **options: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self.encoder_k = frozen_copy(encoder)
        self.heads = PixProHeads(encoder.channels[-1], **options)

    def forward(self, images: Views, boxes: Views, momentum: float) -> Tensor:
        """`momentum`: of the key branch at this step, from `momentum_at`; it follows before it is asked."""
        queries = Views(*(self.encoder.maps(image)[-1] for image in images))
        follow_(self.encoder_k, self.encoder, momentum)
        self.heads.follow_(momentum)
        with torch.no_grad():
            keys = Views(*(self.encoder_k.maps(image)[-1] for image in images))
        return self.heads(queries, keys, boxes)


@dataclass(frozen=True, kw_only=True)
class PixProConfig(PartConfig):
    """`feature_dim`, `size` (of maps): of the function "loss"; `dim`: of "propagate"; `steps`: of "momentum"."""

    function: Literal["loss", "match_loss", "propagate", "momentum"] = "loss"
    feature_dim: int = 2048
    inner_dim: int = 4096
    out_dim: int = 256
    size: int = 7
    dim: int = 256
    power: float = 2.0
    clamp: float = 0.0
    pos_ratio: float = 0.7
    transform_layers: Literal[0, 1, 2] = 1
    instance_weight: float = 0.0
    momentum: float = 0.99
    steps: int = 100

    def check(self) -> None:
        require_positive(feature_dim=self.feature_dim, inner_dim=self.inner_dim, out_dim=self.out_dim, dim=self.dim)
        require_positive(size=self.size, power=self.power, pos_ratio=self.pos_ratio, steps=self.steps)
        require(self.instance_weight >= 0, "instance_weight", self.instance_weight, "0 or more")
        require(0 <= self.momentum <= 1, "momentum", self.momentum, "from 0 to 1")


@register("pixpro", PixProConfig)
class Loss(Procedure):
    """feature_1, feature_2 (B, C, H, W), and box_1, box_2 (B, 4) of random numbers -> loss ()."""

    config: PixProConfig

    def __init__(self, config: PixProConfig) -> None:
        super().__init__(config)
        self.heads = PixProHeads(
            config.feature_dim,
            inner_dim=config.inner_dim,
            out_dim=config.out_dim,
            pos_ratio=config.pos_ratio,
            power=config.power,
            clamp=config.clamp,
            transform_layers=config.transform_layers,
            instance_weight=config.instance_weight,
        )

    def forward(  # type: ignore[override]
        self, feature_1: Tensor, feature_2: Tensor, box_1: Tensor, box_2: Tensor
    ) -> dict[str, Tensor]:
        views = Views(channels_last(feature_1), channels_last(feature_2))
        return {"loss": self.heads(views, views, Views(random_box(box_1), random_box(box_2)))}


@register_part("pixpro", "match_loss")
class MatchLoss(Procedure):
    """q, k (B, C, H, W), and box_q, box_k (B, 4) of random numbers -> loss (), of one direction."""

    config: PixProConfig

    def forward(self, q: Tensor, k: Tensor, box_q: Tensor, box_k: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        query, key = (F.normalize(channels_last(features), dim=-1) for features in (q, k))
        return {"loss": consistency_loss(query, key, random_box(box_q), random_box(box_k), self.config.pos_ratio)}


@register_part("pixpro", "propagate")
class Propagate(Procedure):
    """x (B, C, H, W) -> y (B, C, H, W)."""

    config: PixProConfig

    def __init__(self, config: PixProConfig) -> None:
        super().__init__(config)
        self.propagation = PixelPropagation(
            config.dim, power=config.power, clamp=config.clamp, transform_layers=config.transform_layers
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"y": self.propagation(channels_last(x)).permute(0, 3, 1, 2)}


@register_part("pixpro", "momentum")
class Momentum(Procedure):
    """Anything -> the momentum at the first two steps, the middle one and the last one (4,)."""

    config: PixProConfig

    def forward(self, **unused: Tensor) -> dict[str, Tensor]:
        steps = self.config.steps
        chosen = (0, 1, steps // 2, steps - 1)
        return {"momentum": torch.tensor([momentum_at(step, steps, self.config.momentum) for step in chosen])}


def random_box(noise: Tensor) -> Tensor:
    """Noise (B, 4) from -1 to 1 -> boxes (B, 4) of a quarter to half of the image a side, flipped where noise says."""
    start = (noise[:, :2] + 1) / 4
    end = start + (noise[:, 2:] + 1) / 8 + 1 / 4
    (left, top), (right, bottom) = start.unbind(1), end.unbind(1)
    flipped = noise[:, 3] > 0
    return torch.stack([torch.where(flipped, right, left), top, torch.where(flipped, left, right), bottom], dim=1)


VARIANTS = {"pixpro_base_r50": PixProConfig()}

REFERENCE_NAMES = [
    (r"^(heads\.)?value_transform\.", r"\1propagation.value_transform."),
]


def convert_reference(state: dict[str, Tensor], model: Procedure) -> dict[str, Tensor]:
    """The heads of a loss are in one place."""
    return {f"heads.{name}": value for name, value in state.items()} if isinstance(model, Loss) else state
