"""HorNet: features multiplied recursively by filtered ones, in the pyramid of ConvNeXt.

"HorNet: Efficient High-Order Spatial Interactions with Recursive Gated Convolutions" (arXiv 2207.14284).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from ommatid.models.backbone import Backbone, channels_last, classifier, doubling_strides
from ommatid.models.config import Config, require, require_positive, require_stages
from ommatid.models.names import BLOCK_NAMES, CONVNEXT_STAGE_NAMES
from ommatid.models.reference import changed
from ommatid.models.registry import register
from ommatid.models.sizes import require_at_least
from ommatid.nn.block import Block, pyramid, pyramid_stages
from ommatid.nn.embed import PatchEmbed, PreNormMerging
from ommatid.nn.feedforward import MLP
from ommatid.nn.init import init_linear_and_conv_
from ommatid.nn.mixers import GlobalLocalFilter, RecursiveGatedConv
from ommatid.nn.norm import LayerNorm
from ommatid.nn.residual import stochastic_depth


@dataclass(frozen=True, kw_only=True)
class HorNetConfig(Config):
    """`filter_sizes` has, for each stage, the rows and columns of the global-local filter's spectrum, or null for a 7x7
    convolution. For maps of H x W the spectrum is H x (W // 2 + 1); it is resampled for others.
    """

    dims: tuple[int, ...] = (64, 128, 256, 512)
    depths: tuple[int, ...] = (2, 3, 18, 2)
    orders: tuple[int, ...] = (2, 3, 4, 5)
    filter_sizes: tuple[tuple[int, int] | None, ...] = (None, None, None, None)
    scale: float = 1 / 3
    layer_scale: float | None = 1e-6

    def check(self) -> None:
        require_stages(dims=self.dims, depths=self.depths, orders=self.orders, filter_sizes=self.filter_sizes)
        require_positive(orders=self.orders)
        for dim, order, spectrum in zip(self.dims, self.orders, self.filter_sizes, strict=True):
            # The filter's two halves need one factor of two more.
            divisor = 2 ** (order - 1 if spectrum is None else order)
            require(dim > 0 and dim % divisor == 0, "dims", self.dims, f"multiples of {divisor} at order {order}")
            positive = spectrum is None or min(spectrum) > 0
            require(positive, "filter_sizes", self.filter_sizes, "null or two positive integers for each stage")


@register("hornet", HorNetConfig)
class HorNet(Backbone):
    """HorNet. Takes any image of at least one cell in the last stage; sides round down."""

    def __init__(self, config: HorNetConfig) -> None:
        super().__init__(config)
        dims = config.dims
        self.channels, self.strides = dims, doubling_strides(4, len(dims))
        rates = stochastic_depth(config.drop_path_rate, config.depths)
        self.stem = PatchEmbed(config.in_channels, dims[0], 4, norm=LayerNorm(dims[0]))
        self.stages = pyramid_stages(
            dims,
            rates,
            partial(PreNormMerging, norm=LayerNorm),
            lambda i, _, rate: hornet_block(config, i, drop_path=rate),
        )
        self.norm = LayerNorm(dims[-1])
        self.head = classifier(dims[-1], config.num_classes)
        self.apply(init_linear_and_conv_)

    def maps(self, image: Tensor) -> list[Tensor]:
        require_at_least(image, self.strides[-1])
        return pyramid(self.stages, self.stem(channels_last(image)))

    def embed(self, image: Tensor) -> Tensor:
        return self.norm(self.maps(image)[-1].mean((1, 2)))


def hornet_block(config: HorNetConfig, stage: int, *, drop_path: float) -> Block:
    dim, spectrum = config.dims[stage], config.filter_sizes[stage]
    return Block(
        dim,
        RecursiveGatedConv(
            dim,
            config.orders[stage],
            make_filter=partial(GlobalLocalFilter, spectrum=spectrum, norm=LayerNorm) if spectrum else None,
            scale=config.scale,
        ),
        MLP(dim, 4 * dim),
        norm=LayerNorm,
        layer_scale=config.layer_scale,
        drop_path=drop_path,
    )


def sized(first: int) -> dict[str, HorNetConfig]:
    """The published forms of one width, by the end of their names."""
    plain = HorNetConfig(dims=tuple(first * 2**stage for stage in range(4)))
    return {
        "7x7": plain,
        "gf": plain.replace(filter_sizes=(None, None, (14, 8), (7, 4))),
        "gf_img384": plain.replace(filter_sizes=(None, None, (24, 13), (12, 7))),
    }


TINY, SMALL, BASE, LARGE = (sized(first) for first in (64, 96, 128, 192))

VARIANTS = {
    "hornet_tiny_7x7": TINY["7x7"],
    "hornet_tiny_gf": TINY["gf"],
    "hornet_small_7x7": SMALL["7x7"],
    "hornet_small_gf": SMALL["gf"],
    "hornet_base_7x7": BASE["7x7"],
    "hornet_base_gf": BASE["gf"],
    "hornet_base_gf_img384": BASE["gf_img384"],
    "hornet_large_7x7": LARGE["7x7"],
    "hornet_large_gf": LARGE["gf"],
    "hornet_large_gf_img384": LARGE["gf_img384"],
}

REFERENCE_NAMES = [
    (r"\.dwconv\.complex_weight$", ".filter.gain"),
    (r"\.dwconv\.dw\.", ".filter.local."),
    (r"\.dwconv\.", ".filter."),
    (r"\.pws\.", ".expand."),
    (r"\.gnconv\.", ".token.inner."),
    (r"\.pwconv([12])\.", r".channel.inner.fc\1."),
    *CONVNEXT_STAGE_NAMES,
    *BLOCK_NAMES,
]


def convert_reference(state: dict[str, Tensor], model: HorNet) -> dict[str, Tensor]:
    """Gains have their channels first in the reference."""
    return changed(state, r"\.complex_weight$", lambda gain: gain.permute(1, 2, 0, 3))
