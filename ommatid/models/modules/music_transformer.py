"""Music Transformer: a transformer of long sequences that counts back from each event to the ones before.

"Music Transformer: Generating Music with Long-Term Structure" (arXiv 1809.04281), as the reimplementation by gwinndr.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ommatid.models.config import PartConfig, require, require_divisible, require_positive
from ommatid.models.model import Model
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register, register_part
from ommatid.nn.feedforward import MLP
from ommatid.nn.relative_attention import RelativeAttention
from ommatid.nn.residual import PostNormResidual
from ommatid.nn.sine_position import waves
from ommatid.ops.relative_skew import backward_scores


@dataclass(frozen=True, kw_only=True)
class MusicTransformerConfig(PartConfig):
    """`part` "skew" reads nothing, "stack" and "model" read `depth` and `hidden_dim`, "model" also `vocabulary`."""

    part: Literal["skew", "attention", "stack", "model"] = "stack"
    dim: int = 512
    heads: int = 8
    max_tokens: int = 2048
    causal: bool = True
    depth: int = 6
    hidden_dim: int = 1024
    vocabulary: int = 390

    def check(self) -> None:
        require_positive(dim=self.dim, max_tokens=self.max_tokens, depth=self.depth, hidden_dim=self.hidden_dim)
        require_positive(vocabulary=self.vocabulary)
        require_divisible(self.dim, self.heads)

    def attention(self) -> RelativeAttention:
        return RelativeAttention(self.dim, self.heads, self.max_tokens, causal=self.causal)


class PositionedStack(nn.Module):
    """Absolute positions as waves, then post-norm layers and a norm: (B, N, C) -> (B, N, C)."""

    def __init__(self, config: MusicTransformerConfig) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(post_norm_layer(config) for _ in range(config.depth)))
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, tokens: Tensor) -> Tensor:
        place = torch.arange(tokens.shape[1], device=tokens.device)
        positions = waves(place, tokens.shape[2]).to(tokens.dtype)
        return self.norm(self.layers(tokens + positions))


def post_norm_layer(config: MusicTransformerConfig) -> nn.Sequential:
    mlp = MLP(config.dim, config.hidden_dim, act=nn.ReLU())
    return nn.Sequential(*(PostNormResidual(config.dim, inner) for inner in (config.attention(), mlp)))


@register("music_transformer", MusicTransformerConfig)
class MusicStack(Model):
    """tokens (B, N, C) -> features (B, N, C), for at most `max_tokens` tokens."""

    def __init__(self, config: MusicTransformerConfig) -> None:
        super().__init__(config)
        self.encoder = PositionedStack(config)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.encoder(tokens)


@register_part("music_transformer", "model")
class MusicTransformer(Model):
    """events (B, N), integers from 0 to vocabulary - 1 -> logits of the event behind each, (B, N, vocabulary)."""

    config: MusicTransformerConfig

    def __init__(self, config: MusicTransformerConfig) -> None:
        super().__init__(config)
        require(config.causal, "causal", config.causal, "true in a model that says what comes next")
        self.embedding = nn.Embedding(config.vocabulary, config.dim)
        self.encoder = PositionedStack(config)
        self.head = nn.Linear(config.dim, config.vocabulary)

    def forward(self, events: Tensor) -> Tensor:
        return self.head(self.encoder(self.embedding(events)))


@register_part("music_transformer", "attention")
class MusicAttention(Model):
    """tokens (B, N, C) -> features (B, N, C)."""

    config: MusicTransformerConfig

    def __init__(self, config: MusicTransformerConfig) -> None:
        super().__init__(config)
        self.attention = config.attention()

    def forward(self, tokens: Tensor) -> Tensor:
        return self.attention(tokens)


@register_part("music_transformer", "skew")
class Skew(Procedure):
    """q (G, N, d) and embeddings (L, d) of distances -> relative (G, N, N)."""

    config: MusicTransformerConfig

    def forward(self, q: Tensor, embeddings: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"relative": backward_scores(q, embeddings)}


VARIANTS = {"music_transformer_base": MusicTransformerConfig(part="model")}

REFERENCE_NAMES = [
    (r"^transformer\.", ""),
    (r"^Wout\.", "head."),
    (r"^attn\.", "attention."),
    (r"\.self_attn\.", ".0.inner."),
    (r"\.in_proj_", ".qkv."),
    (r"\.out_proj\.", ".proj."),
    (r"\.Er$", ".distance"),
    (r"\.linear(\d)\.", r".1.inner.fc\1."),
    (r"\.norm1\.", ".0.norm."),
    (r"\.norm2\.", ".1.norm."),
]
REFERENCE_IGNORED = [r"^positional_encoding\.pe$"]


def reference_outputs(model: Model, **inputs: Tensor) -> dict[str, Tensor]:
    """With the weights of the attention, averaged over its heads."""
    if not isinstance(model, MusicAttention):
        return {}
    return {"features": model(**inputs), "attention_mean": model.attention.weights(inputs["tokens"]).mean(1)}
