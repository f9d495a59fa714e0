"""Lightning Attention-2 and TransNormer: the operator, the attention of TNL, the residual stack of TransNormerLLM.

"Lightning Attention-2: A Free Lunch for Handling Unlimited Sequence Lengths in Large Language Models" (arXiv
2401.04658); "TransNormerLLM" (arXiv 2307.14995); "Various Lengths, Constant Speed" (arXiv 2405.17381).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from ommatid.models.config import PartConfig, require, require_divisible, require_positive
from ommatid.models.model import Model
from ommatid.models.reference import join_layers
from ommatid.models.registry import register, register_part
from ommatid.nn.block import Block
from ommatid.nn.feedforward import GLU
from ommatid.nn.init import init_normal_
from ommatid.nn.mixers import GatedLightningAttention, LightningAttention
from ommatid.nn.mixers.lightning import SimpleRMSNorm, layer_slope_scale, log_decay
from ommatid.ops.retention import retention_chunkwise


@dataclass(frozen=True, kw_only=True)
class LightningAttentionConfig(PartConfig):
    """`part` "core" reads `heads`, `decay`, `slope_scale` and `block_size`, on which its answer does not depend.

    "tnl_attention" is the layer `layer_index` of `depth`, "transnormer" a stack of `depth` layers. `hidden_dim` is
    `dim` where None, and so is `glu_dim`; `lrpe_all` gives all layers learned rotary positions, not the first alone.
    """

    part: Literal["core", "tnl_attention", "transnormer"] = "transnormer"
    dim: int = 1024
    heads: int = 8
    depth: int = 24
    layer_index: int = 0
    hidden_dim: int | None = None
    glu_dim: int | None = None
    lrpe_all: bool = False
    bias: bool = False
    decay: bool = True
    slope_scale: float = 1.0
    block_size: int = 64

    def check(self) -> None:
        require_positive(dim=self.dim, heads=self.heads, block_size=self.block_size)
        require(self.slope_scale >= 0, "slope_scale", self.slope_scale, "0 or more")
        if self.part == "core":
            return
        require_divisible(self.dim, self.heads)
        require(self.depth > 1, "depth", self.depth, "2 or more layers, over which the decay is spread")
        within = 0 <= self.layer_index < self.depth
        require(within, "layer_index", self.layer_index, f"from 0 up to, not including, the depth ({self.depth})")
        as_wide = self.hidden_dim in (None, self.dim)
        require(as_wide, "hidden_dim", self.hidden_dim, f"null or the width ({self.dim}), for the rotary positions")
        require(self.glu_dim is None or self.glu_dim > 0, "glu_dim", self.glu_dim, "null or a positive integer")


@register("lightning_attention", LightningAttentionConfig)
class TransNormer(Model):
    """tokens (B, N, C) -> `layerI`, what is behind each layer, and features (B, N, C), normed behind the last."""

    config: LightningAttentionConfig

    def __init__(self, config: LightningAttentionConfig) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList(transnormer_layer(config, layer) for layer in range(config.depth))
        self.norm = SimpleRMSNorm(config.dim)
        self.apply(init_normal_)

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        outputs = {}
        for index, layer in enumerate(self.layers):
            tokens = layer(tokens)
            outputs[f"layer{index}"] = tokens
        return outputs | {"features": self.norm(tokens)}


def transnormer_layer(config: LightningAttentionConfig, layer: int) -> Block:
    mixer = GatedLightningAttention(
        config.dim,
        config.heads,
        slope_scale=layer_slope_scale(layer, config.depth),
        rotary=config.lrpe_all or layer == 0,
        bias=config.bias,
    )
    channel_mixer = GLU(config.dim, config.glu_dim or config.dim, act=nn.Identity(), bias=config.bias)
    return Block(config.dim, mixer, channel_mixer, norm=SimpleRMSNorm)


@register_part("lightning_attention", "tnl_attention")
class TNLAttention(Model):
    """tokens (B, N, C) -> features (B, N, C)."""

    def __init__(self, config: LightningAttentionConfig) -> None:
        super().__init__(config)
        scale = layer_slope_scale(config.layer_index, config.depth)
        self.attn = LightningAttention(config.dim, config.heads, slope_scale=scale, bias=config.bias)
        self.apply(init_normal_)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.attn(tokens)


@register_part("lightning_attention", "core")
class LightningCore(Model):
    """q, k (B, heads, N, d), v (B, heads, N, e) -> output (B, heads, N, e), kv_state (B, heads, d, e) behind it."""

    config: LightningAttentionConfig

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> dict[str, Tensor]:
        heads = self.config.heads
        require(q.shape[1] == heads, "heads", heads, f"the number of heads of q ({q.shape[1]})")
        query, key, value = (x.transpose(1, 2) for x in (q, k, v))
        decay = self.log_decay().to(q.device)
        output, state = retention_chunkwise(query, key, value, decay, chunk_size=self.config.block_size)
        return {"output": output.transpose(1, 2), "kv_state": state}

    def log_decay(self) -> Tensor:
        return log_decay(self.config.heads, self.config.slope_scale if self.config.decay else 0.0)


REFERENCE_NAMES = [
    (r"\.token_mixer\.qkvu_proj\.", ".token.inner.qkvu."),
    (r"\.token_mixer\.out_proj\.", ".token.inner.proj."),
    (r"\.token_mixer\.lrpe\.", ".token.inner.rotary."),
    (r"\.channel_mixer\.l3\.", ".channel.inner.fc2."),
    (r"\.channel_mixer\.fc1\.", ".channel.inner.fc1."),
    (r"\.output_gate\.", ".gate."),
    (r"\.o_proj\.", ".proj."),
]


def convert_reference(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """One layer for what reads the same input."""
    state = join_layers(state, ("q_proj", "k_proj", "v_proj"), "qkv")
    return join_layers(state, ("l1", "l2"), "fc1")


def reference_outputs(model: nn.Module, **inputs: Tensor) -> dict[str, Tensor]:
    """The slopes of the operator's heads, whatever goes through them."""
    return {"slopes": model.log_decay().abs()} if isinstance(model, LightningCore) else {}
