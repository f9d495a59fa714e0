"""CroCo: two views of one scene, read by one encoder, and a decoder that looks from the first at the second.

"CroCo: Self-Supervised Pre-training for 3D Vision Tasks by Cross-View Completion" (arXiv 2210.10716); "CroCo v2:
Improved Cross-view Completion Pre-training for Stereo Matching and Optical Flow" (arXiv 2211.10408). Pre-training is
in methods/pretraining/croco_v2.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from ommatid.models.backbone import channels_last
from ommatid.models.config import PartConfig, require, require_divisible, require_positive
from ommatid.models.decoders.dpt import DPT
from ommatid.models.model import Model
from ommatid.models.names import BLOCK_NAMES
from ommatid.models.procedure import Procedure
from ommatid.models.reference import join_layers, zero_based
from ommatid.models.registry import register, register_part
from ommatid.models.sizes import require_exactly, require_patches, whole_patches
from ommatid.nn.block import Block
from ommatid.nn.cross_block import CrossBlock
from ommatid.nn.embed import PatchEmbed
from ommatid.nn.feedforward import MLP
from ommatid.nn.init import init_joint_, init_xavier_uniform_
from ommatid.nn.norm import LayerNorm
from ommatid.nn.sine_position import grid_sinusoids
from ommatid.nn.token_attention import TokenAttention, TokenCrossAttention, Turn
from ommatid.ops.laplacian_loss import Kind, laplacian_loss, log_scale
from ommatid.ops.rotary import grid_positions, grid_rotation, rotate_grid_halves

DPT_PATCH = 16


@dataclass(frozen=True, kw_only=True)
class CroCoConfig(PartConfig):
    """`mask_ratio` and `norm_pixels` are of the function "pretrain"; `hooks` to `num_channels` of "downstream".

    position: "cosine" for added sines and cosines, "RoPE100" for rotations of that base, or another number. hooks: the
    four layers that answers are made of, the encoder's counted from 0 and the decoder's behind them; spread over the
    decoder where None. What follows `num_channels` is of "laplacian", see ops/laplacian_loss.py.
    """

    function: Literal["pretrain", "downstream", "laplacian"] = "pretrain"
    image_size: int | tuple[int, int] = 224
    patch_size: int = 16
    encoder_dim: int = 768
    encoder_depth: int = 12
    encoder_heads: int = 12
    decoder_dim: int = 768
    decoder_depth: int = 12
    decoder_heads: int = 12
    mlp_ratio: float = 4.0
    norm_memory: bool = True
    position: str = "RoPE100"
    mask_ratio: float = 0.9
    norm_pixels: bool = True
    hooks: tuple[int, int, int, int] | None = None
    layer_dims: tuple[int, int, int, int] = (96, 192, 384, 768)
    feature_dim: int = 256
    last_dim: int = 32
    num_channels: int = 2
    kind: Kind = "bounded"
    a: float = 0.25
    b: float = 4.0
    max_norm: float | None = None
    scale: float = 1.0
    conf_scale: float = 1.0

    def check(self) -> None:
        require_positive(encoder_depth=self.encoder_depth, decoder_depth=self.decoder_depth, mlp_ratio=self.mlp_ratio)
        require_divisible(self.encoder_dim, self.encoder_heads, "encoder_heads")
        require_divisible(self.decoder_dim, self.decoder_heads, "decoder_heads")
        require_patches(self.image_size, self.patch_size)
        require(0 <= self.mask_ratio < 1, "mask_ratio", self.mask_ratio, "from 0 up to, not including, 1")
        known = self.position == "cosine" or re.fullmatch(r"RoPE\d+(\.\d+)?", self.position)
        require(bool(known), "position", self.position, "'cosine', or 'RoPE' and a number such as 'RoPE100'")
        for field, width in self.turned_widths().items():
            require(width % 4 == 0, field, getattr(self, field), f"a multiple of 4 for {self.position}")
        if self.function == "downstream":
            self._check_downstream()

    def turned_widths(self) -> dict[str, int]:
        """What quarters of are needed for positions, by the field that it follows from."""
        if self.position == "cosine":
            return {"encoder_dim": self.encoder_dim, "decoder_dim": self.decoder_dim}
        return {
            "encoder_dim": self.encoder_dim // self.encoder_heads,
            "decoder_dim": self.decoder_dim // self.decoder_heads,
        }

    def _check_downstream(self) -> None:
        require_positive(layer_dims=self.layer_dims, feature_dim=self.feature_dim, last_dim=self.last_dim)
        require_positive(num_channels=self.num_channels)
        require(
            self.patch_size == DPT_PATCH, "patch_size", self.patch_size, f"{DPT_PATCH} for the function 'downstream'"
        )
        layers = self.encoder_depth + self.decoder_depth
        exist = all(0 <= hook < layers for hook in self.hooked)
        require(exist, "hooks", self.hooked, f"four layers from 0 to {layers - 1}")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return whole_patches(self.image_size, self.patch_size)

    @property
    def rotary_base(self) -> float | None:
        """None for added positions."""
        return None if self.position == "cosine" else float(self.position.removeprefix("RoPE"))

    @property
    def hooked(self) -> tuple[int, ...]:
        """`hooks`, or four layers of the decoder, its last one among them."""
        last, step = self.encoder_depth + self.decoder_depth - 1, -(-self.decoder_depth // 3)
        return self.hooks or tuple(last - step * i for i in (3, 2, 1, 0))


class CrossViewTransformer(nn.Module):
    """The encoder and the decoder, which know where tokens are: on a grid of `config`, or with rotations on any."""

    def __init__(self, config: CroCoConfig) -> None:
        super().__init__()
        self.config = config
        dim, inner, ratio = config.encoder_dim, config.decoder_dim, config.mlp_ratio
        self.stem = PatchEmbed(3, dim, config.patch_size)
        self.encoder = nn.ModuleList(
            Block(dim, TokenAttention(dim, config.encoder_heads), MLP(dim, int(dim * ratio)), norm=LayerNorm)
            for _ in range(config.encoder_depth)
        )
        self.encoder_norm = LayerNorm(dim)
        self.embed = nn.Linear(dim, inner)
        self.decoder = nn.ModuleList(
            CrossBlock(inner, config.decoder_heads, MLP(inner, int(inner * ratio)), norm_memory=config.norm_memory)
            for _ in range(config.decoder_depth)
        )
        self.decoder_norm = LayerNorm(inner)
        self.apply(init_xavier_uniform_)
        nn.init.xavier_uniform_(self.stem.proj.weight.detach().view(dim, -1))
        for attention in self.modules():
            if isinstance(attention, TokenCrossAttention):
                init_joint_(attention.key_value, 2)

    def patches(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, h, w, E)."""
        patches = self.stem(channels_last(image))
        return patches if self.config.rotary_base else patches + added_positions(patches)

    def encode(self, tokens: Tensor, positions: Tensor) -> list[Tensor]:
        """Tokens (B, N, E) at (row, column), (..., N, 2) -> the same behind each block, normed behind the last one."""
        turn = self.turn(positions, self.config.encoder_dim // self.config.encoder_heads)
        outputs = []
        for block in self.encoder:
            tokens = block(tokens, turn)
            outputs.append(tokens)
        return [*outputs[:-1], self.encoder_norm(outputs[-1])]

    def decode(self, tokens: Tensor, memory: Tensor) -> list[Tensor]:
        """Whole first and second views (B, h, w, D) -> (B, h w, D) behind each block, normed behind the last one."""
        positions = grid_positions(tokens.shape[1], tokens.shape[2], device=tokens.device)
        if not self.config.rotary_base:
            tokens, memory = (view + added_positions(view) for view in (tokens, memory))
        turn = self.turn(positions, self.config.decoder_dim // self.config.decoder_heads)
        tokens, memory = tokens.flatten(1, 2), memory.flatten(1, 2)
        outputs = []
        for block in self.decoder:
            tokens = block(tokens, memory, turn)
            outputs.append(tokens)
        return [*outputs[:-1], self.decoder_norm(outputs[-1])]

    def turn(self, positions: Tensor, head_dim: int) -> Turn | None:
        """What queries and keys at these positions go through."""
        base = self.config.rotary_base
        return partial(rotate_grid_halves, rotation=grid_rotation(positions, head_dim, base)) if base else None


def added_positions(tokens: Tensor) -> Tensor:
    """What is added to a map (B, H, W, C): (H, W, C)."""
    return grid_sinusoids(tokens.shape[1], tokens.shape[2], tokens.shape[3]).to(tokens)


@register("croco_v2", CroCoConfig)
class BinocularNetwork(Model):
    """Stereo matching and optical flow: two images (B, 3, H, W) -> (B, num_channels, H, W), the last one a confidence.

    Sides are multiples of 32. With added positions there is one size; with rotations any.
    """

    config: CroCoConfig

    def __init__(self, config: CroCoConfig) -> None:
        super().__init__(config)
        self.transformer = CrossViewTransformer(config)
        self.head = DPT(
            [config.encoder_dim if hook < config.encoder_depth else config.decoder_dim for hook in config.hooked],
            config.layer_dims,
            dim=config.feature_dim,
            last_dim=config.last_dim,
            out_dim=config.num_channels,
        )

    def forward(self, image1: Tensor, image2: Tensor) -> Tensor:
        network = self.transformer
        if not self.config.rotary_base:
            require_exactly(image1, self.config.image_size)
        both = network.patches(torch.cat([image1, image2]))
        grid = (both.shape[1], both.shape[2])
        encoded = network.encode(both.flatten(1, 2), grid_positions(*grid, device=both.device))
        first, second = network.embed(encoded[-1]).unflatten(1, grid).unflatten(0, (2, -1))
        layers = [*(tokens.unflatten(0, (2, -1))[0] for tokens in encoded), *network.decode(first, second)]
        maps = [layers[hook].unflatten(1, grid) for hook in self.config.hooked]
        return self.head(maps).permute(0, 3, 1, 2)


@register_part("croco_v2", "laplacian")
class Laplacian(Procedure):
    """prediction, target (B, C, H, W), confidence, noise (B, 1, H, W) -> loss (); noise says what is not known."""

    config: CroCoConfig

    def forward(  # type: ignore[override]
        self, prediction: Tensor, target: Tensor, confidence: Tensor, noise: Tensor
    ) -> dict[str, Tensor]:
        config = self.config
        scale = log_scale(config.conf_scale * confidence, config.kind, a=config.a, b=config.b)
        known = torch.where(noise > 0.6, torch.inf, config.scale * target)
        return {"loss": laplacian_loss(config.scale * prediction, known, scale, max_norm=config.max_norm)}


BASE = CroCoConfig()

VARIANTS = {
    "croco_v2_vit_base_small_decoder": BASE.replace(decoder_dim=512, decoder_depth=8, decoder_heads=16),
    "croco_v2_vit_base_base_decoder": BASE,
    "croco_v2_vit_large_base_decoder": BASE.replace(encoder_dim=1024, encoder_depth=24, encoder_heads=16),
}

REFERENCE_NAMES = [
    (r"^mask_token$", "learner.token"),
    (r"^prediction_head\.", "learner.head."),
    (r"^(patch_embed|enc_|dec_|decoder_embed)", r"transformer.\1"),
    (r"\.patch_embed\.", ".stem."),
    (r"\.(enc|dec)_norm\.", r".\1oder_norm."),
    (r"\.decoder_embed\.", ".embed."),
    (r"\.(enc|dec)_blocks\.", r".\1oder."),
    (r"\.decoder\.(\d+)\.norm_y\.", r".decoder.\1.memory_norm."),
    (r"\.decoder\.(\d+)\.norm2\.", r".decoder.\1.cross.norm."),
    (r"\.decoder\.(\d+)\.norm3\.", r".decoder.\1.channel.norm."),
    (r"\.cross_attn\.projq\.", ".cross.inner.query."),
    (r"\.cross_attn\.", ".cross.inner."),
    (r"^head\.dpt\.act_(\d)_postprocess\.", zero_based("head.reassemble.{}.")),
    (r"^head\.dpt\.scratch\.layer(\d)_rn\.", zero_based("head.project.{}.")),
    (r"^head\.dpt\.scratch\.refinenet(\d)\.", zero_based("head.fusions.{}.")),
    (r"^head\.dpt\.head\.", "head.head."),
    (r"\.out_conv\.", ".proj."),
    (r"\.resConfUnit1\.", ".join."),
    (r"\.resConfUnit2\.", ".refine."),
    (r"\.conv([12])\.", lambda match: f".inner.{2 * int(match[1]) - 1}."),
    *BLOCK_NAMES,
]

# The first is never used; the others are the same tensors again.
REFERENCE_IGNORED = [
    r"refinenet4\.resConfUnit1\.",
    r"scratch\.layer_rn\.",
    r"\.act_postprocess\.",
    r"^(enc|dec)_pos_embed$",
]


def convert_reference(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Joins the projections of the memory to keys and values. What pre-trains the transformer holds it one deeper."""
    joined = join_layers(state, ("projk", "projv"), "key_value")
    if isinstance(model, BinocularNetwork):
        return joined
    return {
        re.sub(r"^(patch_embed|enc_|dec_|decoder_embed)", r"learner.transformer.\1", name): joined[name]
        for name in joined
    }
