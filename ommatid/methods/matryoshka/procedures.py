"""Nested classifiers and adaptive retrieval, as their reference cases ask for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from ommatid.methods.matryoshka.heads import MatryoshkaHead, nested_cross_entropy, relative_importance, require_nesting
from ommatid.methods.matryoshka.retrieval import rerank, retrieval_metrics, shortlist
from ommatid.models.config import PartConfig, require, require_positive
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register, register_part


@dataclass(frozen=True, kw_only=True)
class MatryoshkaConfig(PartConfig):
    """`function` says what is meant: `heads` reads the fields up to `label_smoothing`, `retrieval` those below."""

    function: Literal["heads", "retrieval"] = "heads"
    nesting: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512, 1024, 2048)
    num_classes: int = 1000
    efficient: bool = False
    bias: bool = True
    relative_importance: tuple[float, ...] | None = None
    label_smoothing: float = 0.0
    retrieval_dim: int = 16
    cascade: bool = False
    rerank_dims: tuple[int, ...] = (2048,)
    shortlist: tuple[int, ...] = (200,)
    k: int = 10

    def check(self) -> None:
        require_nesting(self.nesting)
        relative_importance(self.relative_importance, len(self.nesting))
        require(
            0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "from 0 up to, not including, 1"
        )
        require_positive(
            num_classes=self.num_classes,
            retrieval_dim=self.retrieval_dim,
            rerank_dims=self.rerank_dims,
            shortlist=self.shortlist,
            k=self.k,
        )
        stages = len(self.rerank_dims)
        require(stages == 1 or (self.cascade and stages > 0), "rerank_dims", self.rerank_dims, "one, or a cascade")
        require(len(self.shortlist) == stages, "shortlist", self.shortlist, f"one length for each of {stages} stages")


@register("matryoshka", MatryoshkaConfig)
class Heads(Procedure):
    """feature (B, D) and label (B,) -> logits (G, B, K) and loss ()."""

    config: MatryoshkaConfig

    def __init__(self, config: MatryoshkaConfig) -> None:
        super().__init__(config)
        self.head = MatryoshkaHead(config.nesting, config.num_classes, efficient=config.efficient, bias=config.bias)

    def forward(self, feature: Tensor, label: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        logits, config = self.head(feature), self.config
        importance, smoothing = config.relative_importance, config.label_smoothing
        loss = nested_cross_entropy(logits, label, importance=importance, label_smoothing=smoothing)
        return {"logits": logits, "loss": loss}


@register_part("matryoshka", "retrieval")
class Retrieval(Procedure):
    """queries (Q, D), database (N, D) and their labels -> the first list, the last one, and how good it is."""

    config: MatryoshkaConfig

    def forward(  # type: ignore[override]
        self, queries: Tensor, database: Tensor, query_label: Tensor, database_label: Tensor
    ) -> dict[str, Tensor]:
        config = self.config
        queries, database = (F.normalize(features.double(), dim=-1) for features in (queries, database))
        initial = shortlist(queries, database, size=config.retrieval_dim, count=config.shortlist[0])
        neighbors = rerank(queries, database, initial, sizes=config.rerank_dims, counts=config.shortlist)
        metrics = retrieval_metrics(neighbors, query_label, database_label, k=config.k)
        return {"initial": initial, "neighbors": neighbors} | metrics


VARIANTS = {
    "mrl_resnet50": MatryoshkaConfig(),
    "mrl_e_resnet50": MatryoshkaConfig(efficient=True),
}

REFERENCE_NAMES = [(r"^fc\.nesting_classifier_(\d+)\.", r"head.classifiers.\1.")]
