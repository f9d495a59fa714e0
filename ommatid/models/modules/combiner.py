"""Combiner: full attention at sparse cost, direct to a few tokens and through summaries to all others.

"Combiner: Full Attention Transformer with Sparse Computation Cost" (arXiv 2107.05768).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ommatid.models.config import PartConfig, require, require_divisible, require_positive
from ommatid.models.model import Model
from ommatid.models.reference import join_layers
from ommatid.models.registry import register
from ommatid.nn.init import init_normal_
from ommatid.nn.mixers import combiner_attention
from ommatid.nn.mixers.combiner import Factorization, LocalSummary, RowSummary
from ommatid.ops.refusal import require_length
from ommatid.ops.summarized_attention import Running


@dataclass(frozen=True, kw_only=True)
class CombinerConfig(PartConfig):
    """As of `combiner_attention`. `segment` is how many tokens a row has; "logarithmic" does not read it."""

    factorization: Factorization = "fixed"
    dim: int = 512
    heads: int = 8
    segment: int = 64
    causal: bool = True
    bias: bool = False
    local_summary: LocalSummary = "identity-max"
    row_summary: RowSummary = "wsum_proj"
    running_summary: Running = "sum"

    def check(self) -> None:
        require_positive(dim=self.dim, segment=self.segment)
        require_divisible(self.dim, self.heads)
        forward = self.causal or self.factorization != "logarithmic"
        require(forward, "causal", self.causal, "true for the logarithmic factorization")
        summed = self.causal or self.factorization != "axial_mixture" or self.running_summary == "sum"
        require(summed, "running_summary", self.running_summary, "'sum' where the mixture is not causal")


@register("combiner", CombinerConfig)
class Combiner(Model):
    """tokens (B, N, C) -> features (B, N, C); N is a multiple of `segment`, but if "logarithmic"."""

    config: CombinerConfig

    def __init__(self, config: CombinerConfig) -> None:
        super().__init__(config)
        self.mixer = combiner_attention(
            config.dim,
            config.heads,
            factorization=config.factorization,
            causal=config.causal,
            local_summary=config.local_summary,
            row_summary=config.row_summary,
            running_summary=config.running_summary,
            bias=config.bias,
        )
        self.apply(init_normal_)

    def forward(self, tokens: Tensor) -> Tensor:
        length, segment = tokens.shape[1], self.config.segment
        if self.config.factorization == "logarithmic":
            segment = length
        require_length(length % segment == 0, length, f"multiples of the segment ({segment})")
        return self.mixer(tokens.unflatten(1, (-1, segment))).flatten(1, 2)


REFERENCE_NAMES = [
    (r"^mixer\.out\.", "mixer.proj."),
    (r"^mixer\.row_out\.", "mixer.attend.row_key.inner."),
    (r"^mixer\.row_norm\.", "mixer.attend.row_key.norm."),
    (r"^mixer\.row_key\.", "mixer.attend.row_key.outer."),
]


def convert_reference(state: dict[str, Tensor], model: Combiner) -> dict[str, Tensor]:
    return join_layers({f"mixer.{name}": value for name, value in state.items()}, ("q", "k", "v"), "qkv")
