"""TempScale: a temperature in every attention, against embeddings of long inputs that all look alike.

"Length-Induced Embedding Collapse in PLM-based Models" (arXiv 2410.24200). Rows of attention weights are a low-pass
filter over tokens, the stronger the more tokens there are; a temperature below 1 weakens it, without any training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.models.config import PartConfig, require, require_positive
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register, register_part
from ommatid.nn.mixers import Attention
from ommatid.ops.tempered_attention import tempered_attention_weights


def temper_attention_(model: nn.Module, temperature: float) -> None:
    """Divides the scores of every plain `Attention` in the model by the temperature, in place.

    It goes into the weights of the queries, so that nothing else changes: the model is saved, deployed and exported as
    before, and gets no slower.

    Raises:
        ValueError: the temperature is not positive, or there is no such attention, or one with a position bias.
    """
    require_positive(temperature=temperature)
    layers = [part for part in model.modules() if isinstance(part, Attention)]
    biased = sum(layer.bias is not None for layer in layers)
    require(bool(layers) and not biased, "model", type(model).__name__, "one of plain attention without position bias")
    for layer in layers:
        for parameter in (layer.qkv.weight, layer.qkv.bias):
            if parameter is not None:
                parameter.detach()[: len(parameter) // 3].div_(temperature)


class LowPass(NamedTuple):
    """How attention filters the frequencies of tokens, for each sample (B,). High ones are what is not the mean.

    gain: at most this much of the high frequencies is left. entropy: of a row of weights, on average, in nats.
    high_before, high_after, low_after: norms of the high and low parts before and behind the attention.
    """

    gain: Tensor
    entropy: Tensor
    high_before: Tensor
    high_after: Tensor
    low_after: Tensor


def low_pass(weights: Tensor, tokens: Tensor) -> LowPass:
    """What attention weights (B, N, N), of rows that sum to 1, do to tokens (B, N, C)."""
    mixed = weights @ tokens
    high = _without_mean(mixed)
    return LowPass(
        gain=torch.linalg.matrix_norm(_without_mean(weights), ord=2),
        entropy=-(weights * (weights + 1e-12).log()).sum(-1).mean(-1),
        high_before=torch.linalg.matrix_norm(_without_mean(tokens)),
        high_after=torch.linalg.matrix_norm(high),
        low_after=torch.linalg.matrix_norm(mixed - high),
    )


def _without_mean(tokens: Tensor) -> Tensor:
    return tokens - tokens.mean(1, keepdim=True)


def pooled_embeddings(tokens: Tensor) -> Tensor:
    """(n, N, C) -> (n, C): means over tokens, of length 1."""
    return F.normalize(tokens.mean(1), dim=-1)


def mean_cosine(embeddings: Tensor) -> Tensor:
    """How alike n >= 2 embeddings (n, C) of length 1 are: the mean cosine of two different ones, ().

    The measure of the collapse: compare that of long inputs with that of short ones.
    """
    count = len(embeddings)
    require(count > 1, "number of embeddings", count, "2 or more")
    cosines = embeddings @ embeddings.T
    return (cosines.sum() - cosines.diagonal().sum()) / (count * (count - 1))


@dataclass(frozen=True, kw_only=True)
class TempScaleConfig(PartConfig):
    """`scale` divides scores by sqrt(d), as BERT does and T5 does not; "low_pass" always does so."""

    function: Literal["attention", "low_pass", "similarity"] = "attention"
    temperature: float = 1.0
    scale: bool = True

    def check(self) -> None:
        require_positive(temperature=self.temperature)


class _TempScale(Procedure):
    config: TempScaleConfig


@register("tempscale", TempScaleConfig)
class TemperedAttention(_TempScale):
    """q, k, v (B, heads, N, d), bias (B, heads, N, N), mask (B, N) with 1 for valid -> output, attention."""

    def forward(  # type: ignore[override]
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        weights = tempered_attention_weights(
            q.transpose(1, 2),
            k.transpose(1, 2),
            temperature=self.config.temperature,
            scale=None if self.config.scale else 1.0,
            bias=bias,
            valid=None if mask is None else mask.bool(),
        )
        return {"output": weights @ v, "attention": weights}


@register_part("tempscale", "low_pass")
class Filter(_TempScale):
    """q, k (B, N, d) and x (B, N, c) -> the fields of `LowPass`, (B,) each."""

    def forward(self, q: Tensor, k: Tensor, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        weights = tempered_attention_weights(q.unsqueeze(2), k.unsqueeze(2), temperature=self.config.temperature)
        return low_pass(weights.squeeze(1), x)._asdict()


@register_part("tempscale", "similarity")
class Similarity(_TempScale):
    """tokens (n, N, C) -> embedding (n, C) and mean_cosine ()."""

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        embeddings = pooled_embeddings(tokens)
        return {"embedding": embeddings, "mean_cosine": mean_cosine(embeddings)}
