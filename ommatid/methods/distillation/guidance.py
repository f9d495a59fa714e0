"""Guidance: a network that trains badly is kept close to the layers of another, which may itself be untrained.

"Training the Untrainable: Introducing Inductive Bias via Representational Alignment" (arXiv 2410.20035). In each step

    logits, layers = layer_outputs(target, image)
    _, shown = layer_outputs(guide.eval(), image)       # under torch.no_grad()
    loss = F.cross_entropy(logits, label) + guidance_weight(step) * dissimilarities(layers, shown).sum()
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.models.config import PartConfig, require, require_positive
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register, register_part
from ommatid.ops.similarity import linear_cka, rsa

LAYERS = (
    nn.Conv2d,
    nn.Linear,
    nn.AdaptiveAvgPool2d,
    nn.LSTM,
    nn.RNN,
    nn.TransformerDecoderLayer,
    nn.LayerNorm,
    nn.MultiheadAttention,
)

Similarity = Callable[[Tensor, Tensor], Tensor]
SIMILARITIES: dict[str, Similarity] = {"CKA": linear_cka, "RSA": rsa}


def is_layer(module: nn.Module) -> bool:
    """What counts as a layer in the paper; of a plain transformer other choices make sense, as its branches."""
    return isinstance(module, LAYERS)


def layer_outputs(
    model: nn.Module, *inputs: Tensor, chosen: Callable[[nn.Module], bool] = is_layer
) -> tuple[Any, list[Tensor]]:
    """The model's answer, and what all chosen layers but the last gave, in the order of their execution: (B, features).

    Layers' outputs are those before any activation behind them. Of what is no batch first, the only axis with B entries
    is the batch; where there is none, or several, the output is left out. So is the final state of a recurrent layer.
    """
    found: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda layer, _, output: found.extend(outputs_of(layer, output)))
        for module in model.modules()
        if chosen(module)
    ]
    try:
        answer = model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return answer, list(batch_first(found[:-1], len(inputs[0])))


def outputs_of(layer: nn.Module, output: Any) -> list[Tensor]:
    if isinstance(layer, nn.RNNBase):
        return [output[0]]
    return [value for value in output if isinstance(value, Tensor)] if isinstance(output, tuple) else [output]


def batch_first(outputs: Iterable[Tensor], batch: int) -> Iterator[Tensor]:
    for output in outputs:
        axes = [axis for axis, size in enumerate(output.shape) if size == batch]
        if axes[:1] == [0] or len(axes) == 1:
            yield output.movedim(axes[0], 0).reshape(batch, -1)


def layer_map(guide_layers: int, target_layers: int) -> list[int]:
    """The target layer that each guide layer supervises: the first the first, the last the last, the others between."""
    require_positive(guide_layers=guide_layers, target_layers=target_layers)
    step = (target_layers - 1) / (guide_layers - 1) if guide_layers > 1 else 1.0
    return [min(round(index * step), target_layers - 1) for index in range(guide_layers)]


def dissimilarities(target: Sequence[Tensor], guide: Sequence[Tensor], similarity: Similarity = linear_cka) -> Tensor:
    """1 - similarity of every supervised layer (B, features) with its guide's, in the target's order: (layers,).

    Of several guide layers that meet one target layer only the last counts.
    """
    pairs = dict(zip(layer_map(len(guide), len(target)), guide, strict=True))
    return torch.stack([1 - similarity(target[layer], shown) for layer, shown in pairs.items()])


def tokenwise_dissimilarity(x: Tensor, y: Tensor) -> Tensor:
    """1 - CKA at every position of two sequences (B, N, p) and (B, N, q), added up: ()."""
    require(x.shape[1] == y.shape[1], "y", tuple(y.shape), f"as many positions as the other's {x.shape[1]}")
    return (1 - linear_cka(x.transpose(0, 1), y.transpose(0, 1))).sum()


def guidance_weight(step: int, *, weight: float = 1.0, steps: int | None = None) -> float:
    """The weight in optimisation step `step`, counted from 0.

    Args:
        steps: the guide leaves after so many, 300 in the paper, which acts like an initialisation; never where None.
    """
    return weight if steps is None or step < steps else 0.0


def noise_like(image: Tensor) -> Tensor:
    """What a guide may be shown instead of the images: it then teaches its structure alone."""
    return (torch.randn_like(image) + 0.1 * torch.randn_like(image)).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class GuidanceConfig(PartConfig):
    """`map` reads the numbers of layers, `guidance` the fields below them."""

    function: Literal["cka", "tokenwise", "rsa", "map", "guidance"] = "guidance"
    guide_layers: int = 1
    target_layers: int = 1
    image_size: int = 224
    guide_dims: tuple[int, ...] = (64, 128)
    target_dims: tuple[int, ...] = (256, 256)
    num_classes: int = 1000
    weight: float = 1.0
    metric: Literal["CKA", "RSA"] = "CKA"
    noise_guide: bool = False

    def check(self) -> None:
        for name in ("guide_layers", "target_layers", "image_size", "guide_dims", "target_dims", "num_classes"):
            require_positive(**{name: getattr(self, name)})
        require(len(self.target_dims) > 0, "target_dims", self.target_dims, "one hidden layer or more")


class ConvolutionalGuide(nn.Module):
    """The guide of the cases: image -> (B, num_classes)."""

    def __init__(self, dims: Sequence[int], num_classes: int) -> None:
        super().__init__()
        widths = (3, *dims)
        self.convs = nn.ModuleList(
            nn.Conv2d(width, dim, 3, stride=2, padding=1) for width, dim in zip(widths, dims, strict=False)
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, image: Tensor) -> Tensor:
        for conv in self.convs:
            image = conv(image).relu()
        return self.head(self.pool(image).flatten(1))


class FullyConnected(nn.Module):
    """The target of the cases: image -> (B, num_classes)."""

    def __init__(self, inputs: int, dims: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, dim) for width, dim in zip((inputs, *dims), dims, strict=False))
        self.head = nn.Linear(dims[-1], num_classes)

    def forward(self, image: Tensor) -> Tensor:
        features = image.flatten(1)
        for layer in self.layers:
            features = layer(features).relu()
        return self.head(features)


@register("guidance", GuidanceConfig)
class Guidance(Procedure):
    """image (B, 3, S, S), label (B,), perhaps noise for the guide -> the loss and what it is made of."""

    config: GuidanceConfig

    def __init__(self, config: GuidanceConfig) -> None:
        super().__init__(config)
        self.guide = ConvolutionalGuide(config.guide_dims, config.num_classes).requires_grad_(False)
        self.target = FullyConnected(3 * config.image_size**2, config.target_dims, config.num_classes)

    def forward(self, image: Tensor, label: Tensor, noise: Tensor | None = None) -> dict[str, Tensor]:  # type: ignore[override]
        config = self.config
        seen = image
        if config.noise_guide:
            seen = noise_like(image) if noise is None else noise
        with torch.no_grad():
            _, shown = layer_outputs(self.guide, seen)
        logits, layers = layer_outputs(self.target, image)
        apart = dissimilarities(layers, shown, SIMILARITIES[config.metric])
        cross_entropy = F.cross_entropy(logits, label)
        loss = cross_entropy + config.weight * apart.sum()
        bias = self.target.get_parameter("layers.0.bias")
        (grad,) = torch.autograd.grad(loss, bias, retain_graph=True)
        pairing = torch.tensor(layer_map(len(shown), len(layers)))
        return {"map": pairing, "dissimilarity": apart, "ce": cross_entropy, "loss": loss, "first_bias_grad": grad}


@register_part("guidance", "map")
class LayerMap(Procedure):
    """-> map (guide layers,), the target layer of each."""

    config: GuidanceConfig

    def forward(self, unused: Tensor | None = None) -> dict[str, Tensor]:  # type: ignore[override]
        return {"map": torch.tensor(layer_map(self.config.guide_layers, self.config.target_layers))}


class Comparison(Procedure):
    """Base of what compares x (n, ...) with y (n, ...)."""

    config: GuidanceConfig


@register_part("guidance", "cka")
class CKA(Comparison):
    """-> cka ()."""

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"cka": linear_cka(x.flatten(1), y.flatten(1))}


@register_part("guidance", "rsa")
class RSA(Comparison):
    """-> rsa ()."""

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"rsa": rsa(x.flatten(1), y.flatten(1))}


@register_part("guidance", "tokenwise")
class Tokenwise(Comparison):
    """-> loss ()."""

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"loss": tokenwise_dissimilarity(x, y)}


REFERENCE_NAMES = [(r"^guide\.c\.", "guide.convs."), (r"^target\.l\.", "target.layers.")]
