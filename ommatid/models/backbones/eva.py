"""EVA and EVA-02: plain vision transformers pre-trained on the features of a language-image model.

"EVA: Exploring the Limits of Masked Visual Representation Learning at Scale" (arXiv 2211.07636); "EVA-02: A Visual
Representation for Neon Genesis" (arXiv 2303.11331). Pre-training is in methods/pretraining/eva.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier
from ommatid.models.config import Config, require, require_divisible, require_positive
from ommatid.models.names import BLOCK_NAMES
from ommatid.models.procedure import Procedure
from ommatid.models.reference import changed, join_layers, rename
from ommatid.models.registry import register, register_part
from ommatid.models.sizes import pair, require_patches, whole_patches
from ommatid.nn.embed import PatchEmbed
from ommatid.nn.feedforward import MLP, SwiGLU
from ommatid.nn.init import init_linear_
from ommatid.nn.norm import LayerNorm
from ommatid.nn.position import ClassTokenPositionBias
from ommatid.nn.projection import UnbiasedKeyProjection
from ommatid.nn.residual import BranchNormResidual, PostNormResidual, Residual, stochastic_depth
from ommatid.nn.token_attention import TokenAttention
from ommatid.nn.tokens import ClassToken, resample_sequence, sequence_on_grid
from ommatid.ops.rotary import GridRotation, grid_positions, grid_rotation, rotate_grid_neighbours

ROTARY_BASE = 10000.0
HEAD_SCALE = 0.001


@dataclass(frozen=True, kw_only=True)
class EVAConfig(Config):
    """`function` "classify" is the backbone; "pretrain" and "rope" are what the other cases try.

    rope_grid: rows and columns of the pre-training's patches, which positions count in; the image's own where None.
    rope_interpolate: other grids are scaled to it; otherwise there is no other. sub_norm: a norm inside the MLP, except
    in "swiglu_packed". norm_order: the norms before the branches, behind them, or behind the sums with DeepNorm's
    factor. relative_position: a bias, one for all blocks or one for each, as BEiT has it. target_dim, mask_ratio: of
    "pretrain". grid: of "rope".
    """

    function: Literal["classify", "pretrain", "rope"] = "classify"
    image_size: int | tuple[int, int] = 224
    patch_size: int = 14
    dim: int = 192
    depth: int = 12
    heads: int = 3
    mlp_ratio: float = 4 * 2 / 3
    qkv_bias: bool = True
    layer_scale: float | None = None
    absolute_position: bool = True
    relative_position: Literal["none", "shared", "per_block"] = "none"
    rope: bool = True
    rope_grid: int | None = None
    rope_interpolate: bool = True
    sub_norm: bool = False
    norm_order: Literal["pre", "post", "deep"] = "pre"
    mlp: Literal["gelu", "swiglu", "swiglu_packed"] = "swiglu_packed"
    mean_pooling: bool = True
    target_dim: int = 1024
    mask_ratio: float = 0.4
    grid: int = 16

    def check(self) -> None:
        require_positive(depth=self.depth, mlp_ratio=self.mlp_ratio, target_dim=self.target_dim, grid=self.grid)
        require_divisible(self.dim, self.heads)
        require_patches(self.image_size, self.patch_size)
        require(0 <= self.mask_ratio <= 1, "mask_ratio", self.mask_ratio, "from 0 to 1")
        require(
            (self.layer_scale or 0) >= 0, "layer_scale", self.layer_scale, "a positive number, or 0 or None for none"
        )
        if self.rope_grid is not None:
            require_positive(rope_grid=self.rope_grid)
        if self.rope and self.function != "rope":
            turns = self.dim // self.heads % 4 == 0
            require(turns, "heads", self.heads, f"as many as leave a multiple of 4 channels of {self.dim} to each")
            fits = self.rope_interpolate or self.rope_size == self.patches
            require(fits, "rope_grid", self.rope_grid, f"that of the image, {self.patches}, without rope_interpolate")

    @property
    def patches(self) -> tuple[int, int]:
        """Rows and columns of whole patches."""
        return whole_patches(self.image_size, self.patch_size)

    @property
    def rope_size(self) -> tuple[int, int]:
        """Rows and columns that positions count in."""
        return self.patches if self.rope_grid is None else pair(self.rope_grid)


@register("eva", EVAConfig)
class EVA(Backbone):
    """EVA or EVA-02: a class token, perhaps with a position table, and blocks whose attention knows rows and columns.

    Takes any image of at least one patch, unless its positions are of one grid: relative ones, and rotations that are
    not to be interpolated. Position tables are resampled.
    """

    config: EVAConfig
    no_decay = ("position", "class_token.token", "table")

    def __init__(self, config: EVAConfig) -> None:
        super().__init__(config)
        self.channels, self.strides = (config.dim,), (config.patch_size,)
        (rates,) = stochastic_depth(config.drop_path_rate, [config.depth])
        self.stem = PatchEmbed(config.in_channels, config.dim, config.patch_size)
        self.class_token = ClassToken(config.dim)
        self.position: nn.Parameter | None = None
        if config.absolute_position:
            rows, columns = config.patches
            self.position = nn.Parameter(torch.zeros(1, 1 + rows * columns, config.dim))
        tables = {"none": 0, "shared": 1, "per_block": config.depth}[config.relative_position]
        self.biases = nn.ModuleList(ClassTokenPositionBias(config.patches, config.heads) for _ in range(tables))
        self.blocks = nn.ModuleList(EVABlock(config, drop_path=rate) for rate in rates)
        self.token_norm = nn.Identity() if config.mean_pooling else LayerNorm(config.dim)
        self.pooled_norm = LayerNorm(config.dim) if config.mean_pooling else nn.Identity()
        self.head = classifier(config.dim, config.num_classes)
        init_(self)

    def tokens(self, image: Tensor) -> Tensor:
        return self.mixed(self.stem(channels_last(image)))

    def mixed(self, patches: Tensor) -> Tensor:
        """Embedded patches (B, H, W, C) -> tokens (B, 1 + H W, C) after the last block, the class token first."""
        grid, fixed = (patches.shape[1], patches.shape[2]), self.config.patches
        scales = not self.biases and (self.config.rope_interpolate or not self.config.rope)
        require(scales or grid == fixed, "grid of patches", grid, f"{fixed}, since positions are of that grid alone")
        tokens = self.class_token(patches.flatten(1, 2))
        if self.position is not None:
            tokens = tokens + resample_sequence(self.position, fixed, grid)
        turn = partial(rotate_grid_neighbours, rotation=self.rotation(grid)) if self.config.rope else None
        biases = [bias() for bias in self.biases]
        for index, block in enumerate(self.blocks):
            tokens = block(tokens, turn, biases[index % len(biases)] if biases else None)
        return tokens

    def rotation(self, grid: tuple[int, int]) -> GridRotation:
        """Of the class token, which is not turned, and all patches."""
        device = self.class_token.token.device
        patches = scaled_positions(grid, self.config.rope_size, device)
        positions = torch.cat([patches.new_zeros(1, 2), patches])
        return grid_rotation(positions, self.config.dim // self.config.heads, ROTARY_BASE)

    def maps(self, image: Tensor) -> list[Tensor]:
        size = (image.shape[-2], image.shape[-1])
        return [self.tokens(image)[:, 1:].unflatten(1, whole_patches(size, self.config.patch_size))]

    def embed(self, image: Tensor) -> Tensor:
        if self.config.mean_pooling:
            return self.pooled_norm(self.maps(image)[0].mean((1, 2)))
        return self.token_norm(self.tokens(image)[:, 0])


class EVABlock(nn.Module):
    """A residual branch around attention, then one around an MLP: (B, N, C) -> (B, N, C).

    What comes with the tokens, `turn` and `bias`, is for the attention.
    """

    def __init__(self, config: EVAConfig, *, drop_path: float) -> None:
        super().__init__()
        dim = config.dim
        qkv = UnbiasedKeyProjection(dim) if config.qkv_bias else nn.Linear(dim, 3 * dim, bias=False)
        self.token = eva_residual(config, TokenAttention(dim, config.heads, qkv=qkv), drop_path)
        self.channel = eva_residual(config, eva_mlp(config), drop_path)

    def forward(self, tokens: Tensor, *context: Any) -> Tensor:
        return self.channel(self.token(tokens, *context))


def eva_mlp(config: EVAConfig) -> nn.Module:
    hidden = int(config.dim * config.mlp_ratio)
    norm = LayerNorm(hidden) if config.sub_norm and config.mlp != "swiglu_packed" else None
    if config.mlp != "gelu":
        return SwiGLU(config.dim, hidden, bias=True, norm=norm)
    return MLP(config.dim, hidden, act=nn.Sequential(nn.GELU(), norm) if norm else None)


def eva_residual(config: EVAConfig, inner: nn.Module, drop_path: float) -> Residual:
    kind = {"pre": Residual, "post": BranchNormResidual, "deep": PostNormResidual}[config.norm_order]
    shortcut = Scaled((2 * config.depth) ** 0.25) if config.norm_order == "deep" else None
    scale = config.layer_scale
    return kind(config.dim, inner, norm=LayerNorm, layer_scale=scale, drop_path=drop_path, shortcut=shortcut)


class Scaled(nn.Module):
    """Multiplies by a constant: the shortcut of DeepNorm (arXiv 2203.00555)."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def scaled_positions(grid: tuple[int, int], size: tuple[int, int], device: torch.device | None = None) -> Tensor:
    """(rows * columns, 2): row and column of every patch of a grid, in units of a grid of another size."""
    scale = torch.tensor([size[0] / grid[0], size[1] / grid[1]], device=device)
    return grid_positions(*grid, device=device) * scale


