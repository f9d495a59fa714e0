"""MS-MLP: groups of channels are shifted by different distances and mixed by kernels of different sizes.

"Mixing and Shifting: Exploiting Global and Local Dependencies in Vision MLPs" (arXiv 2202.06510).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier, doubling_strides
from ommatid.models.config import Config, require, require_positive, require_stages
from ommatid.models.names import SWIN_STAGE_NAMES
from ommatid.models.registry import register
from ommatid.nn.block import pyramid, pyramid_stages
from ommatid.nn.embed import PatchEmbed
from ommatid.nn.init import init_linear_
from ommatid.nn.mixers import MixShift
from ommatid.nn.mixers.mix_shift import group_widths
from ommatid.nn.norm import LayerNorm
from ommatid.nn.residual import Residual, stochastic_depth
from ommatid.nn.spatial_mlp import SpatialMLP


@dataclass(frozen=True, kw_only=True)
class MSMLPConfig(Config):
    """`image_size` is what a model was trained for; it shapes no parameter."""

    image_size: int | tuple[int, int] = 224
    patch_size: int = 4
    dims: tuple[int, ...] = (96, 192, 384, 768)
    depths: tuple[int, ...] = (3, 3, 9, 3)
    groups: int = 5
    shifts: tuple[int, ...] = (-2, -1, 0, 1, 2)
    kernel_sizes: tuple[tuple[int, ...], ...] = ((1, 1, 3, 5, 7), (1, 3, 3, 5, 7), (1, 5, 5, 5, 7), (1, 7, 7, 7, 7))
    mlp_ratio: float = 4.0
    patch_norm: bool = True

    def check(self) -> None:
        require_stages(dims=self.dims, depths=self.depths, kernel_sizes=self.kernel_sizes)
        require_positive(patch_size=self.patch_size, groups=self.groups)
        require(len(self.shifts) == self.groups, "shifts", self.shifts, f"one for each of the {self.groups} groups")
        for sizes in self.kernel_sizes:
            odd = len(sizes) == self.groups and all(size > 0 and size % 2 for size in sizes)
            require(odd, "kernel_sizes", self.kernel_sizes, f"{self.groups} odd numbers for each stage, one a group")
        for dim in self.dims:
            whole = dim > 0 and len(group_widths(dim, self.groups)) == self.groups
            require(whole, "dims", self.dims, f"widths that make {self.groups} groups of equal widths, the last less")


@register("ms_mlp", MSMLPConfig)
class MSMLP(Backbone):
    """MS-MLP. Takes any image of at least one cell in the last stage; sides round down."""

    config: MSMLPConfig

    def __init__(self, config: MSMLPConfig) -> None:
        super().__init__(config)
        dims = config.dims
        self.channels, self.strides = dims, doubling_strides(config.patch_size, len(dims))
        rates = stochastic_depth(config.drop_path_rate, config.depths)
        stem_norm = LayerNorm(dims[0]) if config.patch_norm else None
        self.stem = PatchEmbed(config.in_channels, dims[0], config.patch_size, norm=stem_norm)
        self.stages = pyramid_stages(
            dims, rates, patch_merging, lambda i, _, rate: ms_mlp_block(config, i, drop_path=rate)
        )
        self.norm = LayerNorm(dims[-1])
        self.head = classifier(dims[-1], config.num_classes)
        self.apply(init_linear_)

    def maps(self, image: Tensor) -> list[Tensor]:
        return pyramid(self.stages, self.stem(channels_last(image)))

    def embed(self, image: Tensor) -> Tensor:
        return self.norm(self.maps(image)[-1].mean((1, 2)))


def patch_merging(in_dim: int, dim: int) -> PatchEmbed:
    return PatchEmbed(in_dim, dim, 2, norm=LayerNorm(dim))


def ms_mlp_block(config: MSMLPConfig, stage: int, *, drop_path: float) -> Residual:
    dim = config.dims[stage]
    mixer = MixShift(dim, config.shifts, config.kernel_sizes[stage])
    inner = SpatialMLP(dim, mixer, int(config.mlp_ratio * dim), norm=LayerNorm)
    return Residual(dim, inner, norm=nn.Identity, layer_scale=1e-6, drop_path=drop_path)


DEEP = MSMLPConfig(depths=(3, 3, 27, 3))

VARIANTS = {
    "ms_mlp_tiny": MSMLPConfig(),
    "ms_mlp_small": DEEP,
    "ms_mlp_base": DEEP.replace(dims=(128, 256, 512, 1024)),
}

REFERENCE_NAMES = [
    (r"\.gamma$", ".scale.gamma"),
    (r"\.dwconv_lr\.", ".inner.mixer.across."),
    (r"\.dwconv_td\.", ".inner.mixer.down."),
    (r"(blocks\.\d+)\.norm\.", r"\1.inner.norm."),
    (r"\.pwconv([12])\.", r".inner.mlp.fc\1."),
    *SWIN_STAGE_NAMES,
]
