"""EcoTTA: small networks beside the parts of a frozen one follow the images that it meets, and stay close to it.

"EcoTTA: Memory-Efficient Continual Test-time Adaptation via Self-distilled Regularization" (arXiv 2303.01904). The
small networks are first trained with labels on the data that the frozen one knows, then adapted in use, without any.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ommatid.models.backbone import channels_last
from ommatid.models.config import PartConfig, require, require_positive
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register, register_part
from ommatid.nn.conv import Conv2d, ConvNorm
from ommatid.nn.norm import BatchNorm2d
from ommatid.ops.entropy import softmax_entropy

PARTITIONS = {
    ("wrn28", 4): (2, 2, 4, 4),
    ("wrn28", 5): (2, 2, 2, 2, 4),
    ("wrn40", 4): (3, 3, 6, 6),
    ("wrn40", 5): (3, 3, 3, 3, 6),
    ("resnet50", 4): (3, 3, 5, 5),
    ("resnet50", 5): (2, 2, 4, 4, 4),
}
"""Residual blocks in each part, by network and number of parts. Shallow layers gain most from more parts."""


class AdaptedPart(nn.Module):
    """A frozen part of a network with its meta network: maps (B, H, W, C_in) -> (B, H', W', C).

    What the part gives is normed anew, and a convolution of its input is added.

    Args:
        original: the part, of stride H / H'.
        in_dim: C_in. dim: C.
    """

    def __init__(self, original: nn.Module, in_dim: int, dim: int, *, stride: int) -> None:
        super().__init__()
        self.original = original.requires_grad_(False)
        self.norm = BatchNorm2d(dim)
        self.branch = ConvNorm(in_dim, dim, 3, stride=stride, act=nn.ReLU())

    def forward(self, features: Tensor) -> Tensor:
        return self.adapted(self.original(features), features)

    def adapted(self, output: Tensor, features: Tensor) -> Tensor:
        """The answer, where the frozen part's output is known already."""
        return self.norm(output) + self.branch(features)


class EcoTTA(nn.Module):
    """A network whose parts have meta networks, which alone are trained: image -> logits.

    Args:
        stem: image map (B, H, W, C) -> (B, H', W', dims[0]).
        parts: one after another, each from one of `dims` to the next.
        classifier: (B, H', W', dims[-1]) -> logits.
        dims: widths in front of the first part and behind each.
        strides: of each part.
    """

    def __init__(
        self,
        stem: nn.Module,
        parts: Sequence[nn.Module],
        classifier: nn.Module,
        *,
        dims: Sequence[int],
        strides: Sequence[int],
    ) -> None:
        super().__init__()
        count = len(parts)
        require(count > 0 and len(dims) == count + 1, "dims", tuple(dims), f"{count + 1}, before and behind every part")
        require(len(strides) == count, "strides", tuple(strides), f"one for each of {count} parts")
        self.stem, self.classifier = stem.requires_grad_(False), classifier.requires_grad_(False)
        self.parts = nn.ModuleList(
            AdaptedPart(part, dims[i], dims[i + 1], stride=strides[i]) for i, part in enumerate(parts)
        )

    def forward(self, image: Tensor) -> Tensor:
        features = self.stem(channels_last(image))
        for part in self.parts:
            features = part(features)
        return self.classifier(features)

    def regularisation(self, image: Tensor) -> Iterator[Tensor]:
        """For each part how far its meta network moves its output, in the mean over all numbers: () after ().

        Each comes with gradients for its own meta network alone. If it is used before the next is asked for, no more
        than one part's activations are held.
        """
        with torch.no_grad():
            features = self.stem(channels_last(image))
        for part in self.parts:
            assert isinstance(part, AdaptedPart)
            features = features.detach()
            with torch.no_grad():
                output = part.original(features)
            adapted = part.adapted(output, features)
            yield (adapted - output).abs().mean()
            features = adapted


def with_meta_networks(stem: nn.Module, parts: Sequence[nn.Module], classifier: nn.Module, image: Tensor) -> EcoTTA:
    """An `EcoTTA` whose widths and strides are those that an image (B, C, H, W) shows."""
    with torch.no_grad():
        maps = [stem(channels_last(image))]
        for part in parts:
            maps.append(part(maps[-1]))
    heights = [features.shape[1] for features in maps]
    strides = [round(above / below) for above, below in pairwise(heights)]
    return EcoTTA(stem, parts, classifier, dims=[features.shape[-1] for features in maps], strides=strides)


def cut(blocks: Sequence[nn.Module], sizes: Sequence[int]) -> list[nn.Module]:
    """Blocks as parts of these sizes, such as `PARTITIONS` has."""
    fits = min(sizes, default=0) > 0 and sum(sizes) == len(blocks)
    require(fits, "sizes", tuple(sizes), f"positive, {len(blocks)} blocks together")
    following = iter(blocks)
    return [nn.Sequential(*(next(following) for _ in range(size))) for size in sizes]


def reliable_entropy(logits: Tensor, *, margin: float = 0.4) -> Tensor:
    """Mean entropy of the samples (B, K) whose entropy is below margin * ln K: (); 0 where there are none."""
    entropy = softmax_entropy(logits)
    kept = entropy < margin * math.log(logits.shape[-1])
    return torch.where(kept, entropy, 0).sum() / kept.sum().clamp(min=1)


