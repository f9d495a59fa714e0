"""The steps of planning attention spans, as the reference cases of `moa_sparse_attention` ask for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ommatid.methods.attention_spans.cache import cache_sizes
from ommatid.methods.attention_spans.influence import attention_influence, block_influence
from ommatid.methods.attention_spans.plan import best_plans
from ommatid.methods.attention_spans.rules import Spans, candidate_rules
from ommatid.models.config import PartConfig, require_positive
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register, register_part
from ommatid.ops.elastic_window import elastic_window_attention


@dataclass(frozen=True, kw_only=True)
class AttentionSpansConfig(PartConfig):
    """`alpha` and `beta` are lists of candidates, `alphas` and `betas` the rules of heads; lengths are in tokens.

    `density_bounds` are those of `lengths`, then of `extend_lengths`.
    """

    function: Literal["influence", "rules", "optimise", "attention", "cache"] = "attention"
    block_size: int = 64
    alpha: tuple[float, ...] = ()
    beta: tuple[float, ...] = ()
    max_profile_length: int = 8192
    max_token_length: int = 16384
    min_token_length: int = 1024
    lengths: tuple[int, ...] = (2048, 4096, 8192)
    extend_lengths: tuple[int, ...] = ()
    density_bounds: tuple[float, ...] = ()
    lower_ratio: float = 0.9
    layers: int = 1
    heads: int = 1
    plan_limit: int = 2
    alphas: tuple[float, ...] = (0.0,)
    betas: tuple[float, ...] = (1.0,)
    max_new_tokens: int = 1024

    def check(self) -> None:
        require_positive(block_size=self.block_size, layers=self.layers, heads=self.heads, plan_limit=self.plan_limit)

    @property
    def candidates(self) -> Spans:
        return candidate_rules(
            self.alpha,
            self.beta,
            max_profile_length=self.max_profile_length,
            max_token_length=self.max_token_length,
            min_token_length=self.min_token_length,
        )

    @property
    def spans(self) -> Spans:
        return Spans(torch.tensor(self.alphas), torch.tensor(self.betas))


class _Spans(Procedure):
    config: AttentionSpansConfig


@register("moa_sparse_attention", AttentionSpansConfig)
class SpannedAttention(_Spans):
    """q, k, v (B, heads, N, d) -> out, and the layout (heads, blocks, blocks) of each head's rule."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        layout = self.config.spans.layout(q.shape[2], self.config.block_size)
        return {"layout": layout.float(), "out": elastic_window_attention(q, k, v, layout)}


@register_part("moa_sparse_attention", "influence")
class Influence(_Spans):
    """q, k, v, grad (B, heads, N, d) -> what each entry, and each block, does for the loss."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, grad: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        influence = attention_influence(q, k, v, grad)
        return {"influence": influence, "block_influence": block_influence(influence, self.config.block_size)}


@register_part("moa_sparse_attention", "rules")
class Rules(_Spans):
    """influence_N (heads, blocks, blocks), of either sign -> the candidates, their layouts, costs and losses."""

    def forward(self, **influence: Tensor) -> dict[str, Tensor]:
        block, spans = self.config.block_size, self.config.candidates
        outputs = {"alpha": spans.alpha, "beta": spans.beta}
        for length in self.config.lengths:
            outputs[f"layout_{length}"] = spans.layout(length, block).float()
            outputs[f"cost_{length}"] = spans.cost(length, block)
            if f"influence_{length}" in influence:
                outputs[f"loss_{length}"] = spans.loss(influence[f"influence_{length}"].abs(), block)
        return outputs


@register_part("moa_sparse_attention", "optimise")
class Optimise(_Spans):
    """influence_N (heads of all layers, blocks, blocks), of either sign -> the plans that are worth a look."""

    def forward(self, **influence: Tensor) -> dict[str, Tensor]:
        config, spans = self.config, self.config.candidates
        lengths = (*config.lengths, *config.extend_lengths)
        heads = config.layers * config.heads
        plans = best_plans(
            [
                spans.loss(influence[f"influence_{length}"].abs().double(), config.block_size).numpy()
                for length in config.lengths
            ],
            np.stack([spans.cost(length, config.block_size).double().numpy() for length in lengths]),
            np.array(config.density_bounds) * np.array(lengths) * heads,
            layers=config.layers,
            lower_ratio=config.lower_ratio,
            plan_limit=config.plan_limit,
        )
        outputs = {
            "feasible": np.array([plans.feasible]),
            "single_best": plans.single,
            "single_value": plans.single_value,
            "pareto_config": plans.pareto,
            "pareto_value": plans.pareto_value,
        }
        return {name: torch.from_numpy(value).double() for name, value in outputs.items()}


@register_part("moa_sparse_attention", "cache")
class Cache(_Spans):
    """The positions that each head's cache has at each length, and how many of them are fixed; takes no inputs."""

    def forward(self) -> dict[str, Tensor]:  # type: ignore[override]
        outputs = {}
        for length in self.config.lengths:
            size, static = cache_sizes(self.config.spans, length, self.config.max_new_tokens)
            outputs[f"cache_size_{length}"] = size[None].double()
            outputs[f"static_size_{length}"] = static[None].double()
        return outputs
