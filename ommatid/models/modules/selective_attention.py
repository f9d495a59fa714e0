"""Selective attention, as it was published in code and as it was published in equations.

"Selective Attention: Enhancing Transformer through Principled Context Control" (arXiv 2411.12892).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ommatid.models.config import PartConfig, require, require_divisible, require_positive
from ommatid.models.model import Model
from ommatid.models.registry import register, register_part
from ommatid.nn.mixers import SelectiveAttention
from ommatid.nn.position_temperature import PositionTemperedAttention


@dataclass(frozen=True, kw_only=True)
class SelectiveAttentionConfig(PartConfig):
    """`part` "position_code" reads `bias` and `max_tokens`, "selective" what comes behind them."""

    part: Literal["selective", "position_code"] = "selective"
    dim: int = 768
    heads: int = 12
    bias: bool = True
    max_tokens: int = 1024
    hidden_dim: int = 16
    causal: bool = True
    token_aware: bool = True
    position_aware: tuple[Literal["q", "v"], ...] = ("q",)

    def check(self) -> None:
        require_positive(dim=self.dim, max_tokens=self.max_tokens, hidden_dim=self.hidden_dim)
        require_divisible(self.dim, self.heads)
        different = len(set(self.position_aware)) == len(self.position_aware)
        require(different, "position_aware", self.position_aware, "a list out of 'q' and 'v', each once")


@register("selective_attention", SelectiveAttentionConfig)
class SelectiveLayer(Model):
    """tokens (B, N, C) -> features (B, N, C), query_temperature and value_temperature (B, N)."""

    def __init__(self, config: SelectiveAttentionConfig) -> None:
        super().__init__(config)
        self.attention = SelectiveAttention(
            config.dim,
            config.heads,
            hidden=config.hidden_dim if config.token_aware else None,
            position_aware=config.position_aware,
            causal=config.causal,
        )

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        of_queries, of_values = self.attention.temperatures(tokens)
        features = self.attention.mix(tokens, of_queries, of_values)
        return {"features": features, "query_temperature": of_queries, "value_temperature": of_values}


@register_part("selective_attention", "position_code")
class PositionCode(Model):
    """tokens (B, N, C) -> features (B, N, C), causal, of at most `max_tokens` tokens."""

    config: SelectiveAttentionConfig

    def __init__(self, config: SelectiveAttentionConfig) -> None:
        super().__init__(config)
        self.attention = PositionTemperedAttention(config.dim, config.heads, bias=config.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        count, most = tokens.shape[1], self.config.max_tokens
        require(count <= most, "number of tokens", count, f"at most max_tokens ({most})")
        return self.attention(tokens)


REFERENCE_NAMES = [
    (r"^attn\.", "attention."),
    (r"\.c_attn\.", ".qkv."),
    (r"\.c_proj\.", ".proj."),
    (r"\.alpha_q$", ".query_temperature.alpha"),
    (r"\.alpha_v$", ".value_temperature.alpha"),
    (r"\.tau_q_in\.", ".query_temperature.token.fc1."),
    (r"\.tau_q_out\.", ".query_temperature.token.fc2."),
    (r"\.tau_v_in\.", ".value_temperature.token.fc1."),
    (r"\.tau_v_out\.", ".value_temperature.token.fc2."),
]


def reference_outputs(model: SelectiveLayer | PositionCode, tokens: Tensor) -> dict[str, Tensor]:
    if isinstance(model, PositionCode):
        return {"features": model(tokens), "temperature": model.attention.temperatures(tokens.shape[1])}
    return model(tokens)
