"""Routing Transformer: attention inside clusters that centroids choose, and the centroids' online k-means.

"Efficient Content-Based Sparse Attention with Routing Transformers" (arXiv 2003.05997).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.models.config import PartConfig, require, require_divisible, require_positive
from ommatid.models.model import Model
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register, register_part
from ommatid.nn.feedforward import GLU, MLP
from ommatid.nn.mixers import RoutingAttention
from ommatid.nn.residual import Residual
from ommatid.ops.online_kmeans import (
    balanced_members,
    batch_centroids,
    centroid_scores,
    commitment_loss,
    moved_centroids,
)


@dataclass(frozen=True, kw_only=True)
class RoutingTransformerConfig(PartConfig):
    """`window_size` is how many tokens a centroid picks; there are max_tokens // window_size centroids a head.

    `head_dim` is dim / heads where None. `local_heads` of "stack" may differ from layer to layer; `depth` and `glu` are
    for it alone. "kmeans_update" reads `ema_decay`, `commitment` and `window_size`.
    """

    part: Literal["attention", "stack", "kmeans_update"] = "attention"
    dim: int = 512
    heads: int = 8
    head_dim: int | None = None
    max_tokens: int = 4096
    window_size: int = 128
    local_heads: int | tuple[int, ...] = 4
    local_window_size: int = 128
    causal: bool = False
    shared_qk: bool = False
    memory_slots: int = 0
    commitment: float = 1e-4
    ema_decay: float = 0.999
    rotary: bool = False
    depth: int = 6
    glu: bool = False

    def check(self) -> None:
        require_positive(window_size=self.window_size)
        require(0 <= self.ema_decay <= 1, "ema_decay", self.ema_decay, "from 0 to 1")
        require(self.commitment >= 0, "commitment", self.commitment, "0 or more")
        if self.part == "kmeans_update":
            return
        require_positive(dim=self.dim, heads=self.heads, local_window_size=self.local_window_size, depth=self.depth)
        if self.head_dim is None:
            require_divisible(self.dim, self.heads)
        require(self.width > 0, "head_dim", self.head_dim, "null or a positive integer")
        enough = self.max_tokens >= self.window_size
        require(enough, "max_tokens", self.max_tokens, f"the window ({self.window_size}) or more")
        require(self.memory_slots >= 0, "memory_slots", self.memory_slots, "0 or more")
        layers = 1 if self.part == "attention" else self.depth
        fits = len(self.local) == layers and all(0 <= local <= self.heads for local in self.local)
        allowed = f"from 0 to the number of heads ({self.heads}), or a list of that for {layers} layers"
        require(fits, "local_heads", self.local_heads, allowed)
        turned = any(self.local) or self.rotary
        require(self.width % 2 == 0 or not turned, "head_dim", self.width, "an even number, for rotary positions")

    @property
    def width(self) -> int:
        return self.dim // self.heads if self.head_dim is None else self.head_dim

    @property
    def local(self) -> tuple[int, ...]:
        """The local heads of each layer."""
        if isinstance(self.local_heads, tuple):
            return self.local_heads
        return (self.local_heads,) * (1 if self.part == "attention" else self.depth)


def attention(config: RoutingTransformerConfig, local_heads: int) -> RoutingAttention:
    return RoutingAttention(
        config.dim,
        config.heads,
        config.max_tokens,
        cluster_size=config.window_size,
        head_dim=config.width,
        local_heads=local_heads,
        local_window_size=config.local_window_size,
        causal=config.causal,
        shared_qk=config.shared_qk,
        memory_slots=config.memory_slots,
        commitment=config.commitment,
        ema_decay=config.ema_decay,
        rotary=config.rotary,
    )


@register("routing_transformer", RoutingTransformerConfig)
class RoutedAttention(Model):
    """tokens (B, N, C) -> features (B, N, C); `mask` (B, N) is 1 for tokens and 0 for what only fills up."""

    config: RoutingTransformerConfig

    def __init__(self, config: RoutingTransformerConfig) -> None:
        super().__init__(config)
        self.attn = attention(config, config.local[0])

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.with_auxiliary_loss(tokens, mask)[0]

    def with_auxiliary_loss(self, tokens: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The same, and what a training adds to its loss; a scalar."""
        return self.attn.with_auxiliary_loss(tokens, None if mask is None else mask.bool())