def warm_up_rate(epoch: float, *, rate: float = 0.05) -> float:
    """The learning rate of the training with labels at an epoch with fractions, of 10; SGD, momentum 0.9."""
    return rate * min(epoch, 1.0) * 0.2 ** sum(epoch >= drop for drop in (3, 6, 8))


def adapt(
    model: EcoTTA,
    batches: Iterable[Tensor],
    *,
    margin: float = 0.4,
    reg_weight: float = 0.5,
    learning_rate: float = 5e-3,
    momentum: float = 0.9,
    joint: bool = False,
) -> Iterator[Tensor]:
    """Logits for one batch of images after another, each of which changes the meta networks, in place.

    Norms use the batch at hand. Two steps a batch: towards the frozen network, part by part, and towards surer answers,
    of samples that are sure enough already. The logits are those before the second step. Nothing is ever set back.

    Args:
        margin: below which share of the largest entropy a sample counts.
        reg_weight: of the first step's loss.
        joint: makes one step of both, as the paper does.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=learning_rate, momentum=momentum)
    model.train()
    for image in batches:
        optimizer.zero_grad()
        for term in model.regularisation(image):
            (reg_weight * term).backward()
        if not joint:
            optimizer.step()
            optimizer.zero_grad()
        logits = model(image)
        loss = reliable_entropy(logits, margin=margin)
        loss.backward()
        # Where no sample counts, momentum alone would move the network on.
        if joint or loss > 0:
            optimizer.step()
        yield logits.detach()


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Batch norms use the batch at hand, and forget it."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    before = [(norm.training, norm.track_running_stats) for norm in norms]
    try:
        for norm in norms:
            norm.training, norm.track_running_stats = True, False
        yield
    finally:
        for norm, (training, tracks) in zip(norms, before, strict=True):
            norm.training, norm.track_running_stats = training, tracks


@dataclass(frozen=True, kw_only=True)
class EcoTTAConfig(PartConfig):
    """`entropy` reads `margin` and `scale`, which multiplies logits before the entropy; `adapt` all fields."""

    function: Literal["adapt", "entropy"] = "adapt"
    dims: tuple[int, ...] = (16, 32, 64)
    strides: tuple[int, ...] = (1, 2)
    num_classes: int = 1000
    mode: Literal["train", "eval"] = "train"
    margin: float = 0.4
    scale: float = 1.0
    reg_weight: float = 0.5
    parameter_gradients: bool = False

    def check(self) -> None:
        require_positive(
            dims=self.dims, strides=self.strides, num_classes=self.num_classes, margin=self.margin, scale=self.scale
        )
        parts = len(self.strides)
        require(parts > 0 and len(self.dims) == parts + 1, "dims", self.dims, f"{parts + 1}, for {parts} strides")


class PooledClassifier(nn.Module):
    """The classifier of the cases: (B, H, W, C) -> (B, num_classes)."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(dim, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        return self.head(features.mean((1, 2)))


@register("ecotta", EcoTTAConfig)
class Adapt(Procedure):
    """image -> logits, regularisation (K,) of the parts, entropy_loss, loss, and gradients of the regularisation."""

    config: EcoTTAConfig

    def __init__(self, config: EcoTTAConfig) -> None:
        super().__init__(config)
        dims, strides = config.dims, config.strides
        parts = [ConvNorm(dims[i], dims[i + 1], 3, stride=stride, act=nn.ReLU()) for i, stride in enumerate(strides)]
        stem = Conv2d(3, dims[0], 3, padding=1, bias=False)
        classifier = PooledClassifier(dims[-1], config.num_classes)
        self.model = EcoTTA(stem, parts, classifier, dims=dims, strides=strides)

    def forward(self, image: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        if self.config.mode == "eval":
            return self._adapted(image)
        with batch_statistics(self.model):
            return self._adapted(image)

    def _adapted(self, image: Tensor) -> dict[str, Tensor]:
        config = self.config
        terms = torch.stack(list(self.model.regularisation(image)))
        logits = self.model(image)
        entropy = reliable_entropy(config.scale * logits, margin=config.margin)
        regularisation = config.reg_weight * terms.sum()
        answers = {
            "logits": logits,
            "regularisation": terms,
            "entropy_loss": entropy,
            "loss": entropy + regularisation,
        }
        if config.parameter_gradients:
            weights = [part.get_parameter("branch.conv.weight") for part in self.model.parts]
            grads = torch.autograd.grad(regularisation, weights, retain_graph=True)
            answers |= {f"reg_grad{index}": grad for index, grad in enumerate(grads)}
        return answers


@register_part("ecotta", "entropy")
class Entropy(Procedure):
    """logits (B, K) -> loss (), and the entropy (B,) of every sample."""

    config: EcoTTAConfig

    def forward(self, logits: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        logits = self.config.scale * logits
        return {"loss": reliable_entropy(logits, margin=self.config.margin), "entropy": softmax_entropy(logits)}


REFERENCE_NAMES = [
    (r"^conv1\.", "model.stem."),
    (r"^encoders\.(\d+)\.original_part\.0\.", r"model.parts.\1.original."),
    (r"^encoders\.(\d+)\.meta_part\.meta_bn\.", r"model.parts.\1.norm."),
    (r"^encoders\.(\d+)\.meta_part\.conv_block\.", r"model.parts.\1.branch."),
    (r"\.bn\.", ".norm."),
    (r"^classifier\.", "model.classifier.head."),
]
