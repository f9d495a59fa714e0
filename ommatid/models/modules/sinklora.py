"""Attention in groups, as language models learn longer contexts with it: LongLoRA's, and SinkLoRA's that mends it.

"SinkLoRA" (arXiv 2406.05678); "LongLoRA" (arXiv 2309.12307). Once trained, the same weights attend to everything: put
`attend_causally` in the place of the layer's `attend`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from ommatid.models.config import PartConfig, require, require_divisible, require_positive
from ommatid.models.model import Model
from ommatid.models.registry import register, register_part
from ommatid.nn.grouped_query import Attend, GroupedQueryAttention
from ommatid.nn.init import init_linear_
from ommatid.ops.tempered_attention import tempered_attention_weights
from ommatid.ops.token_groups import shifted_groups, shifted_sparse_attention, sink_fixed_attention, sink_fixed_mask


@dataclass(frozen=True, kw_only=True)
class SinkLoRAConfig(PartConfig):
    """`part` "sink_fixed" alone reads `shifted_heads`, a quarter of the heads where None, and `sink_tokens`."""

    part: Literal["shifted_sparse", "sink_fixed"] = "sink_fixed"
    dim: int = 4096
    heads: int = 32
    kv_heads: int = 32
    group_size: int = 2048
    causal: bool = True
    shifted_heads: int | None = None
    sink_tokens: int = 4
    rope: bool = True

    def check(self) -> None:
        require_positive(dim=self.dim, group_size=self.group_size)
        require_divisible(self.dim, self.heads)
        divides = self.kv_heads > 0 and self.heads % self.kv_heads == 0
        require(divides, "kv_heads", self.kv_heads, f"a divisor of heads ({self.heads})")
        width = self.dim // self.heads
        require(not self.rope or width % 2 == 0, "rope", True, f"true for an even width of a head ({width})")
        if self.part == "shifted_sparse":
            require(self.group_size % 2 == 0, "group_size", self.group_size, "an even number in this part")
        require(0 <= self.shifted <= self.heads, "shifted_heads", self.shifted_heads, f"from 0 to {self.heads}")
        require(self.sink_tokens >= 0, "sink_tokens", self.sink_tokens, "0 or more")

    @property
    def shifted(self) -> int:
        return self.heads // 4 if self.shifted_heads is None else self.shifted_heads

    @property
    def groups(self) -> dict[str, Any]:
        """Who sees whom in the part "sink_fixed"."""
        return {
            "group": self.group_size,
            "shifted_heads": self.shifted,
            "sinks": self.sink_tokens,
            "causal": self.causal,
        }


class _GroupedLayer(Model):
    config: SinkLoRAConfig

    def __init__(self, config: SinkLoRAConfig, attend: Attend) -> None:
        super().__init__(config)
        self.attention = GroupedQueryAttention(
            config.dim, config.heads, config.kv_heads, attend=attend, rope=config.rope
        )
        self.apply(init_linear_)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.attention(tokens)


@register("sinklora", SinkLoRAConfig)
class SinkFixed(_GroupedLayer):
    """tokens (B, N, C) -> features (B, N, C); any N."""

    def __init__(self, config: SinkLoRAConfig) -> None:
        super().__init__(config, partial(sink_fixed_attention, **config.groups))


@register_part("sinklora", "shifted_sparse")
class ShiftedSparse(_GroupedLayer):
    """tokens (B, N, C) -> features (B, N, C); `group_size` divides N."""

    def __init__(self, config: SinkLoRAConfig) -> None:
        super().__init__(config, partial(shifted_sparse_attention, group=config.group_size, causal=config.causal))


REFERENCE_NAMES = [
    (r"^q_proj\.", "attention.query."),
    (r"^k_proj\.", "attention.key."),
    (r"^v_proj\.", "attention.value."),
    (r"^o_proj\.", "attention.proj."),
]


def reference_outputs(model: SinkFixed | ShiftedSparse, tokens: Tensor) -> dict[str, Tensor]:
    """With who sees whom (heads, N, N), or with the weights in the groups (B * N / group, heads, group, group)."""
    config, features = model.config, model(tokens)
    if isinstance(model, SinkFixed):
        return {
            "features": features,
            "visible": sink_fixed_mask(tokens.shape[1], config.heads, **config.groups).float(),
        }
    query, key, _ = (shifted_groups(part, config.group_size) for part in model.attention.project(tokens))
    later = torch.full((config.group_size, config.group_size), -torch.inf).triu(1) if config.causal else None
    return {"features": features, "attention": tempered_attention_weights(query, key, bias=later)}
