"""ParaTransCNN: a ResNet and a transformer see the same image side by side, and one decoder reads both.

"ParaTransCNN: Parallelized TransCNN Encoder for Medical Image Segmentation" (arXiv 2401.15307).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.models.backbone import channels_last
from ommatid.models.config import PartConfig, require, require_divisible, require_positive
from ommatid.models.dense import Segmenter
from ommatid.models.names import RESNET_BLOCK_NAMES
from ommatid.models.reference import zero_based
from ommatid.models.registry import register
from ommatid.nn.block import Block, pyramid, pyramid_stages
from ommatid.nn.conv import Conv2d, ConvNorm, ConvTranspose2d
from ommatid.nn.embed import PatchEmbed
from ommatid.nn.feedforward import MLP
from ommatid.nn.mixers import Attention
from ommatid.nn.resnet import resnet_stage
from ommatid.nn.squeeze_excite import SqueezeExcite

RESNET_DIMS, RESNET_DEPTHS = (64, 128, 256, 512), (3, 4, 6, 3)
STAGES = 3
PATCH = 2
COARSEST = 16
"""Stride of the coarsest maps."""
SQUEEZE = 16
"""Channels by hidden channels of the gates."""
DROPOUT = 0.1


@dataclass(frozen=True, kw_only=True)
class ParaTransCNNConfig(PartConfig):
    """The transformer's stages are `dim`, 2 dim and 4 dim wide, and have as many `heads` each."""

    dim: int = 320
    depths: tuple[int, int, int] = (3, 3, 3)
    heads: int = 8
    patch_size: int = PATCH
    num_classes: int = 9

    def check(self) -> None:
        require_positive(dim=self.dim, depths=self.depths, num_classes=self.num_classes)
        require_divisible(self.dim, self.heads)
        fits = self.patch_size == PATCH
        require(fits, "patch_size", self.patch_size, f"{PATCH}, which the strides of the ResNet go with")

    @property
    def dims(self) -> tuple[int, ...]:
        return tuple(self.dim * 2**stage for stage in range(STAGES))


class Seen(NamedTuple):
    """Maps (B, H / s, W / s, C): the transformer's for strides s of 4, 8 and 16, the ResNet's for 2, 4, 8 and 16."""

    transformer: list[Tensor]
    resnet: list[Tensor]


