"""GMM-ViT: a small transformer for small data, whose attention scores fade with distance as learned Gaussians do.

"RetNet Viewed through Convolution" (arXiv 2309.05375).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier
from ommatid.models.config import Config, require, require_positive
from ommatid.models.reference import changed
from ommatid.models.registry import register
from ommatid.models.sizes import ImageSizes, pair
from ommatid.nn.block import Block
from ommatid.nn.embed import PatchEmbed
from ommatid.nn.feedforward import MLP
from ommatid.nn.mixers.masked_attention import GaussianMixtureMask, LearnedMask, MaskedAttention
from ommatid.nn.tokens import ClassToken, TokenSequence, sequence_on_grid


@dataclass(frozen=True, kw_only=True)
class GaussianMixtureMaskConfig(Config):
    """`mask`: "gmm" for `num_kernels` Gaussians, "elm" for free factors of every pair of patches, "none" for neither.

    Without a mask there is a class token; with one, tokens are averaged. All blocks have the same drop path rate.
    """

    image_size: int = 32
    patch_size: int = 4
    dim: int = 192
    depth: int = 9
    heads: int = 12
    head_dim: int = 16
    mlp_ratio: int = 2
    mask: Literal["gmm", "elm", "none"] = "gmm"
    num_kernels: int = 5

    def check(self) -> None:
        require_positive(
            patch_size=self.patch_size,
            dim=self.dim,
            depth=self.depth,
            heads=self.heads,
            head_dim=self.head_dim,
            mlp_ratio=self.mlp_ratio,
            num_kernels=self.num_kernels,
        )
        whole = self.image_size > 0 and self.image_size % self.patch_size == 0
        require(whole, "image_size", self.image_size, f"a multiple of patch_size ({self.patch_size})")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return (self.image_size // self.patch_size,) * 2


@register("gaussian_mixture_mask", GaussianMixtureMaskConfig)
class GaussianMixtureMaskViT(Backbone):
    """GMM-ViT. A mask fixes the number of patches; without one, positions are resampled to the image's grid."""

    config: GaussianMixtureMaskConfig
    no_decay = ("position", "class_token.token")

    def __init__(self, config: GaussianMixtureMaskConfig) -> None:
        super().__init__(config)
        if config.mask != "none":
            self.image_sizes = ImageSizes(fixed=pair(config.image_size))
        self.channels, self.strides = (config.dim,), (config.patch_size,)
        self.stem = PatchEmbed(config.in_channels, config.dim, config.patch_size)
        self.sequence = TokenSequence(config.grid, config.dim, class_token=config.mask == "none")
        self.blocks = nn.Sequential(
            *(
                Block(
                    config.dim,
                    MaskedAttention(config.dim, config.heads, config.head_dim, mask=make_mask(config)),
                    MLP(config.dim, config.dim * config.mlp_ratio),
                    drop_path=config.drop_path_rate,
                )
                for _ in range(config.depth)
            )
        )
        self.norm = nn.LayerNorm(config.dim)
        self.head = classifier(config.dim, config.num_classes)
        self.apply(init_xavier_)
        nn.init.normal_(self.sequence.position)
        if isinstance(self.sequence.class_token, ClassToken):
            nn.init.normal_(self.sequence.class_token.token)

    def tokens(self, image: Tensor) -> Tensor:
        patches = self.stem(channels_last(image))
        grid, needed = (patches.shape[1], patches.shape[2]), self.config.grid
        require(self.config.mask == "none" or grid == needed, "grid of patches", grid, f"{needed}, fixed by the mask")
        return self.blocks(self.sequence(patches))

    def maps(self, image: Tensor) -> list[Tensor]:
        size, special = self.config.patch_size, int(self.config.mask == "none")
        return [self.tokens(image)[:, special:].unflatten(1, (image.shape[-2] // size, image.shape[-1] // size))]

    def embed(self, image: Tensor) -> Tensor:
        tokens = self.tokens(image)
        return self.norm(tokens[:, 0] if self.config.mask == "none" else tokens.mean(1))


def make_mask(config: GaussianMixtureMaskConfig) -> nn.Module | None:
    rows, columns = config.grid
    if config.mask == "gmm":
        return GaussianMixtureMask(config.grid, config.heads, config.num_kernels)
    return LearnedMask(rows * columns) if config.mask == "elm" else None


def init_xavier_(layer: nn.Module) -> None:
    """Linear layers, and patches as one: Xavier-normal weights, biases 0."""
    if isinstance(layer, nn.Linear | nn.Conv2d):
        nn.init.xavier_normal_(layer.weight.flatten(1))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


GMM_VIT = GaussianMixtureMaskConfig(num_classes=100)

VARIANTS = {
    "gmm_vit": GMM_VIT,
    "gmm_vit_tiny_imagenet": GMM_VIT.replace(image_size=64, patch_size=8, num_classes=200),
    "elm_vit": GMM_VIT.replace(mask="elm"),
    "vit_small_data": GMM_VIT.replace(mask="none"),
}

REFERENCE_NAMES = [
    (r"^cls_token$", "sequence.class_token.token"),
    (r"^pos_embedding$", "sequence.position"),
    (r"^to_patch_embedding\.1\.", "stem.proj."),
    (r"^transformer\.layers\.", "blocks."),
    (r"\.0\.norm\.", ".token.norm."),
    (r"\.1\.norm\.", ".channel.norm."),
    (r"\.0\.fn\.to_qkv\.", ".token.inner.qkv."),
    (r"\.0\.fn\.to_out\.0\.", ".token.inner.proj."),
    (r"\.0\.fn\.mask\.alpha$", ".token.inner.mask.weight"),
    (r"\.0\.fn\.mask\.sigma$", ".token.inner.mask.width"),
    (r"\.0\.fn\.mask\.mask$", ".token.inner.mask.factors"),
    (r"\.1\.fn\.net\.0\.", ".channel.inner.fc1."),
    (r"\.1\.fn\.net\.3\.", ".channel.inner.fc2."),
    (r"^mlp_head\.0\.", "norm."),
    (r"^mlp_head\.1\.", "head."),
]


def convert_reference(state: dict[str, Tensor], model: GaussianMixtureMaskViT) -> dict[str, Tensor]:
    """Gives patch pixels, stored channel fastest, the axes of a convolution, and drops the table of distances."""
    config, converted = model.config, dict(state)
    if config.mask == "gmm":
        converted = {name: value for name, value in state.items() if not name.endswith("mask.mask") and name != "mask"}
    square, special = (config.patch_size, config.patch_size), int(config.mask == "none")
    converted = changed(
        converted,
        r"^to_patch_embedding\.1\.weight$",
        lambda pixels: pixels.unflatten(1, (*square, -1)).permute(0, 3, 1, 2),
    )
    return changed(converted, "^pos_embedding$", lambda table: sequence_on_grid(table, config.grid, special=special))
