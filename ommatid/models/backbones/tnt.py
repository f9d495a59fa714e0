"""TNT: every patch is a sentence of small words, and a transformer over the words feeds one over the patches.

"Transformer in Transformer" (arXiv 2103.00112).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier
from ommatid.models.config import Config, require_divisible, require_positive
from ommatid.models.reference import changed, join_layers
from ommatid.models.registry import register
from ommatid.models.sizes import require_at_least, require_patches, whole_patches
from ommatid.nn.block import Block, first_token
from ommatid.nn.embed import PatchEmbed
from ommatid.nn.feedforward import MLP
from ommatid.nn.init import init_linear_
from ommatid.nn.mixers import Attention
from ommatid.nn.residual import stochastic_depth
from ommatid.nn.tokens import TokenSequence, sequence_on_grid
from ommatid.ops.windows import partition


@dataclass(frozen=True, kw_only=True)
class TNTConfig(Config):
    """`inner_stride` is the distance of words in pixels; `se` gates the MLP over patches by their mean."""

    image_size: int | tuple[int, int] = 224
    patch_size: int = 16
    inner_stride: int = 4
    dim: int = 384
    inner_dim: int = 24
    depth: int = 12
    heads: int = 6
    inner_heads: int = 4
    mlp_ratio: float = 4.0
    qkv_bias: bool = False
    se: bool = False

    def check(self) -> None:
        require_divisible(self.dim, self.heads)
        require_divisible(self.inner_dim, self.inner_heads, "inner_heads")
        require_positive(depth=self.depth, inner_stride=self.inner_stride)
        require_patches(self.image_size, self.patch_size)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of whole patches."""
        return whole_patches(self.image_size, self.patch_size)

    @property
    def words(self) -> int:
        """Words in a patch."""
        return (-(-self.patch_size // self.inner_stride)) ** 2


@register("tnt", TNTConfig)
class TNT(Backbone):
    """Transformer in Transformer. Takes any image of at least one patch: the patches' positions are resampled."""

    config: TNTConfig
    no_decay = ("position", "class_token.token")

    def __init__(self, config: TNTConfig) -> None:
        super().__init__(config)
        self.channels, self.strides = (config.dim,), (config.patch_size,)
        (rates,) = stochastic_depth(config.drop_path_rate, [config.depth])
        self.words = WordEmbed(config)
        self.first = PatchFromWords(config, bias=True)
        self.sequence = TokenSequence(config.grid, config.dim)
        self.blocks = nn.ModuleList(TNTBlock(config, drop_path=rate) for rate in rates)
        self.norm = nn.LayerNorm(config.dim)
        self.head = classifier(config.dim, config.num_classes)
        self.apply(init_linear_)

    def tokens_and_words(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, in_channels, H, W) -> (B, 1 + P, D) and (B, P, words, inner_dim), after the last block."""
        return self._after(self.blocks, image)

    def tokens(self, image: Tensor) -> Tensor:
        return self.tokens_and_words(image)[0]

    def maps(self, image: Tensor) -> list[Tensor]:
        return [self.tokens(image)[:, 1:].unflatten(1, self._grid(image))]

    def embed(self, image: Tensor) -> Tensor:
        if self.config.se:  # the last gate reads all tokens
            return self.norm(self.tokens(image)[:, 0])
        *earlier, last = self.blocks
        assert isinstance(last, TNTBlock)
        return self.norm(last.class_token(*self._after(earlier, image)))

    def _after(self, blocks: Iterable[nn.Module], image: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens and words of the image after the blocks."""
        rows, columns = self._grid(image)
        words = self.words(channels_last(image))
        tokens = self.sequence(self.first(words).unflatten(1, (rows, columns)))
        for block in blocks:
            tokens, words = block(tokens, words)
        return tokens, words

    def _grid(self, image: Tensor) -> tuple[int, int]:
        require_at_least(image, self.config.patch_size)
        return whole_patches((image.shape[-2], image.shape[-1]), self.config.patch_size)


class WordEmbed(nn.Module):
    """Cuts an image into patches and each patch into words: (B, H, W, C_in) -> (B, P, words, C).

    The 7x7 convolution sees one patch at a time: zeros surround it, not its neighbours. Positions are learned for the
    words of a patch and shared by all patches.
    """

    def __init__(self, config: TNTConfig) -> None:
        super().__init__()
        self.patch = (config.patch_size, config.patch_size)
        self.conv = PatchEmbed(config.in_channels, config.inner_dim, 7, stride=config.inner_stride, padding=3)
        self.position = nn.Parameter(torch.zeros(1, config.words, config.inner_dim))
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, image: Tensor) -> Tensor:
        batch, height, width, _ = image.shape
        rows, columns = self.patch
        whole = image[:, : height // rows * rows, : width // columns * columns].contiguous()
        patches = partition(whole, self.patch).flatten(0, 1).unflatten(1, self.patch)
        words = self.conv(patches).flatten(1, 2) + self.position
        return words.unflatten(0, (batch, -1))


class PatchFromWords(nn.Module):
    """All words of a patch, side by side, as one token: (B, P, words, C) -> (B, P, D), normed before and after.

    Cost: P words C D multiply-adds.
    """

    def __init__(self, config: TNTConfig, *, bias: bool) -> None:
        super().__init__()
        width = config.words * config.inner_dim
        self.words_norm = nn.LayerNorm(width)
        self.proj = nn.Linear(width, config.dim, bias=bias)
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, words: Tensor) -> Tensor:
        return self.norm(self.proj(self.words_norm(words.flatten(2))))


class TNTBlock(nn.Module):
    """Words attend within their patch, are added to its token, and tokens attend to each other.

    Tokens (B, 1 + P, D) and words (B, P, words, C) -> the same. Cost: 12 P D^2 + 2 P^2 D multiply-adds for tokens,
    12 P words C^2 + 2 P words^2 C for words, P words C D from one to the other, with an mlp_ratio of 4.
    """

    def __init__(self, config: TNTConfig, *, drop_path: float) -> None:
        super().__init__()
        self.inner = tnt_block(config, config.inner_dim, config.inner_heads, drop_path=drop_path)
        self.inject = PatchFromWords(config, bias=False)
        self.outer = tnt_block(config, config.dim, config.heads, se=config.se, drop_path=drop_path)

    def forward(self, tokens: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        tokens, words = self.inject_words(tokens, words)
        return self.outer(tokens), words

    def class_token(self, tokens: Tensor, words: Tensor) -> Tensor:
        """The class token alone, (B, D), of a block without `se`: nobody reads what others become in the last one."""
        return first_token([self.outer], self.inject_words(tokens, words)[0])

    def inject_words(self, tokens: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """The first half of the block: words attend within their patch and are added to its token."""
        words = self.inner(words.flatten(0, 1)).view(words.shape)
        class_token, patches = tokens.split([1, tokens.shape[1] - 1], dim=1)
        return torch.cat([class_token, patches + self.inject(words)], dim=1), words


def tnt_block(config: TNTConfig, dim: int, heads: int, *, drop_path: float, se: bool = False) -> Block:
    mlp: nn.Module = MLP(dim, int(dim * config.mlp_ratio))
    mixer = Attention(dim, heads, qkv_bias=config.qkv_bias)
    return Block(dim, mixer, nn.Sequential(mlp, TokenExcite(dim)) if se else mlp, drop_path=drop_path)


class TokenExcite(nn.Module):
    """Scales every channel by 1 + a gate in (-1, 1) computed from the mean of all tokens: (B, N, C) -> (B, N, C)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = int(dim * 0.25)
        self.gate = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, dim), nn.Tanh()
        )

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + self.gate(tokens.mean(1, keepdim=True)) * tokens


VARIANTS = {
    "tnt_small": TNTConfig(),
    "tnt_base": TNTConfig(dim=640, inner_dim=40, heads=10),
}

REFERENCE_NAMES = [
    (r"^cls_token$", "sequence.class_token.token"),
    (r"^outer_pos$", "sequence.position"),
    (r"^inner_pos$", "words.position"),
    (r"^patch_embed\.", "words.conv."),
    (r"^proj", "first.proj"),
    (r"^(blocks\.\d+)\.proj", r"\1.inject.proj"),
    (r"\.proj_norm1\.", ".words_norm."),
    (r"\.proj_norm2\.", ".norm."),
    (r"\.(inner|outer)_norm1\.", r".\1.token.norm."),
    (r"\.(inner|outer)_norm2\.", r".\1.channel.norm."),
    (r"\.(inner|outer)_attn\.", r".\1.token.inner."),
    (r"\.(inner|outer)_mlp\.", r".\1.channel.inner."),
    (r"\.se_layer\.fc\.", ".outer.channel.inner.1.gate."),
]

REFERENCE_IGNORED = [r"^outer_tokens$"]  # stored, never read


def convert_reference(state: dict[str, Tensor], model: TNT) -> dict[str, Tensor]:
    """Joins queries and keys with values, resamples positions of square weights, names the MLP that a gate follows."""
    joined = join_layers(state, ("qk", "v"), "qkv")
    converted = changed(joined, "^outer_pos$", lambda table: sequence_on_grid(table, model.config.grid))
    if model.config.se:
        converted = {name.replace(".outer_mlp.", ".outer_mlp.0."): value for name, value in converted.items()}
    return converted


def reference_outputs(model: TNT, image: Tensor) -> dict[str, Tensor]:
    tokens, words = model.tokens_and_words(image)
    return {"inner": words, "tokens": tokens}
