"""ConvNeXt: a convolutional network with the proportions of a transformer.

"A ConvNet for the 2020s" (arXiv 2201.03545).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier, doubling_strides
from ommatid.models.config import Config, require_positive, require_stages
from ommatid.models.names import CONVNEXT_STAGE_NAMES
from ommatid.models.registry import register
from ommatid.models.sizes import require_at_least
from ommatid.nn.block import pyramid, pyramid_stages
from ommatid.nn.conv import depthwise_conv
from ommatid.nn.embed import PatchEmbed, PreNormMerging
from ommatid.nn.init import init_linear_and_conv_
from ommatid.nn.norm import LayerNorm
from ommatid.nn.residual import Residual, stochastic_depth
from ommatid.nn.spatial_mlp import SpatialMLP


@dataclass(frozen=True, kw_only=True)
class ConvNeXtConfig(Config):
    """`dims` and `depths` describe the hierarchical form, `dim`, `depth` and `patch_size` the isotropic one."""

    variant: Literal["hierarchical", "isotropic"] = "hierarchical"
    dims: tuple[int, ...] = (96, 192, 384, 768)
    depths: tuple[int, ...] = (3, 3, 9, 3)
    dim: int = 384
    depth: int = 18
    patch_size: int = 16
    layer_scale: float | None = 1e-6

    def check(self) -> None:
        require_stages(dims=self.dims, depths=self.depths)
        require_positive(dim=self.dim, patch_size=self.patch_size)

    @property
    def stage_dims(self) -> tuple[int, ...]:
        return self.dims if self.variant == "hierarchical" else (self.dim,)

    @property
    def stage_depths(self) -> tuple[int, ...]:
        return self.depths if self.variant == "hierarchical" else (self.depth,)

    @property
    def first_stride(self) -> int:
        return 4 if self.variant == "hierarchical" else self.patch_size


@register("convnext", ConvNeXtConfig)
class ConvNeXt(Backbone):
    """ConvNeXt, hierarchical or isotropic. Takes any image of at least one cell in the last stage; sides round down."""

    def __init__(self, config: ConvNeXtConfig) -> None:
        super().__init__(config)
        dims, depths = config.stage_dims, config.stage_depths
        self.channels, self.strides = dims, doubling_strides(config.first_stride, len(dims))
        rates = stochastic_depth(config.drop_path_rate, depths)
        stem_norm = LayerNorm(dims[0]) if config.variant == "hierarchical" else None
        self.stem = PatchEmbed(config.in_channels, dims[0], config.first_stride, norm=stem_norm)
        self.stages = pyramid_stages(
            dims,
            rates,
            partial(PreNormMerging, norm=LayerNorm),
            lambda i, _, rate: convnext_block(dims[i], config.layer_scale, drop_path=rate),
        )
        self.norm = LayerNorm(dims[-1])
        self.head = classifier(dims[-1], config.num_classes)
        self.apply(init_linear_and_conv_)

    def maps(self, image: Tensor) -> list[Tensor]:
        require_at_least(image, self.strides[-1])
        return pyramid(self.stages, self.stem(channels_last(image)))

    def embed(self, image: Tensor) -> Tensor:
        return self.norm(self.maps(image)[-1].mean((1, 2)))


def convnext_block(dim: int, layer_scale: float | None, *, drop_path: float) -> Residual:
    inner = SpatialMLP(dim, depthwise_conv(dim, 7), 4 * dim, norm=LayerNorm)
    return Residual(dim, inner, norm=nn.Identity, layer_scale=layer_scale, drop_path=drop_path)


def isotropic(dim: int, depth: int, layer_scale: float | None) -> ConvNeXtConfig:
    return ConvNeXtConfig(variant="isotropic", dim=dim, depth=depth, layer_scale=layer_scale)


VARIANTS = {
    "convnext_tiny": ConvNeXtConfig(),
    "convnext_small": ConvNeXtConfig(depths=(3, 3, 27, 3)),
    "convnext_base": ConvNeXtConfig(depths=(3, 3, 27, 3), dims=(128, 256, 512, 1024)),
    "convnext_large": ConvNeXtConfig(depths=(3, 3, 27, 3), dims=(192, 384, 768, 1536)),
    "convnext_xlarge": ConvNeXtConfig(depths=(3, 3, 27, 3), dims=(256, 512, 1024, 2048)),
    "convnext_isotropic_small": isotropic(384, 18, None),
    "convnext_isotropic_base": isotropic(768, 18, None),
    "convnext_isotropic_large": isotropic(1024, 36, 1e-6),
}

REFERENCE_NAMES = [
    (r"^stem\.(weight|bias)$", r"stem.proj.\1"),
    (r"^blocks\.(\d+)\.", r"stages.0.\1."),
    (r"^stages\.(\d+)\.(\d+)\.gamma$", r"stages.\1.blocks.\2.scale.gamma"),
    (r"^stages\.(\d+)\.(\d+)\.dwconv\.", r"stages.\1.blocks.\2.inner.mixer."),
    (r"^stages\.(\d+)\.(\d+)\.norm\.", r"stages.\1.blocks.\2.inner.norm."),
    (r"^stages\.(\d+)\.(\d+)\.pwconv([12])\.", r"stages.\1.blocks.\2.inner.mlp.fc\3."),
    *CONVNEXT_STAGE_NAMES,
]
