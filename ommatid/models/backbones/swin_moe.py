"""Swin-MoE: Swin Transformer whose later blocks have many MLPs, of which each token uses one.

"Tutel: Adaptive Mixture-of-Experts at Scale" (arXiv 2206.03382), on "Swin Transformer: Hierarchical Vision Transformer
using Shifted Windows" (arXiv 2103.14030) with the position bias of Swin Transformer V2 (arXiv 2111.09883).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier, doubling_strides
from ommatid.models.config import Config, require, require_positive, require_stages
from ommatid.models.names import (
    BLOCK_NAMES,
    SWIN_STAGE_NAMES,
    SWIN_TABLES,
    TUTEL_NAMES,
    WINDOW_PYRAMID_STEM_NAMES,
)
from ommatid.models.reference import changed, position_map
from ommatid.models.registry import register
from ommatid.models.window_pyramid import WindowPyramidConfig, window_pyramid_stem
from ommatid.nn.block import Block, pyramid, pyramid_stages
from ommatid.nn.embed import PatchMerging
from ommatid.nn.feedforward import MLP
from ommatid.nn.init import init_linear_
from ommatid.nn.mixers import WindowAttention
from ommatid.nn.moe.experts import StackedLinear, StackedMLP
from ommatid.nn.moe.layer import MoE
from ommatid.nn.moe.tutel import BalanceKind, RouterKind, tutel_moe
from ommatid.nn.position import log_spaced_bias
from ommatid.nn.residual import stochastic_depth


@dataclass(frozen=True, kw_only=True)
class SwinMoEConfig(Config):
    """`moe_blocks` lists, for each stage, the blocks with experts; [-1] for none.

    `capacity_factor` as in Tutel: 0 drops nothing. `pretrained_window_sizes` as in Swin V2; 0 for none.
    """

    image_size: int | tuple[int, int] = 192
    patch_size: int = 4
    dims: tuple[int, ...] = (96, 192, 384, 768)
    depths: tuple[int, ...] = (2, 2, 18, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: int = 12
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    pretrained_window_sizes: tuple[int, ...] = (0, 0, 0, 0)
    mlp_fc2_bias: bool = False
    moe_blocks: tuple[tuple[int, ...], ...] = ((-1,), (-1,), (1, 3, 5, 7, 9, 11, 13, 15, 17), (1,))
    num_experts: int = 8
    top_k: int = 1
    capacity_factor: float = 1.25
    router: RouterKind = "linear"
    normalize_gate: bool = False
    batch_prioritized_routing: bool = True
    balance_loss: BalanceKind = "load_importance"
    gate_noise: float = 1.0
    cosine_router_dim: int = 256
    aux_loss_weight: float = 0.01
    absolute_pos_embed: bool = False

    def check(self) -> None:
        _ = self.windows
        pretrained = self.pretrained_window_sizes
        require_stages(dims=self.dims, pretrained_window_sizes=pretrained, moe_blocks=self.moe_blocks)
        require(min(pretrained) >= 0, "pretrained_window_sizes", pretrained, "positive integers, or 0 for none")
        for depth, blocks in zip(self.depths, self.moe_blocks, strict=True):
            inside = all(-1 <= block < depth for block in blocks)
            require(inside, "moe_blocks", self.moe_blocks, f"from 0 to {depth - 1} in a stage of {depth}, or [-1]")
        require_positive(num_experts=self.num_experts, top_k=self.top_k, cosine_router_dim=self.cosine_router_dim)
        require(self.gate_noise >= 0, "gate_noise", self.gate_noise, "0 (none) or more")
        enough = self.gate_noise > 0 or self.balance_loss != "load_importance"
        require(enough, "gate_noise", self.gate_noise, "above 0 where balance_loss is 'load_importance'")

    @property
    def windows(self) -> WindowPyramidConfig:
        """The pyramid of windows that all Swin models share."""
        return WindowPyramidConfig(
            in_channels=self.in_channels,
            image_size=self.image_size,
            patch_size=self.patch_size,
            dims=self.dims,
            depths=self.depths,
            heads=self.heads,
            window_size=self.window_size,
            mlp_ratio=self.mlp_ratio,
            absolute_position=self.absolute_pos_embed,
        )


@register("swin_moe", SwinMoEConfig)
class SwinMoE(Backbone):
    """Swin Transformer with experts. Its training adds their balance losses.

    Windows and the position table follow `image_size`, as in the reference; images of any other size work too: maps
    are padded to whole windows, and absolute positions resampled. Experts take only so many tokens of a batch, in
    evaluation too: what an image gets depends on the others.
    """

    config: SwinMoEConfig
    batch_dependent = True
    no_decay = (
        "table",
        "network.0.weight",
        "network.2.weight",
        ".bias",
        "log_scale",
        "logits.proj.weight",
        "directions",
    )

    def __init__(self, config: SwinMoEConfig) -> None:
        super().__init__(config)
        dims = config.dims
        self.channels, self.strides = dims, doubling_strides(config.patch_size, len(dims))
        self.balance_weight = config.aux_loss_weight
        rates = stochastic_depth(config.drop_path_rate, config.depths)
        self.stem = window_pyramid_stem(config.windows)
        self.stages = pyramid_stages(
            dims, rates, PatchMerging, lambda i, j, rate: swin_moe_block(config, i, j, drop_path=rate)
        )
        self.norm = nn.LayerNorm(dims[-1])
        self.head = classifier(dims[-1], config.num_classes)
        self.apply(init_linear_)
        self.apply(init_experts_)

    def maps(self, image: Tensor) -> list[Tensor]:
        return pyramid(self.stages, self.stem(channels_last(image)))

    def embed(self, image: Tensor) -> Tensor:
        return self.norm(self.maps(image)[-1]).mean((1, 2))


def swin_moe_block(config: SwinMoEConfig, stage: int, index: int, *, drop_path: float) -> Block:
    dim = config.dims[stage]
    window, shift = config.windows.window_and_shift(stage, index)
    trained = config.pretrained_window_sizes[stage]
    bias = log_spaced_bias(
        (window, window),
        config.heads[stage],
        trained_window=(trained, trained) if trained else None,
        most=None,
    )
    mixer = WindowAttention(dim, config.heads[stage], window, shift=shift, qkv_bias=config.qkv_bias, bias=bias)
    has_experts = index in config.moe_blocks[stage]
    channel_mixer = experts(config, dim) if has_experts else mlp(config, dim)
    return Block(dim, mixer, channel_mixer, drop_path=drop_path)


def mlp(config: SwinMoEConfig, dim: int) -> MLP:
    hidden = int(dim * config.mlp_ratio)
    dense = MLP(dim, hidden)
    if not config.mlp_fc2_bias:
        dense.fc2 = nn.Linear(hidden, dim, bias=False)
    return dense


def experts(config: SwinMoEConfig, dim: int) -> MoE:
    """Experts add their second bias even where MLPs have none; it is not trained then."""
    hidden = int(dim * config.mlp_ratio)
    moe = tutel_moe(
        dim,
        hidden,
        num_experts=config.num_experts,
        top_k=config.top_k,
        router=config.router,
        cosine_router_dim=config.cosine_router_dim,
        normalize_gate=config.normalize_gate,
        gate_noise=config.gate_noise,
        balance_loss=config.balance_loss,
        capacity_factor=config.capacity_factor,
        batch_prioritized_routing=config.batch_prioritized_routing,
        act=nn.GELU(),
    )
    assert isinstance(moe.experts, StackedMLP)
    assert moe.experts.fc2.bias is not None
    moe.experts.fc2.bias.requires_grad_(config.mlp_fc2_bias)
    return moe


def init_experts_(layer: nn.Module) -> None:
    """Stacked linear layers, as single ones: weights from N(0, 0.02), cut at +-2; biases 0."""
    if isinstance(layer, StackedLinear):
        nn.init.trunc_normal_(layer.weight, std=0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


SMALL = SwinMoEConfig()
BASE = SMALL.replace(dims=(128, 256, 512, 1024), heads=(4, 8, 16, 32))
NO_EXPERTS = {"moe_blocks": ((-1,),) * 4, "num_experts": 1}

VARIANTS = {
    "swin_moe_small_dense": SMALL.replace(**NO_EXPERTS),
    "swin_moe_small_8expert": SMALL,
    "swin_moe_small_16expert": SMALL.replace(num_experts=16),
    "swin_moe_small_32expert": SMALL.replace(num_experts=32),
    "swin_moe_small_cosine_32expert": SMALL.replace(num_experts=32, router="cosine"),
    "swin_moe_small_64expert": SMALL.replace(num_experts=64),
    "swin_moe_small_128expert": SMALL.replace(num_experts=128),
    "swin_moe_base_dense": BASE.replace(**NO_EXPERTS),
    "swin_moe_base_8expert": BASE,
    "swin_moe_base_16expert": BASE.replace(num_experts=16),
    "swin_moe_base_32expert": BASE.replace(num_experts=32),
    "swin_moe_base_cosine_32expert": BASE.replace(num_experts=32, router="cosine"),
    "swin_moe_base_32expert_top2": BASE.replace(num_experts=32, top_k=2),
}

REFERENCE_NAMES = [
    (r"\.mlp\._moe_layer\.", ".channel.inner."),
    (r"\.attn\.cpb_mlp\.", ".attn.bias.network."),
    *TUTEL_NAMES,
    *WINDOW_PYRAMID_STEM_NAMES,
    *SWIN_STAGE_NAMES,
    *BLOCK_NAMES,
]

REFERENCE_IGNORED = [*SWIN_TABLES, r"_num_global_experts$"]


def convert_reference(state: dict[str, Tensor], model: SwinMoE) -> dict[str, Tensor]:
    """Second layers of experts are stored with their inputs first, absolute positions as a sequence."""
    state = changed(state, r"batched_fc2_w$", lambda weight: weight.transpose(1, 2))
    return position_map(state, "absolute_pos_embed", model.config.windows.grid)


def reference_outputs(model: SwinMoE, image: Tensor) -> dict[str, Tensor]:
    logits, balance = model.with_auxiliary_loss(image)
    return {"logits": logits, "l_aux": balance.view(1)}
