"""MSVMamba: state-space scans in four directions, most of them on a map of half the size.

"Multi-Scale VMamba: Hierarchy in Hierarchy Visual State Space Model" (arXiv 2405.14174).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier, doubling_strides
from ommatid.models.config import Config, require, require_positive, require_stages
from ommatid.models.names import SELECTIVE_SCAN_PARAMETERS, SWIN_STAGE_NAMES
from ommatid.models.registry import register
from ommatid.models.sizes import require_at_least
from ommatid.nn.block import Block, pyramid, pyramid_stages
from ommatid.nn.embed import PatchEmbed, PatchMerging, two_conv_stem
from ommatid.nn.feedforward import ConvMLP
from ommatid.nn.init import init_linear_
from ommatid.nn.mixers import SS2D
from ommatid.nn.mixers.ss2d import CrossScan, MultiScaleScan
from ommatid.nn.residual import stochastic_depth
from ommatid.nn.squeeze_excite import SqueezeExcite


@dataclass(frozen=True, kw_only=True)
class MSVMambaConfig(Config):
    """`scan_split` is how many directions are scanned at full and at half resolution in `multiscale_stages`."""

    patch_size: int = 4
    stem: Literal["v1", "v2"] = "v1"
    dims: tuple[int, ...] = (48, 96, 192, 384)
    depths: tuple[int, ...] = (1, 2, 5, 2)
    state_dim: int = 1
    ssm_ratio: float = 2.0
    dt_rank: int | None = None
    multiscale_stages: tuple[int, ...] = (0, 1, 2, 3)
    scan_split: tuple[int, int] = (1, 3)
    squeeze_excite: bool = True

    def check(self) -> None:
        require_stages(dims=self.dims, depths=self.depths)
        require_positive(patch_size=self.patch_size)
        require(self.stem == "v1" or self.patch_size == 4, "patch_size", self.patch_size, "4 with stem 'v2'")
        require_positive(state_dim=self.state_dim)
        require(self.dt_rank is None or self.dt_rank > 0, "dt_rank", self.dt_rank, "null or a positive integer")
        splits = ((1, 3), (2, 2), (3, 1))
        require(self.scan_split in splits, "scan_split", self.scan_split, " or ".join(map(str, splits)))
        stages = range(len(self.dims))
        within = all(stage in stages for stage in self.multiscale_stages)
        require(within, "multiscale_stages", self.multiscale_stages, f"stages from 0 to {len(stages) - 1}")
        narrowest = min(int(self.ssm_ratio * dim) for dim in self.dims)
        smallest = 8 if self.squeeze_excite else 1
        require(narrowest >= smallest, "ssm_ratio", self.ssm_ratio, f"one that makes each width at least {smallest}")


@register("msvmamba", MSVMambaConfig)
class MSVMamba(Backbone):
    """Multi-Scale VMamba. Takes any image of at least one patch."""

    config: MSVMambaConfig
    no_decay = ("A_log", "D")

    def __init__(self, config: MSVMambaConfig) -> None:
        super().__init__(config)
        dims = config.dims
        self.channels, self.strides = dims, doubling_strides(config.patch_size, len(dims))
        rates = stochastic_depth(config.drop_path_rate, config.depths)
        self.stem = (
            nn.Sequential(PatchEmbed(config.in_channels, dims[0], config.patch_size, norm=nn.LayerNorm(dims[0])))
            if config.stem == "v1"
            else two_conv_stem(config.in_channels, dims[0], strides=(2, 2), act=nn.GELU())
        )
        self.stages = pyramid_stages(
            dims, rates, PatchMerging, lambda i, _, rate: msvmamba_block(config, i, drop_path=rate)
        )
        self.norm = nn.LayerNorm(dims[-1])
        self.head = classifier(dims[-1], config.num_classes)
        self.apply(init_linear_)

    def maps(self, image: Tensor) -> list[Tensor]:
        require_at_least(image, self.config.patch_size)
        return pyramid(self.stages, self.stem(channels_last(image)))

    def embed(self, image: Tensor) -> Tensor:
        return self.norm(self.maps(image)[-1]).mean((1, 2))


def msvmamba_block(config: MSVMambaConfig, stage: int, *, drop_path: float) -> Block:
    dim = config.dims[stage]
    inner_dim = int(config.ssm_ratio * dim)
    # The rank follows the block's width, not that of the scan.
    rank = config.dt_rank or -(-dim // 16)
    scan = (
        MultiScaleScan(inner_dim, fine=config.scan_split[0], state_dim=config.state_dim, dt_rank=rank)
        if stage in config.multiscale_stages
        else CrossScan(inner_dim, state_dim=config.state_dim, dt_rank=rank)
    )
    excite = SqueezeExcite(inner_dim, inner_dim // 8, bias=False) if config.squeeze_excite else None
    channel_mixer = ConvMLP(dim, 2 * dim, residual=True)
    return Block(dim, SS2D(dim, inner_dim, scan, excite=excite), channel_mixer, drop_path=drop_path)


NANO = MSVMambaConfig()

VARIANTS = {
    "msvmamba_nano": NANO,
    "msvmamba_micro": NANO.replace(dims=(64, 128, 256, 512)),
    "msvmamba_tiny": NANO.replace(dims=(96, 192, 384, 768), depths=(1, 2, 9, 2)),
}

REFERENCE_NAMES = [
    (r"^patch_embed\.0\.", "stem.0.proj."),
    (r"^patch_embed\.2\.", "stem.0.norm."),
    (r"^patch_embed\.5\.", "stem.2.proj."),
    (r"^patch_embed\.7\.", "stem.2.norm."),
    (r"^classifier\.", ""),
    (r"(blocks\.\d+)\.norm\.", r"\1.token.norm."),
    (r"(blocks\.\d+)\.norm2\.", r"\1.channel.norm."),
    (r"\.op\.(in|out)_proj\.", r".token.inner.proj_\1."),
    (r"\.op\.se\.fc\.0\.", ".token.inner.excite.fc1."),
    (r"\.op\.se\.fc\.2\.", ".token.inner.excite.fc2."),
    (r"\.op\.conv2d\.", ".token.inner.scan.conv."),
    (r"\.op\.conv2d_b1\.", ".token.inner.scan.coarse_conv."),
    (r"\.op\.out_norm\.", ".token.inner.scan.norm."),
    (r"\.op\.(\w*ssm)\.", r".token.inner.scan.\1."),
    (r"\.convFFN\.linear1\.", ".channel.inner.fc1."),
    (r"\.convFFN\.dwc\.", ".channel.inner.conv.conv."),
    (r"\.convFFN\.linear2\.", ".channel.inner.fc2."),
    *SWIN_STAGE_NAMES,
]


def convert_reference(state: dict[str, Tensor], model: MSVMamba) -> dict[str, Tensor]:
    """Gives stacked parameter sets an axis of their own; the first set of a multi-scale block is its coarse one."""
    converted = {}
    for name, value in state.items():
        prefix, _, leaf = name.rpartition(".")
        if leaf not in SELECTIVE_SCAN_PARAMETERS:
            converted[name] = value
            continue
        sets = len(state[f"{prefix}.x_proj_weight"])
        stacked = value.unflatten(0, (sets, -1)) if leaf in ("A_logs", "Ds") else value
        ours = SELECTIVE_SCAN_PARAMETERS[leaf]
        if f"{prefix}.conv2d_b1.weight" in state:
            converted[f"{prefix}.coarse_ssm.{ours}"] = stacked[:1]
            converted[f"{prefix}.fine_ssm.{ours}"] = stacked[1:]
        else:
            converted[f"{prefix}.ssm.{ours}"] = stacked
    return converted