@torch.no_grad()
def init_(model: EVA) -> None:
    """As EVA is drawn where its MLP is plain, and as EVA-02 where it is gated."""
    config = model.config
    if config.mlp == "gelu":
        model.apply(init_linear_)
        nn.init.trunc_normal_(model.stem.proj.weight, std=0.02)
    else:
        model.apply(init_xavier_)
        nn.init.xavier_uniform_(model.stem.proj.weight.view(config.dim, -1))
    if model.position is not None:
        nn.init.trunc_normal_(model.position, std=0.02)
    for bias in model.biases:
        nn.init.zeros_(bias.get_parameter("table"))
    for index, block in enumerate(model.blocks):
        assert isinstance(block, EVABlock)
        scale_block_(block, config, index + 1)
    if isinstance(model.head, nn.Linear):
        model.head.weight.mul_(HEAD_SCALE)


def scale_block_(block: EVABlock, config: EVAConfig, number: int) -> None:
    """Block 1 and so on: less from later blocks in EVA; more from all of EVA-02's with norms in their MLPs."""
    attention, mlp = block.token.inner, block.channel.inner
    assert isinstance(attention, TokenAttention)
    assert isinstance(mlp, MLP | SwiGLU)
    if config.mlp == "gelu":
        attention.proj.weight.div_(math.sqrt(2 * number))
        mlp.fc2.weight.div_(math.sqrt(2 * number))
    elif config.sub_norm:
        gain = math.sqrt(math.log(2 * config.depth))
        value = attention.qkv.get_parameter("weight").chunk(3)[2]
        for weight in (mlp.fc1.weight, mlp.fc2.weight, attention.proj.weight, value):
            weight.mul_(gain)


