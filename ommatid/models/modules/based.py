"""Based: three causal token mixers, one that sees far and coarsely and two that see near and exactly.

"Simple linear attention language models balance the recall-throughput tradeoff" (arXiv 2402.18668). Published, they
take turns in the layers of one residual network; here each is a module of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ommatid.models.config import PartConfig, require, require_divisible, require_positive
from ommatid.models.model import Model
from ommatid.models.registry import register, register_part
from ommatid.nn.init import init_normal_
from ommatid.nn.mixers import GatedShortConv, SlidingWindowAttention, TaylorAttention
from ommatid.ops.taylor_features import taylor_features


@dataclass(frozen=True, kw_only=True)
class BasedConfig(PartConfig):
    """All parts but "taylor_features" read `dim`; `bias` is of "sliding_window" and "short_conv".

    "linear_attention" and "taylor_features" read `feature_dim`, the former also `head_dim`, which is dim / heads where
    None; "sliding_window" reads `window_size` and `rotary_dim`, "short_conv" reads `kernel_size` and `expand`.
    """

    part: Literal["taylor_features", "linear_attention", "sliding_window", "short_conv"] = "linear_attention"
    dim: int = 1024
    heads: int = 16
    head_dim: int | None = None
    feature_dim: int = 16
    window_size: int = 256
    rotary_dim: int = 0
    bias: bool = True
    kernel_size: int = 3
    expand: int = 4

    def check(self) -> None:
        require_positive(
            dim=self.dim,
            heads=self.heads,
            feature_dim=self.feature_dim,
            window_size=self.window_size,
            kernel_size=self.kernel_size,
            expand=self.expand,
        )
        if self.head_dim is not None:
            require_positive(head_dim=self.head_dim)
        if self.part == "sliding_window" or (self.part == "linear_attention" and self.head_dim is None):
            require_divisible(self.dim, self.heads)
        if self.part == "sliding_window":
            most = self.dim // self.heads
            pairs = 0 <= self.rotary_dim <= most and self.rotary_dim % 2 == 0
            require(pairs, "rotary_dim", self.rotary_dim, f"an even number from 0 to a head's channels ({most})")
        halves = self.part != "short_conv" or self.expand * self.dim % 2 == 0
        require(halves, "expand", self.expand, f"what makes an even number of channels of {self.dim}")


@register("based", BasedConfig)
class BasedLinearAttention(Model):
    """tokens (B, N, C) -> features (B, N, C), and kv_state (B, heads, e, D) and k_state (B, heads, D) behind them."""

    def __init__(self, config: BasedConfig) -> None:
        super().__init__(config)
        self.mixer = TaylorAttention(config.dim, config.heads, head_dim=config.head_dim, feature_dim=config.feature_dim)
        self.apply(init_normal_)

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        features, state = self.mixer.advance(tokens)
        return {"features": features, "kv_state": state[..., :-1].mT, "k_state": state[..., -1]}


@register_part("based", "sliding_window")
class BasedSlidingWindow(Model):
    """tokens (B, N, C) -> features (B, N, C)."""

    def __init__(self, config: BasedConfig) -> None:
        super().__init__(config)
        self.mixer = SlidingWindowAttention(
            config.dim, config.heads, config.window_size, rotary_dim=config.rotary_dim, bias=config.bias
        )
        self.apply(init_normal_)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.mixer(tokens)


@register_part("based", "short_conv")
class BasedShortConv(Model):
    """tokens (B, N, C) -> features (B, N, C)."""

    def __init__(self, config: BasedConfig) -> None:
        super().__init__(config)
        self.mixer = GatedShortConv(config.dim, kernel_size=config.kernel_size, expand=config.expand, bias=config.bias)
        self.apply(init_normal_)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.mixer(tokens)


@register_part("based", "taylor_features")
class BasedTaylorFeatures(Model):
    """q (..., N, d), k (..., M, d) -> features (..., N, D), those of q, and kernel (..., N, M), their products."""

    def forward(self, q: Tensor, k: Tensor) -> dict[str, Tensor]:
        features = taylor_features(q)
        return {"features": features, "kernel": features @ taylor_features(k).mT}


REFERENCE_NAMES = [
    (r"\.proj_q\.", ".query."),
    (r"\.proj_k\.", ".key."),
    (r"\.proj_v\.", ".value."),
    (r"\.Wqkv\.", ".qkv."),
    (r"\.in_proj\.", ".fc1."),
    (r"^(mixer)\.conv\.conv\.", r"\1.conv."),
]


def convert_reference(state: dict[str, Tensor], model: Model) -> dict[str, Tensor]:
    """The last layer of the reference's attention is called as that of its convolution."""
    last = ".fc2." if isinstance(model, BasedShortConv) else ".proj."
    return {name.replace(".out_proj.", last): value for name, value in state.items()}
