"""UniRepLKNet: very large depthwise kernels, trained with dilated branches that merge into them.

"UniRepLKNet: A Universal Perception Large-Kernel ConvNet for Audio, Video, Point Cloud, Time-Series and Image
Recognition" (arXiv 2311.15599).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier, doubling_strides
from ommatid.models.config import Config, require, require_stages
from ommatid.models.registry import register
from ommatid.nn.block import pyramid, pyramid_stages
from ommatid.nn.conv import Conv2d, depthwise_conv
from ommatid.nn.deploy import fold_norm_after_, scale_output_
from ommatid.nn.embed import PatchEmbed, overlapping_merging
from ommatid.nn.init import init_linear_and_conv_
from ommatid.nn.norm import BatchNorm2d, GlobalResponseNorm, LayerNorm
from ommatid.nn.reparam import ReparamConv
from ommatid.nn.residual import Residual, stochastic_depth
from ommatid.nn.squeeze_excite import SqueezeExcite

# (kernel size, dilation) of what is trained in parallel with each large kernel.
DILATED_BRANCHES = {
    17: ((5, 1), (9, 2), (3, 4), (3, 5), (3, 7)),
    15: ((5, 1), (7, 2), (3, 3), (3, 5), (3, 7)),
    13: ((5, 1), (7, 2), (3, 3), (3, 4), (3, 5)),
    11: ((5, 1), (5, 2), (3, 3), (3, 4), (3, 5)),
    9: ((5, 1), (5, 2), (3, 3), (3, 4)),
    7: ((5, 1), (3, 2), (3, 3)),
}
KERNEL_SIZES = (0, 3, 5, *sorted(DILATED_BRANCHES))


@dataclass(frozen=True, kw_only=True)
class UniRepLKNetConfig(Config):
    """`kernel_sizes` has the depthwise kernel of every block of each stage, 0 for none.

    `deploy` makes the merged form, which has other parameters: those of `UniRepLKNet.deploy()`.
    """

    dims: tuple[int, ...] = (40, 80, 160, 320)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    kernel_sizes: tuple[tuple[int, ...], ...] = ((3,) * 2, (13,) * 2, (13,) * 6, (13,) * 2)
    layer_scale: float | None = 1e-6
    deploy: bool = False

    def check(self) -> None:
        require_stages(dims=self.dims, depths=self.depths, kernel_sizes=self.kernel_sizes)
        require(min(self.dims) >= 4, "dims", self.dims, "at least 4 channels")
        fits = all(len(sizes) == depth for sizes, depth in zip(self.kernel_sizes, self.depths, strict=True))
        require(fits, "kernel_sizes", self.kernel_sizes, f"one for each block, {self.depths} by stage")
        known = all(size in KERNEL_SIZES for sizes in self.kernel_sizes for size in sizes)
        require(known, "kernel_sizes", self.kernel_sizes, f"each one of {KERNEL_SIZES}")


@register("unireplknet", UniRepLKNetConfig)
class UniRepLKNet(Backbone):
    """UniRepLKNet. Sides round up, so any image works."""

    config: UniRepLKNetConfig

    def __init__(self, config: UniRepLKNetConfig) -> None:
        super().__init__(config)
        dims = config.dims
        self.channels, self.strides = dims, doubling_strides(4, len(dims))
        rates = stochastic_depth(config.drop_path_rate, config.depths)
        self.stem = nn.Sequential(halving(config.in_channels, dims[0] // 2), nn.GELU(), halving(dims[0] // 2, dims[0]))
        self.stages = pyramid_stages(
            dims, rates, halving, lambda i, j, rate: unireplknet_block(config, i, j, drop_path=rate)
        )
        self.norm = LayerNorm(dims[-1])
        self.head = classifier(dims[-1], config.num_classes)
        self.apply(init_linear_and_conv_)

    def maps(self, image: Tensor) -> list[Tensor]:
        return pyramid(self.stages, self.stem(channels_last(image)))

    def embed(self, image: Tensor) -> Tensor:
        return self.norm(self.maps(image)[-1].mean((1, 2)))


def halving(in_dim: int, dim: int) -> PatchEmbed:
    return overlapping_merging(in_dim, dim, norm=LayerNorm)


def unireplknet_block(config: UniRepLKNetConfig, stage: int, index: int, *, drop_path: float) -> Residual:
    dim = config.dims[stage]
    return Residual(
        dim,
        LargeKernelUnit(dim, config.kernel_sizes[stage][index], merged=config.deploy),
        norm=nn.Identity,
        layer_scale=None if config.deploy else config.layer_scale,
        drop_path=drop_path,
    )


class LargeKernelUnit(nn.Module):
    """Depthwise convolution, squeeze-and-excitation, MLP with global response norm: (B, H, W, C) -> (B, H, W, C).

    Cost once merged: H W (K^2 C + 8 C^2) multiply-adds, and C^2 / 2 for the squeeze-and-excitation.

    Args:
        dim: C.
        kernel_size: K, one of KERNEL_SIZES.
        merged: the form without batch norms, which `deploy()` gives.
    """

    def __init__(self, dim: int, kernel_size: int, *, merged: bool = False) -> None:
        super().__init__()
        self.conv = spatial_conv(dim, kernel_size, merged=merged)
        self.norm: nn.Module = nn.Identity() if merged or not kernel_size else BatchNorm2d(dim)
        self.gate = SqueezeExcite(dim, dim // 4)
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.act = nn.GELU()
        self.response_norm = GlobalResponseNorm(4 * dim, bias=not merged)
        self.fc2 = nn.Linear(4 * dim, dim, bias=merged)
        self.output_norm: nn.Module = nn.Identity() if merged else BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        gated = self.gate(self.norm(self.conv(x)))
        return self.output_norm(self.fc2(self.response_norm(self.act(self.fc1(gated)))))

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.fc2, scale)

    def deploy_(self) -> None:
        if isinstance(self.conv, ReparamConv) and self.conv.merged is not None:
            self.conv = self.conv.merged
        if isinstance(self.norm, BatchNorm2d):
            assert isinstance(self.conv, Conv2d)
            fold_norm_after_(self.conv, self.norm)
            self.norm = nn.Identity()
        if self.response_norm.bias is not None:
            self.fc2.bias = nn.Parameter(self.fc2.weight @ self.response_norm.bias)
            self.response_norm.bias = None
        if isinstance(self.output_norm, BatchNorm2d):
            fold_norm_after_(self.fc2, self.output_norm)
            self.output_norm = nn.Identity()


def spatial_conv(dim: int, kernel_size: int, *, merged: bool) -> nn.Module:
    if not kernel_size:
        return nn.Identity()
    if merged or kernel_size not in DILATED_BRANCHES:
        return depthwise_conv(dim, kernel_size, bias=merged)
    return ReparamConv(dim, [(kernel_size, 1), *DILATED_BRANCHES[kernel_size]])


def large(dims: tuple[int, ...], third_depth: int, repeated: tuple[int, ...]) -> UniRepLKNetConfig:
    """Three blocks in each stage but the third, whose kernel sizes repeat a pattern."""
    third = repeated * (third_depth // len(repeated))
    return UniRepLKNetConfig(
        dims=dims, depths=(3, 3, third_depth, 3), kernel_sizes=((3,) * 3, (13,) * 3, third, (13,) * 3)
    )


def widths(first: int) -> tuple[int, ...]:
    return tuple(first * 2**stage for stage in range(4))


VARIANTS = {
    "unireplknet_a": UniRepLKNetConfig(),
    "unireplknet_f": UniRepLKNetConfig(dims=widths(48)),
    "unireplknet_p": UniRepLKNetConfig(dims=widths(64)),
    "unireplknet_n": UniRepLKNetConfig(
        dims=widths(80), depths=(2, 2, 8, 2), kernel_sizes=((3,) * 2, (13,) * 2, (13,) * 8, (13,) * 2)
    ),
    "unireplknet_t": large(widths(80), 18, (13, 3)),
    "unireplknet_s": large(widths(96), 27, (13, 3, 3)),
    "unireplknet_b": large(widths(128), 27, (13, 3, 3)),
    "unireplknet_l": large(widths(192), 27, (13, 3, 3)),
    "unireplknet_xl": large(widths(256), 27, (13, 3, 3)),
}

REFERENCE_NAMES = [
    (r"^downsample_layers\.0\.0\.", "stem.0.proj."),
    (r"^downsample_layers\.0\.1\.", "stem.0.norm."),
    (r"^downsample_layers\.0\.3\.", "stem.2.proj."),
    (r"^downsample_layers\.0\.4\.", "stem.2.norm."),
    (r"^downsample_layers\.(\d+)\.0\.", r"stages.\1.downsample.proj."),
    (r"^downsample_layers\.(\d+)\.1\.", r"stages.\1.downsample.norm."),
    (r"^stages\.(\d+)\.(\d+)\.gamma$", r"stages.\1.blocks.\2.scale.gamma"),
    (r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2.inner."),
    (r"\.dwconv\.", ".conv."),
    (r"\.lk_origin\.", "."),
    (r"\.origin_bn\.", ".branches.0.norm."),
    (r"\.se\.down\.", ".gate.fc1."),
    (r"\.se\.up\.", ".gate.fc2."),
    (r"\.pwconv1\.1\.", ".fc1."),
    (r"\.act\.1\.gamma$", ".response_norm.weight"),
    (r"\.act\.1\.beta$", ".response_norm.bias"),
    (r"\.pwconv2\.0\.", ".fc2."),
    (r"\.pwconv2\.2\.", ".output_norm."),
]


def convert_reference(state: dict[str, Tensor], model: UniRepLKNet) -> dict[str, Tensor]:
    """Numbers the parallel branches, which the reference calls by their kernel size and dilation."""
    renamed = {}
    for stage, kernel_sizes in enumerate(model.config.kernel_sizes):
        for block, largest in enumerate(kernel_sizes):
            conv = f"stages.{stage}.{block}.dwconv"
            if not model.config.deploy:
                renamed[f"{conv}.lk_origin"] = f"{conv}.branches.0.conv"
            for number, (size, dilation) in enumerate(DILATED_BRANCHES.get(largest, ()), start=1):
                renamed[f"{conv}.dil_conv_k{size}_{dilation}"] = f"{conv}.branches.{number}.conv"
                renamed[f"{conv}.dil_bn_k{size}_{dilation}"] = f"{conv}.branches.{number}.norm"
    layers = {name: name.rpartition(".") for name in state}
    return {f"{renamed.get(layer, layer)}{dot}{leaf}": state[name] for name, (layer, dot, leaf) in layers.items()}