def init_xavier_(layer: nn.Module) -> None:
    """Linear layers: Xavier normal weights, biases 0."""
    if isinstance(layer, nn.Linear):
        nn.init.xavier_normal_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


@register_part("eva", "rope")
class RotaryPositions(Procedure):
    """x (B, heads, grid^2, d), which are queries or keys -> the same, turned by their positions."""

    config: EVAConfig

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        grid = pair(self.config.grid)
        size = pair(self.config.rope_grid or self.config.grid) if self.config.rope_interpolate else grid
        rotation = grid_rotation(scaled_positions(grid, size), x.shape[-1], ROTARY_BASE)
        return {"y": rotate_grid_neighbours(x.transpose(1, 2), rotation).transpose(1, 2)}


FINE_TUNED = EVAConfig(image_size=336, rope_grid=16)
SUB_NORMED = FINE_TUNED.replace(image_size=448, sub_norm=True, mlp="swiglu")

VARIANTS = {
    "eva02_tiny_patch14_336": FINE_TUNED,
    "eva02_small_patch14_336": FINE_TUNED.replace(dim=384, heads=6),
    "eva02_base_patch14_448": SUB_NORMED.replace(dim=768, heads=12),
    "eva02_large_patch14_448": SUB_NORMED.replace(dim=1024, depth=24, heads=16),
    "eva_giant_patch14_336": FINE_TUNED.replace(
        dim=1408, depth=40, heads=16, mlp_ratio=6144 / 1408, rope=False, mlp="gelu"
    ),
}

REFERENCE_NAMES = [
    (r"^mask_token$", "learner.encoder.token"),
    (r"^lm_head\.", "learner.head."),
    (r"^cls_token$", "class_token.token"),
    (r"^pos_embed$", "position"),
    (r"^patch_embed\.", "stem."),
    (r"^norm\.", "token_norm."),
    (r"^fc_norm\.", "pooled_norm."),
    (r"^rel_pos_bias\.relative_position_bias_table$", "biases.0.table"),
    (r"^blocks\.(\d+)\.attn\.relative_position_bias_table$", r"biases.\1.table"),
    (r"\.attn\.q_bias$", ".attn.qkv.query_bias"),
    (r"\.attn\.v_bias$", ".attn.qkv.value_bias"),
    (r"\.mlp\.w12\.", ".mlp.fc1."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
    *BLOCK_NAMES,
]

REFERENCE_IGNORED = [r"rope\.freqs_(cos|sin)$", r"\.relative_position_index$"]


def convert_reference(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Of the backbone, and of what pre-trains it."""
    if isinstance(model, EVA):
        return convert_backbone(state, model)
    own = {name: value for name, value in state.items() if name.startswith(("mask_token", "lm_head."))}
    backbone = {name: value for name, value in state.items() if name not in own}
    if not backbone:
        return state
    network = model.get_submodule("learner.encoder.network")
    assert isinstance(network, EVA)
    named = {rename(name, REFERENCE_NAMES): value for name, value in convert_backbone(backbone, network).items()}
    return own | {f"learner.encoder.network.{name}": value for name, value in named.items()}


def convert_backbone(state: dict[str, Tensor], model: EVA) -> dict[str, Tensor]:
    """Joins layers that read the same, and resamples the position table of square weights for another image size."""
    joined = join_layers(join_layers(state, ("w1", "w2"), "fc1"), ("q_proj", "k_proj", "v_proj"), "qkv")
    sub_norm = "act.1." if model.config.mlp == "gelu" else "norm."
    named = {name.replace(".ffn_ln.", f".{sub_norm}"): value for name, value in joined.items()}
    return changed(named, "^pos_embed$", lambda table: sequence_on_grid(table, model.config.patches))
