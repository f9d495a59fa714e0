"""A ViT that answers from a weighted sum of its paths, and the procedures that choose and teach them.

"Revisiting Vision Transformer from the View of Path Ensemble" (arXiv 2308.06548).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ommatid.methods.path_ensemble.ensemble import EnsembleScale, class_token_paths, prefix_sums, sums_without_each
from ommatid.methods.path_ensemble.prefix_distillation import prefix_distillation, prefix_divergences, weighed
from ommatid.methods.path_ensemble.selection import select_paths
from ommatid.models.backbone import Backbone, channels_last, classifier
from ommatid.models.backbones import vit
from ommatid.models.backbones.vit import ViT, ViTConfig
from ommatid.models.config import Config, require, require_divisible, require_positive
from ommatid.models.procedure import Procedure
from ommatid.models.reference import changed
from ommatid.models.registry import register, register_part
from ommatid.models.sizes import require_patches
from ommatid.nn.init import init_linear_
from ommatid.nn.tokens import sequence_on_grid


@dataclass(frozen=True, kw_only=True)
class PathEnsembleConfig(Config):
    """`function` "ensemble" is the network; it learns with a distillation of `weight` and `temperature`.

    "self_distillation" reads those two and `gain`, which its input is multiplied by; "path_selection" `margin`.
    """

    function: Literal["ensemble", "self_distillation", "path_selection"] = "ensemble"
    image_size: int | tuple[int, int] = 224
    patch_size: int = 16
    dim: int = 192
    depth: int = 12
    heads: int = 3
    mlp_ratio: float = 4.0
    scale: Literal["none", "channel", "scalar"] = "channel"
    pruned: tuple[int, ...] = ()
    temperature: float = 1.0
    weight: float = 0.0
    gain: float = 1.0
    margin: float = 0.0

    def check(self) -> None:
        require_positive(depth=self.depth, temperature=self.temperature)
        require_divisible(self.dim, self.heads)
        require_patches(self.image_size, self.patch_size)
        known = all(0 <= path < self.paths for path in self.pruned)
        require(known, "pruned", self.pruned, f"paths from 0 to {self.paths - 1}")
        require(self.weight >= 0, "weight", self.weight, "0 (no distillation) or more")

    @property
    def paths(self) -> int:
        return 2 * self.depth + 1

    @property
    def transformer(self) -> ViTConfig:
        """That of the ViT without classifier."""
        return ViTConfig(
            image_size=self.image_size,
            patch_size=self.patch_size,
            dim=self.dim,
            depth=self.depth,
            heads=self.heads,
            mlp_ratio=self.mlp_ratio,
            in_channels=self.in_channels,
            num_classes=0,
            drop_path_rate=self.drop_path_rate,
        )


@register("path_ensemble", PathEnsembleConfig)
class PathEnsemble(Backbone):
    """A ViT whose class token is a weighted sum of paths at the end. Takes any image that the ViT takes."""

    config: PathEnsembleConfig
    no_decay = ("position", "class_token.token", "ensemble.weight")

    def __init__(self, config: PathEnsembleConfig) -> None:
        super().__init__(config)
        self.channels, self.strides = (config.dim,), (config.patch_size,)
        self.trunk = ViT(config.transformer)
        self.ensemble = EnsembleScale(config.paths, config.dim, granularity=config.scale, pruned=config.pruned)
        self.head = classifier(config.dim, config.num_classes)
        self.head.apply(init_linear_)

    def maps(self, image: Tensor) -> list[Tensor]:
        return self.trunk.maps(image)

    def tokens(self, image: Tensor) -> Tensor:
        return self.trunk.tokens(image)

    def embed(self, image: Tensor) -> Tensor:
        return self.trunk.token_norm(self.ensemble(self.paths(image)).sum(1))

    def with_auxiliary_loss(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The logits, and what the shorter prefixes have to learn from them, weighted."""
        config = self.config
        if config.weight == 0:
            return super().with_auxiliary_loss(image)
        answers = self.prefix_logits(image)
        return answers[:, -1], weighed(prefix_divergences(answers, temperature=config.temperature), config.weight)

    def paths(self, image: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> the P summands of the class token, as they are: (B, P, C)."""
        tokens = self.trunk.sequence(self.trunk.stem(channels_last(image)))
        return class_token_paths(self.trunk.blocks, tokens)

    def deletion_logits(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, in_channels, H, W) -> logits (B, K), and (B, P, K) without each path."""
        weighted = self.ensemble(self.paths(image))
        return self.classify(weighted.sum(1)), self.classify(sums_without_each(weighted))

    def prefix_logits(self, image: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, L, K): the answer behind each block, of which the last is the model's."""
        return self.classify(prefix_sums(self.ensemble(self.paths(image))))

    def classify(self, sums: Tensor) -> Tensor:
        """(B, ..., C) -> (B, ..., K)."""
        return self.head(self.trunk.token_norm(sums))


def ensemble_of(model: ViT, **fields: Any) -> PathEnsemble:
    """A trained ViT, copied, as a path ensemble: it answers the same until its scales learn or paths are pruned.

    Args:
        model: with a class token as its readout.
        fields: others of the ensemble's config, such as `scale` or `pruned`.

    Raises:
        ValueError: the ViT has what no path ensemble has, or a field is unknown or impossible.
    """
    names = ("image_size", "patch_size", "dim", "depth", "heads", "mlp_ratio", "in_channels", "num_classes")
    config = PathEnsembleConfig(**{name: getattr(model.config, name) for name in names}).replace(**fields)
    kind = model.config.replace(num_classes=0, drop_path_rate=config.drop_path_rate)
    require(kind == config.transformer, "model", model.config, f"a plain ViT such as {config.transformer}")
    ensemble = PathEnsemble(config)
    state = model.state_dict()
    head = {name: state.pop(name) for name in list(state) if name.startswith("head.")}
    ensemble.trunk.load_state_dict(state)
    ensemble.head.load_state_dict({name.removeprefix("head."): value for name, value in head.items()})
    return ensemble.train(model.training)


@register_part("path_ensemble", "self_distillation")
class SelfDistillation(Procedure):
    """prefix_logits (B, L, K), multiplied by `gain`, and labels (B,) -> the loss and its terms."""

    config: PathEnsembleConfig

    def forward(self, prefix_logits: Tensor, labels: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        config = self.config
        answers = config.gain * prefix_logits
        found = prefix_distillation(answers, labels, temperature=config.temperature, weight=config.weight)
        return {
            "divergences": found.divergences,
            "cross_entropy": found.cross_entropy.view(1),
            "loss": found.loss.view(1),
        }


@register_part("path_ensemble", "path_selection")
class PathSelection(Procedure):
    """raw_correct (1 + P, n), above 0 where an answer is right -> the accuracies, and which paths to prune."""

    config: PathEnsembleConfig

    def forward(self, raw_correct: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return select_paths(raw_correct > 0, margin=self.config.margin)._asdict()


def reference_outputs(model: PathEnsemble, image: Tensor) -> dict[str, Tensor]:
    return {
        "paths": model.paths(image),
        "deletion_logits": model.deletion_logits(image)[1],
        "prefix_logits": model.prefix_logits(image),
    }


REFERENCE_NAMES = [
    (r"^path_scale$", "ensemble.weight"),
    *vit.REFERENCE_NAMES,
    (r"^(sequence|stem|blocks|token_norm)\.", r"trunk.\1."),
]


def convert_reference(state: dict[str, Tensor], model: PathEnsemble) -> dict[str, Tensor]:
    """Stacks the paths' scales, and resamples a square position table for another image size."""
    grid = model.config.transformer.grid
    converted = changed(state, "^pos_embed$", lambda table: sequence_on_grid(table, grid))
    scales = [
        converted.pop(name) for name in (f"path_scale.{path}" for path in range(model.config.paths)) if name in state
    ]
    return converted | ({"path_scale": torch.stack(scales)} if scales else {})
