"""MHS-VM: a U-shaped network of selective scans whose heads read the map along routes of different shapes.

"MHS-VM: Multi-Head Scanning in Parallel Subspaces for Vision Mamba" (arXiv 2406.05992).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.models.backbone import channels_last
from ommatid.models.config import PartConfig, require, require_positive, require_stages
from ommatid.models.dense import Segmenter
from ommatid.models.names import SELECTIVE_SCAN_PARAMETERS
from ommatid.models.reference import zero_based
from ommatid.models.registry import register
from ommatid.models.sizes import pair
from ommatid.nn.conv import Conv2d, depthwise_conv
from ommatid.nn.embed import PatchEmbed, PatchMerging
from ommatid.nn.init import init_linear_
from ommatid.nn.mixers import MultiHeadScan
from ommatid.nn.mixers.multi_head_scan import SHAPES
from ommatid.nn.residual import Residual, stochastic_depth
from ommatid.nn.upsample import PatchExpand
from ommatid.ops.scan_routes import ROUTES

PATCH = 4


@dataclass(frozen=True, kw_only=True)
class MHSVMConfig(PartConfig):
    """`scan_heads` are 3 (snake, diagonal, spiral) or 4 (raster too); the decoder has the widths `dims` reversed."""

    image_size: int | tuple[int, int] = 256
    num_classes: int = 1
    dims: tuple[int, ...] = (96, 192, 384, 768)
    depths: tuple[int, ...] = (2, 2, 2, 2)
    depths_decoder: tuple[int, ...] = (2, 2, 2, 1)
    d_state: int = 16
    scan_heads: int = 4
    gfu_threshold: float = 0.5
    out_projection: bool = True
    patch_size: int = PATCH
    drop_path_rate: float = 0.0

    def check(self) -> None:
        require_stages(dims=self.dims, depths=self.depths, depths_decoder=self.depths_decoder)
        require_positive(num_classes=self.num_classes, dims=self.dims, d_state=self.d_state)
        for name in ("depths", "depths_decoder"):
            require(min(getattr(self, name)) >= 0, name, getattr(self, name), "0 or more blocks in each level")
        doubling = all(wide == 2 * narrow for narrow, wide in zip(self.dims, self.dims[1:], strict=False))
        require(doubling and self.dims[0] % 4 == 0, "dims", self.dims, "a multiple of 4, doubling from level to level")
        require(self.scan_heads in (3, 4), "scan_heads", self.scan_heads, "3 or 4")
        whole = self.out_projection or self.dims[0] % self.scan_heads == 0
        require(whole, "dims", self.dims, f"multiples of scan_heads ({self.scan_heads}) without out_projection")
        above = "below 2, the largest coefficient of variation of four answers"
        require(self.gfu_threshold < 2, "gfu_threshold", self.gfu_threshold, above)
        require(self.patch_size == PATCH, "patch_size", self.patch_size, "4: the last step of the decoder undoes it")
        divides = all(side > 0 and side % self.multiple == 0 for side in pair(self.image_size))
        require(divides, "image_size", self.image_size, f"multiples of {self.multiple}")
        require(0 <= self.drop_path_rate < 1, "drop_path_rate", self.drop_path_rate, "from 0 up to, not including, 1")

    @property
    def multiple(self) -> int:
        """Images of such sides have whole maps at every level."""
        return PATCH * 2 ** (len(self.dims) - 1)


@register("mhs_vm", MHSVMConfig)
class MHSVM(Segmenter):
    """Images (B, 3 or 1, H, W) -> logits (B, K, H, W); probabilities, as published, where there is one class.

    Sides that are not multiples of `config.multiple` are zero-padded at their ends. Under autocast too the answer is
    computed in the precision of the weights: the scans are weighted by quotients of small differences.
    """

    config: MHSVMConfig
    no_decay = ("A_log", "D")

    def __init__(self, config: MHSVMConfig) -> None:
        super().__init__(config)
        self.num_classes = config.num_classes
        dims, levels = config.dims, len(config.dims)
        rates = stochastic_depth(config.drop_path_rate, config.depths)
        rising = stochastic_depth(config.drop_path_rate, config.depths_decoder[::-1])
        falling = [level[::-1] for level in rising[::-1]]
        self.stem = PatchEmbed(3, dims[0], PATCH, norm=nn.LayerNorm(dims[0]))
        self.encoder_blocks = nn.ModuleList(scan_blocks(config, dims[i], rates[i]) for i in range(levels))
        self.merging = nn.ModuleList(PatchMerging(dims[i], dims[i + 1]) for i in range(levels - 1))
        self.expand = nn.ModuleList(PatchExpand(dim, dim // 2, 2) for dim in dims[:0:-1])
        self.decoder_blocks = nn.ModuleList(
            scan_blocks(config, dim, level) for dim, level in zip(dims[::-1], falling, strict=True)
        )
        self.enlarge = PatchExpand(dims[0], dims[0] // PATCH, PATCH)
        self.classifier = Conv2d(dims[0] // PATCH, config.num_classes, 1)
        self.apply(init_linear_)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        multiple = self.config.multiple
        colour = image.expand(-1, 3, -1, -1) if image.shape[1] == 1 else image
        whole = channels_last(F.pad(colour, (0, -width % multiple, 0, -height % multiple)))
        with torch.autocast(image.device.type, enabled=False):
            maps = self.encode(whole.to(self.classifier.weight.dtype))
            logits = self.decode(*maps)[:, :height, :width].permute(0, 3, 1, 2)
        return logits.sigmoid() if self.num_classes == 1 else logits

    def encode(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Image (B, H, W, 3) -> what goes into each level, and what its blocks make of it."""
        x, entered, left = self.stem(image), [], []
        for level, blocks in enumerate(self.encoder_blocks):
            entered.append(x)
            x = blocks(x)
            left.append(x)
            x = self.merging[level](x) if level < len(self.merging) else x
        return entered, left

    def decode(self, entered: list[Tensor], left: list[Tensor]) -> Tensor:
        """What `encode` gives -> (B, H, W, K). What went into the finest level is not read."""
        deepest, *others = self.decoder_blocks
        x = deepest(left[-1])
        for blocks, expand, skip in zip(others, self.expand, entered[:0:-1], strict=True):
            x = blocks(expand(x + skip))
        return self.classifier(self.enlarge(x))

    def losses(self, image: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """The published loss of one class, by terms.

        Args:
            image: (B, 3 or 1, H, W).
            mask: (B, H, W) of 0 and 1.

        Raises:
            ValueError: there are several classes.
        """
        require(self.num_classes == 1, "num_classes", self.num_classes, "1 for this loss")
        share, truth = self(image).flatten(1).float(), mask.flatten(1).float()
        overlap, sizes = (share * truth).sum(1), share.sum(1) + truth.sum(1)
        dice = 1 - ((2 * overlap + 1) / (sizes + 1)).mean()
        return {"cross_entropy": F.binary_cross_entropy(share, truth), "dice": dice}


class GatedScan(nn.Module):
    """Convolution, multi-head scan and norm of one projection, times another: (B, H, W, C) -> (B, H, W, C)."""

    def __init__(self, dim: int, scan: nn.Module) -> None:
        super().__init__()
        self.proj_in = nn.Linear(dim, 2 * dim, bias=False)
        self.conv = depthwise_conv(dim, 3)
        self.scan = scan
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        features, gate = self.proj_in(x).chunk(2, dim=-1)
        return self.norm(self.scan(F.silu(self.conv(features)))) * F.silu(gate)


def scan_blocks(config: MHSVMConfig, dim: int, rates: list[float]) -> nn.Sequential:
    def block(rate: float) -> Residual:
        scan = MultiHeadScan(
            dim,
            shapes=SHAPES[: config.scan_heads],
            state_dim=config.d_state,
            threshold=config.gfu_threshold,
            out_projection=config.out_projection,
        )
        return Residual(dim, GatedScan(dim, scan), drop_path=rate)

    return nn.Sequential(*map(block, rates))


def reference_outputs(model: MHSVM, image: Tensor) -> dict[str, Tensor]:
    left = model.encode(channels_last(image))[1]
    outputs = {f"stage{level}": features.permute(0, 3, 1, 2) for level, features in enumerate(left)}
    logits = model(image)
    return outputs | {"logits": logits, "logits_stride4": logits[..., ::4, ::4]}


VARIANTS = {"mhs_vm_4h": MHSVMConfig(), "mhs_vm_3h": MHSVMConfig(scan_heads=3)}

REFERENCE_NAMES = [
    (r"^(?:vmunet\.)?patch_embed\.", "stem."),
    (r"^(?:vmunet\.)?layers\.(\d+)\.blocks\.", r"encoder_blocks.\1."),
    (r"^(?:vmunet\.)?layers\.(\d+)\.downsample\.", r"merging.\1."),
    (r"^(?:vmunet\.)?layers_up\.(\d+)\.blocks\.", r"decoder_blocks.\1."),
    (r"^(?:vmunet\.)?layers_up\.(\d+)\.upsample\.", zero_based("expand.{}.")),
    (r"^(?:vmunet\.)?final_up\.", "enlarge."),
    (r"^(?:vmunet\.)?final_conv\.", "classifier."),
    (r"\.ln_1\.", ".norm."),
    (r"\.self_attention\.in_proj\.", ".inner.proj_in."),
    (r"\.self_attention\.conv2d\.", ".inner.conv."),
    (r"\.self_attention\.out_norm\.", ".inner.norm."),
    (r"\.self_attention\.mhs\.", ".inner.scan."),
    (r"\.x_ssproj\.", ".proj_in."),
    (r"\.cat_norm\.", ".norm."),
    (r"\.y_proj\.", ".proj_out."),
]

# What checkpoints hold a second time.
REFERENCE_IGNORED = [r"\.x_ssproj_W$", r"\.seq2seq_engine\."]


def convert_reference(state: dict[str, Tensor], model: MHSVM) -> dict[str, Tensor]:
    """Stacks the parameter sets of all heads of a scan, in the order of their routes' shapes."""
    converted: dict[str, Tensor] = {}
    heads: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        match = re.fullmatch(r"(.+\.mhs)\.scanhead_([CXSZ])\.mambaeng\.(\w+)", name)
        if match is None:
            converted[name] = value
            continue
        scan, head, leaf = match.groups()
        sets = value.unflatten(0, (ROUTES, -1)) if leaf in ("A_logs", "Ds") else value
        heads.setdefault(f"{scan}.ssm.{SELECTIVE_SCAN_PARAMETERS[leaf]}", {})[head] = sets
    return converted | {
        name: torch.cat([sets[head] for head in "CXSZ" if head in sets]) for name, sets in heads.items()
    }