@register("paratranscnn", ParaTransCNNConfig)
class ParaTransCNN(Segmenter):
    """Images (B, 3 or 1, H, W) -> logits (B, K, H, W). Sides that are no multiples of 16 are zero-padded at their ends.

    The steps of the decoder come coarse to fine.
    """

    config: ParaTransCNNConfig

    def __init__(self, config: ParaTransCNNConfig) -> None:
        super().__init__(config)
        self.num_classes = config.num_classes
        dims, depths = config.dims, config.depths
        self.stem = ConvNorm(3, RESNET_DIMS[0], 7, stride=2, act=nn.ReLU())
        in_dims = (RESNET_DIMS[0], *RESNET_DIMS)
        self.resnet = nn.ModuleList(
            resnet_stage(in_dims[stage], dim, [0.0] * depth, stride=2 if stage else 1)
            for stage, (dim, depth) in enumerate(zip(RESNET_DIMS, RESNET_DEPTHS, strict=True))
        )
        self.transformer = pyramid_stages(
            dims,
            [[0.0] * depth for depth in depths],
            lambda in_dim, dim: PatchEmbed(in_dim, dim, PATCH),
            lambda stage, _, rate: transformer_block(dims[stage], config.heads),
            stem=PatchEmbed(3, config.dim, 2 * PATCH),
        )
        joint = [dim + width for dim, width in zip(dims, RESNET_DIMS[1:], strict=True)]
        # What comes up from below is as wide as what it is put beside.
        widths = [joint[2], 2 * joint[1], joint[0] + joint[1]]
        out_dims = [joint[1], joint[1], config.dim]
        self.gates = nn.ModuleList(SqueezeExcite(dim, dim // SQUEEZE, bias=False) for dim in reversed(joint))
        self.steps = nn.ModuleList(
            nn.Sequential(*(ConvNorm(width, width, 3, bias=True, act=nn.ReLU()) for _ in range(2))) for width in widths
        )
        self.enlarge = nn.ModuleList(
            ConvTranspose2d(width, out_dim, factor, stride=factor)
            for width, out_dim, factor in zip(widths, out_dims, (2, 2, 4), strict=True)
        )
        self.classifier = Conv2d(config.dim, config.num_classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        logits = self.classifier(self.decode(self.encode(image))[-1])
        return logits[:, :height, :width].permute(0, 3, 1, 2)

    def encode(self, image: Tensor) -> Seen:
        height, width = image.shape[-2:]
        colour = image.expand(-1, 3, -1, -1) if image.shape[1] == 1 else image
        x = channels_last(F.pad(colour, (0, -width % COARSEST, 0, -height % COARSEST)))
        return Seen(pyramid(self.transformer, x), pyramid(self.resnet, self.stem(x)))

    def decode(self, seen: Seen) -> list[Tensor]:
        """What each step gives to the next, the last at the resolution of the image."""
        outs: list[Tensor] = []
        for index, (step, enlarge) in enumerate(zip(self.steps, self.enlarge, strict=True)):
            outs.append(enlarge(step(torch.cat([self.gated(seen, index), *outs[-1:]], dim=-1))))
        return outs

    def gated(self, seen: Seen, index: int) -> Tensor:
        """The maps of both encoders, side by side, that step `index` reads."""
        both = torch.cat([seen.transformer[-1 - index], seen.resnet[-1 - index]], dim=-1)
        return self.gates[index](both)


def transformer_block(dim: int, heads: int) -> Block:
    # Two dropouts, one after another, follow the attention: as one, they keep 0.9^2 of what comes.
    mixer = nn.Sequential(Attention(dim, heads, qkv_bias=False), nn.Dropout(1 - (1 - DROPOUT) ** 2))
    act = nn.Sequential(nn.GELU(), nn.Dropout(DROPOUT))
    return Block(dim, mixer, nn.Sequential(MLP(dim, 2 * dim, act=act), nn.Dropout(DROPOUT)))


def reference_outputs(model: ParaTransCNN, image: Tensor) -> dict[str, Tensor]:
    seen = model.encode(image)
    steps = [step.permute(0, 3, 1, 2) for step in model.decode(seen)]
    return {
        "tokens3": seen.transformer[-1].flatten(1, 2),
        "se1_every4": model.gated(seen, 0).permute(0, 3, 1, 2)[:, ::4],
        "up1_every8": steps[0][:, ::8],
        "up2_every8": steps[1][:, ::8],
        "logits": model(image),
    }


VARIANTS = {"paratranscnn_synapse": ParaTransCNNConfig()}

REFERENCE_NAMES = [
    (r"^firstconv\.", "stem.conv."),
    (r"^firstbn\.", "stem.norm."),
    (r"^encoder(\d)\.", zero_based("resnet.{}.")),
    (r"^patch_embed_(\d)\.", zero_based("transformer.{}.downsample.proj.")),
    (r"^vit_(\d)\.net\.(\d+)\.", lambda match: _branch(int(match[1]) - 1, int(match[2]))),
    (r"\.token\.fn\.norm\.", ".token.norm."),
    (r"\.token\.fn\.fn\.", ".token.inner.0."),
    (r"\.channel\.fn\.norm\.", ".channel.norm."),
    (r"\.channel\.fn\.fn\.net\.0\.", ".channel.inner.0.fc1."),
    (r"\.channel\.fn\.fn\.net\.3\.", ".channel.inner.0.fc2."),
    (r"^SE_(\d)\.fc\.0\.", zero_based("gates.{}.fc1.")),
    (r"^SE_(\d)\.fc\.2\.", zero_based("gates.{}.fc2.")),
    (r"^decoder(\d)\.", zero_based("steps.{}.")),
    (r"^(steps\.\d)\.(conv|norm)1\.", r"\1.0.\2."),
    (r"^(steps\.\d)\.(conv|norm)3\.", r"\1.1.\2."),
    (r"^up(\d)_1\.", lambda match: f"enlarge.{3 - int(match[1])}."),
    (r"^out\.", "classifier."),
    *RESNET_BLOCK_NAMES,
]


def _branch(stage: int, place: int) -> str:
    """The reference has the branches of all blocks of a stage in one row."""
    return f"transformer.{stage}.blocks.{place // 2}.{('token', 'channel')[place % 2]}."
