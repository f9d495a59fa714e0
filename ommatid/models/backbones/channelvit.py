"""ChannelViT: every channel of every patch is a token of its own, and an image may bring any subset of the channels.

"Channel Vision Transformers: An Image Is Worth C x 16 x 16 Words" (arXiv 2309.16108).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ommatid.models.backbone import Backbone, classifier
from ommatid.models.config import Config, require, require_divisible
from ommatid.models.names import BLOCK_NAMES
from ommatid.models.reference import changed
from ommatid.models.registry import register
from ommatid.models.sizes import require_patches
from ommatid.nn.block import Block, Trunk
from ommatid.nn.embed import PatchEmbed
from ommatid.nn.feedforward import MLP
from ommatid.nn.init import init_linear_
from ommatid.nn.mixers import Attention
from ommatid.nn.norm import LayerNorm
from ommatid.nn.residual import stochastic_depth
from ommatid.nn.tokens import ClassToken, split_tokens


@dataclass(frozen=True, kw_only=True)
class ChannelViTConfig(Config):
    """The model knows `in_channels` channels; `channels` are those of an image whose caller doesn't name them.

    `channel_sampling` trains on a random subset of an image's channels, of random size, drawn for every batch
    (hierarchical channel sampling).
    """

    image_size: int = 224
    patch_size: int = 16
    channels: tuple[int, ...] = (0, 1, 2)
    dim: int = 192
    depth: int = 12
    heads: int = 3
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    channel_sampling: bool = False

    def check(self) -> None:
        require_divisible(self.dim, self.heads)
        require_channels(self.channels, self.in_channels)
        require_patches(self.image_size, self.patch_size)

    @property
    def side(self) -> int:
        """Rows, and columns, of the position table."""
        return self.image_size // self.patch_size


def require_channels(channels: Sequence[int], known: int) -> None:
    distinct = len(channels) > 0 and len(set(channels)) == len(channels)
    allowed = f"different numbers from 0 to {known - 1} (in_channels is {known})"
    require(distinct and all(0 <= channel < known for channel in channels), "channels", channels, allowed)


@register("channelvit", ChannelViTConfig)
class ChannelViT(Backbone):
    """Channel Vision Transformer. Takes any image of at least one patch.

    All methods take `channels`, the numbers of the image's channels in their order; those of the config where None.
    The feature map is the mean over the channels of their tokens.
    """

    config: ChannelViTConfig
    no_decay = ("position", "channel_embedding", "class_token.token")

    def __init__(self, config: ChannelViTConfig) -> None:
        super().__init__(config)
        self.channels, self.strides = (config.dim,), (config.patch_size,)
        (rates,) = stochastic_depth(config.drop_path_rate, [config.depth])
        self.stem = PatchEmbed(1, config.dim, config.patch_size)
        self.channel_embedding = nn.Parameter(torch.zeros(config.in_channels, config.dim))
        self.class_token = ClassToken(config.dim)
        self.position = nn.Parameter(torch.zeros(1, 1 + config.side**2, config.dim))
        self.blocks = Trunk(
            *(
                Block(
                    config.dim,
                    Attention(config.dim, config.heads, qkv_bias=config.qkv_bias),
                    MLP(config.dim, int(config.dim * config.mlp_ratio)),
                    norm=LayerNorm,
                    drop_path=rate,
                )
                for rate in rates
            )
        )
        self.norm = LayerNorm(config.dim)
        self.head = classifier(config.dim, config.num_classes)
        self.blocks.apply(init_linear_)
        nn.init.trunc_normal_(self.channel_embedding, std=0.02)
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, image: Tensor, channels: Sequence[int] | None = None) -> Tensor:
        """(B, c, H, W) -> (B, num_classes)."""
        return self.head(self.embed(image, channels))

    def embed(self, image: Tensor, channels: Sequence[int] | None = None) -> Tensor:
        return self.norm(self.blocks.first(*self._sequence(image, channels)))

    def features(self, image: Tensor, channels: Sequence[int] | None = None) -> list[Tensor]:
        return [features.permute(0, 3, 1, 2) for features in self.maps(image, channels)]

    def maps(self, image: Tensor, channels: Sequence[int] | None = None) -> list[Tensor]:
        size = self.config.patch_size
        grid = (image.shape[-2] // size, image.shape[-1] // size)
        return [self.tokens(image, channels)[:, 1:].unflatten(1, (-1, *grid)).mean(1)]

    def tokens(self, image: Tensor, channels: Sequence[int] | None = None) -> Tensor:
        """(B, c, H, W) -> (B, 1 + c h w, D): the class token, then patches by channel, row and column."""
        return self.blocks(*self._sequence(image, channels))

    def _sequence(self, image: Tensor, channels: Sequence[int] | None) -> tuple[Tensor, tuple[int, int]]:
        """What the blocks read, and the rows of all channels' maps, one below another, and their columns."""
        image, numbers = self._chosen(image, self.config.channels if channels is None else channels)
        patches = self.stem(image.flatten(0, 1).unsqueeze(-1)).unflatten(0, (image.shape[0], -1))
        patches = patches + self.channel_embedding[numbers][:, None, None]
        tokens = self.class_token(patches.flatten(1, 3))
        square, (rows, columns) = image.shape[-2] == image.shape[-1], patches.shape[2:4]
        tokens = tokens + self.positions(len(numbers), (rows, columns), square=square)
        return tokens, (len(numbers) * rows, columns)

    def _chosen(self, image: Tensor, channels: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The channels that count, in training perhaps a sample: (B, c, H, W) and their numbers (c,)."""
        require_channels(channels, self.config.in_channels)
        require(image.shape[1] == len(channels), "channels", channels, f"one for each of the image's {image.shape[1]}")
        numbers = torch.tensor(channels, device=image.device)
        if not (self.training and self.config.channel_sampling):
            return image, numbers
        kept = sampled_channels(len(channels)).to(image.device)
        return image[:, kept], numbers[kept]

    def positions(self, channels: int, grid: tuple[int, int], *, square: bool) -> Tensor:
        """(1, 1 + c h w, D) for c channels with patches on a grid (h, w), cut from a square image or not.

        As in the reference, the table is used as it is where the tokens of a square image are as many as its entries,
        and is resampled everywhere else, at its own size too.
        """
        side = self.config.side
        if square and channels * grid[0] * grid[1] == side**2:
            return self.position
        special, table = split_tokens(self.position, (side, side))
        patches = stretched(table, grid).flatten(1, 2).repeat(1, channels, 1)
        return torch.cat([special, patches], dim=1)


def sampled_channels(count: int) -> Tensor:
    """A random number of random places below `count`, in random order: every number from 1 to all is as likely."""
    kept = int(torch.randint(1, count + 1, ()))
    return torch.randperm(count)[:kept]


def stretched(table: Tensor, size: tuple[int, int]) -> Tensor:
    """Resamples (1, h, w, D) to `size`, bicubic, by the reference's scale: (size + 0.1) / h, not size / h.

    So the result is compressed by a tenth of a cell, even where the size is that of the table.
    """
    rows, columns = (
        bicubic_weights(old, new, (new + 0.1) / old, table.device)
        for old, new in zip(table.shape[1:3], size, strict=True)
    )
    return torch.einsum("yh,bhwd,xw->byxd", rows, table.float(), columns).to(table.dtype)


def bicubic_weights(old: int, new: int, scale: float, device: torch.device) -> Tensor:
    """(new, old): what each old sample counts in each new one, of which there are `scale` in one step between old ones.

    Half-pixel centres, the cubic kernel with a = -0.75, edges repeated, as PyTorch's interpolation does it when it is
    given a scale. Runtimes other than PyTorch go by the sizes alone, which is why the weights are spelled out.
    """
    centres = (torch.arange(new, device=device) + 0.5) / scale - 0.5
    beyond = 2
    samples = torch.arange(-beyond, old + beyond, device=device)
    weights = cubic(centres[:, None] - samples)
    before, inside, after = weights.split((beyond, old, beyond), dim=1)
    inside[:, 0] += before.sum(1)
    inside[:, -1] += after.sum(1)
    return inside


def cubic(distance: Tensor, a: float = -0.75) -> Tensor:
    """The kernel of cubic convolution (Keys, 1981)."""
    x = distance.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return torch.where(x <= 1, near, torch.where(x < 2, far, 0.0))


TINY = ChannelViTConfig()
SMALL = TINY.replace(dim=384, heads=6)

VARIANTS = {
    "channelvit_tiny": TINY,
    "channelvit_small": SMALL,
    "channelvit_small_patch8_camelyon": SMALL.replace(patch_size=8),
    "channelvit_small_patch8_jumpcp": SMALL.replace(patch_size=8, in_channels=8, channels=tuple(range(8))),
    "channelvit_small_patch8_so2sat": SMALL.replace(patch_size=8, in_channels=18, channels=tuple(range(18))),
    "channelvit_base": TINY.replace(dim=768, heads=12),
}

REFERENCE_NAMES = [
    (r"^cls_token$", "class_token.token"),
    (r"^pos_embed$", "position"),
    (r"^patch_embed\.channel_embed(\.weight)?$", "channel_embedding"),
    (r"^patch_embed\.", "stem."),
    (r"^classifier\.", "head."),
    *BLOCK_NAMES,
]


def convert_reference(state: dict[str, Tensor], model: ChannelViT) -> dict[str, Tensor]:
    """Turns the channel table (1, D, C, 1, 1) over; the sampling class stores it as (C, D)."""
    return changed(state, r"^patch_embed\.channel_embed$", lambda table: table[0, :, :, 0, 0].T)


def reference_outputs(model: ChannelViT, image: Tensor) -> dict[str, Tensor]:
    return {"features": model.embed(image)}