@register_part("routing_transformer", "stack")
class RoutingTransformer(Model):
    """tokens (B, N, C) -> features (B, N, C), through all layers; `mask` as of the attention."""

    config: RoutingTransformerConfig

    def __init__(self, config: RoutingTransformerConfig) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList(RoutingLayer(config, local_heads) for local_heads in config.local)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.with_auxiliary_loss(tokens, mask)[0]

    def with_auxiliary_loss(self, tokens: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The same, and what a training adds to its loss: the sum of all layers, (1,)."""
        losses = []
        for layer in self.layers:
            tokens, loss = layer(tokens, None if mask is None else mask.bool())
            losses.append(loss)
        return tokens, torch.stack(losses).sum(0, keepdim=True)


class RoutingLayer(nn.Module):
    """A pre-norm block: (B, N, C) -> (B, N, C) and the attention's loss."""

    def __init__(self, config: RoutingTransformerConfig, local_heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.dim)
        self.attn = attention(config, local_heads)
        hidden = 4 * config.dim
        glu = GLU(config.dim, hidden, act=nn.GELU(), bias=True)
        self.channel = Residual(config.dim, glu if config.glu else MLP(config.dim, hidden))

    def forward(self, tokens: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        mixed, loss = self.attn.with_auxiliary_loss(self.norm(tokens), valid)
        return self.channel(tokens + mixed), loss


@register_part("routing_transformer", "kmeans_update")
class KmeansUpdate(Procedure):
    """x (B, heads, N, d), means (heads, K, d), of any length -> what one step of training makes of them."""

    config: RoutingTransformerConfig

    def forward(self, x: Tensor, means: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        centroids = F.normalize(means, dim=-1)
        scores, found = centroid_scores(x, centroids), batch_centroids(x, centroids)
        return {
            "assignment": scores.argmax(-1),
            "members": balanced_members(scores, self.config.window_size),
            "batch_means": found,
            "ema_means": moved_centroids(centroids, found, self.config.ema_decay),
            "commitment_loss": self.config.commitment * commitment_loss(x, centroids, scores),
        }


REFERENCE_NAMES = [
    (r"^net\.layers\.layers\.(\d+)\.0\.norm\.", r"layers.\1.norm."),
    (r"^net\.layers\.layers\.(\d+)\.0\.fn\.", r"layers.\1.attn."),
    (r"^net\.layers\.layers\.(\d+)\.1\.norm\.", r"layers.\1.channel.norm."),
    (r"^net\.layers\.layers\.(\d+)\.1\.fn\.fn\.w(\d)\.", r"layers.\1.channel.inner.fc\2."),
    (r"\.local_to_qkv\.", ".local.qkv."),
    (r"\.to_out\.", ".proj."),
    (r"\.to_q\.", ".routed.query."),
    (r"\.to_k\.", ".routed.key."),
    (r"\.to_v\.", ".routed.value."),
    (r"\.global_attn\.kmeans\.means$", ".routed.centroids.means"),
    (r"\.global_attn\.kmeans\.initted$", ".routed.centroids.started"),
    (r"\.global_attn\.mem_", ".routed.memory_"),
]

REFERENCE_IGNORED = [r"\.inv_freq$"]


def convert_reference(state: dict[str, Tensor], model: Model) -> dict[str, Tensor]:
    """Memories of no slots are left out; centroids that were stored are those of a training."""
    started = {
        name.removesuffix("means") + "initted": torch.tensor(True) for name in state if name.endswith(".kmeans.means")
    }
    return started | {name: value for name, value in state.items() if value.numel()}


def reference_outputs(model: RoutedAttention | RoutingTransformer, **inputs: Tensor) -> dict[str, Tensor]:
    features, loss = model.with_auxiliary_loss(**inputs)
    return {"features": features, "aux_loss": loss}
