"""The published procedures of this package, as their reference cases name them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ommatid.methods.pruning.once_for_both.model import SearchViT
from ommatid.methods.pruning.once_for_both.modules import AttentionSearch, SearchAttention, SearchMLP
from ommatid.methods.pruning.once_for_both.schedule import FIRST_IMPORTANCE, LAST_IMPORTANCE, warmed
from ommatid.models.config import PartConfig, require_divisible
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register, register_part


@dataclass(frozen=True, kw_only=True)
class OnceForBothConfig(PartConfig):
    """`schedule` reads what is from `epochs` on; `compress` what is between `part` and it; `search_model` the others.

    `part` is of the function `compress`: what is searched there.
    """

    function: Literal["search_model", "compress", "schedule"] = "search_model"
    image_size: int = 224
    patch_size: int = 16
    dim: int = 384
    depth: int = 12
    heads: int = 6
    mlp_ratio: float = 4.0
    num_classes: int = 1000
    attn_search: AttentionSearch = "joint"
    mask_ratio: float = 0.95
    importance_weight: float = 0.99
    target_gflops: float = 1.0
    part: Literal["mlp", "joint", "channel", "head"] | None = None
    hidden: int = 1536
    threshold: float = 0.2
    alpha_scale: float = 1.0
    epochs: tuple[float, ...] = ()
    warmup_epochs: float = 20.0
    max_ratio: float = 0.95
    min_ratio: float = 0.75
    keep_initial: float = 1.0

    def check(self) -> None:
        if self.part != "mlp":
            require_divisible(self.dim, self.heads)


@register("once_for_both", OnceForBothConfig)
class SearchModel(Procedure):
    """image, noise (B, N) -> logits with and without hidden patches, and every loss of the search."""

    config: OnceForBothConfig

    def __init__(self, config: OnceForBothConfig) -> None:
        super().__init__(config)
        self.network = SearchViT(
            grid=config.image_size // config.patch_size,
            patch_size=config.patch_size,
            dim=config.dim,
            depth=config.depth,
            heads=config.heads,
            hidden=int(config.dim * config.mlp_ratio),
            num_classes=config.num_classes,
            search=config.attn_search,
        )
        self.network.weigh_importance(config.importance_weight)

    def forward(self, image: Tensor, noise: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        network, config = self.network, self.config
        logits, reconstruction = network.with_reconstruction(image, 0.5 + 0.5 * noise, config.mask_ratio)
        losses = {f"loss_{kind}": loss[None] for kind, loss in network.losses().items()}
        return losses | {
            "logits_train": logits,
            "reconstruction_loss": reconstruction[None],
            "logits": network(image),
            "loss_flops": network.flops_loss(config.target_gflops)[None],
            "gflops": torch.stack([network.dense_gflops, network.gflops()]),
        }


@register_part("once_for_both", "compress")
class Compress(Procedure):
    """x (B, N, D) -> what a searchable part makes of it, before and after one closing step, and its new state."""

    config: OnceForBothConfig

    def __init__(self, config: OnceForBothConfig) -> None:
        super().__init__(config)
        self.searched: SearchMLP | SearchAttention
        if config.part == "mlp":
            self.searched = SearchMLP(config.dim, config.hidden)
        else:
            self.searched = SearchAttention(config.dim, config.heads, config.part or "joint")
        self.searched.importance_weight = config.importance_weight

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        searched = copy.deepcopy(self.searched)
        with torch.no_grad():
            searched.choice.alpha.mul_(self.config.alpha_scale)
        choice = searched.choice
        answers = {"before": searched(x), "mask": choice.mask(), "importance": choice.importance()}
        searched.compress(self.config.threshold)
        answers |= {"switch": choice.open.float(), "alpha": choice.alpha.clone(), "score": choice.score.clone()}
        answers |= {f"state.{name}": value.clone() for name, value in searched.named_parameters()}
        answers |= {"after": searched(x), "finished": torch.tensor([float(choice.finished)])}
        return answers | ({"fused": searched.fuse()(x)} if choice.finished else {})


@register_part("once_for_both", "schedule")
class Schedule(Procedure):
    """() -> the weight of importance and the share of patches that are kept, at each of the epochs in turn."""

    config: OnceForBothConfig

    def forward(self) -> dict[str, Tensor]:  # type: ignore[override]
        config = self.config
        importance = warmed(config.epochs, config.warmup_epochs, FIRST_IMPORTANCE, LAST_IMPORTANCE, FIRST_IMPORTANCE)
        keep = warmed(config.epochs, config.warmup_epochs, config.max_ratio, config.min_ratio, config.keep_initial)
        return {"importance_weight": torch.tensor(importance), "keep_ratio": torch.tensor(keep)}


REFERENCE_NAMES = [
    (r"^m\.", "searched."),
    (r"(^|\.)(alpha|score)$", r"\1choice.\2"),
    (r"^(?!searched\.)", "network."),
]
