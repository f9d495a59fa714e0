"""Multi-scale self-guided attention, as published: four maps of a backbone in, logits out.

"Multi-scale self-guided attention for medical image segmentation" (arXiv 1906.02849).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from ommatid.models.backbone import channels_last
from ommatid.models.config import PartConfig, require_positive
from ommatid.models.decoders.guided_attention import Guided, GuidedAttention, check_dim, prelu_conv
from ommatid.models.model import Model
from ommatid.models.reference import zero_based
from ommatid.models.registry import register
from ommatid.nn.conv import Conv2d
from ommatid.ops.resize import resample

LEVELS = 4
STRIDE = 4
"""Of the finest map."""


@dataclass(frozen=True, kw_only=True)
class GuidedAttentionConfig(PartConfig):
    in_dims: tuple[int, int, int, int] = (256, 512, 1024, 2048)
    dim: int = 64
    num_classes: int = 5

    def check(self) -> None:
        require_positive(in_dims=self.in_dims, num_classes=self.num_classes)
        check_dim("dim", self.dim)


@register("multiscale_guided_attention", GuidedAttentionConfig)
class GuidedAttentionDecoder(Model):
    """l1 to l4, (B, C_i, H_i, W_i), H_1 and W_1 being multiples of 4 -> predictions (B, K, 4 H_1, 4 W_1).

    predict{l}_first and predict{l}_second are those of level l, 1 for the finest, before both stages and after; logits
    is the mean of the second ones. Some published parameters influence nothing; they are kept, frozen, so that weights
    and counts agree.
    """

    config: GuidedAttentionConfig

    def __init__(self, config: GuidedAttentionConfig) -> None:
        super().__init__(config)
        self.decoder = GuidedAttention(config.in_dims, config.dim, config.num_classes)
        self.unread = nn.ModuleList(unread_level(config.dim) for _ in range(LEVELS)).requires_grad_(False)

    def forward(self, l1: Tensor, l2: Tensor, l3: Tensor, l4: Tensor) -> dict[str, Tensor]:
        return named_predictions(self.decode(l1, l2, l3, l4))

    def decode(self, *maps: Tensor) -> Guided:
        return self.decoder([channels_last(level) for level in maps])


def unread_level(dim: int) -> nn.ModuleDict:
    def convs(*last: nn.Module) -> nn.Sequential:
        return nn.Sequential(prelu_conv(2 * dim, dim, 3), prelu_conv(dim, dim, 3), *last)

    attention = prelu_conv(dim, dim, 1)
    attention.act = nn.Identity()
    return nn.ModuleDict(
        {
            "conv6": Conv2d(dim, dim, 1),
            "conv7": Conv2d(dim, dim, 1),
            "attention": convs(attention),
            "refine": convs(prelu_conv(dim, dim, 1)),
        }
    )


def named_predictions(guided: Guided) -> dict[str, Tensor]:
    def enlarged(cells: Tensor) -> Tensor:
        size = (STRIDE * cells.shape[1], STRIDE * cells.shape[2])
        return resample(cells, size, mode="bilinear").permute(0, 3, 1, 2)

    outputs = {"logits": enlarged(guided.logits)}
    for level, (first, second) in enumerate(zip(guided.first, guided.second, strict=True), 1):
        outputs |= {f"predict{level}_first": enlarged(first), f"predict{level}_second": enlarged(second)}
    return outputs


def reference_outputs(model: GuidedAttentionDecoder, **maps: Tensor) -> dict[str, Tensor]:
    guided = model.decode(*(maps[f"l{level}"] for level in range(1, LEVELS + 1)))
    losses, outputs = guided.losses(), named_predictions(guided)
    for stage, output in enumerate(guided.stages, 1):
        for level, meaning in enumerate(output.meaning, 1):
            outputs[f"semvec_{stage}_level{level}"] = meaning.permute(0, 3, 1, 2).flatten()
    return outputs | {
        "loss_semantic": losses["semantic"].flip(0),
        "loss_reconstruction": losses["reconstruction"],
        "fused_level1_every4": guided.common.permute(0, 3, 1, 2)[:, ::4],
        "guided_level1_every8": (guided.stages[0].refined[0] * guided.common).permute(0, 3, 1, 2)[:, ::8],
    }


VARIANTS = {"guided_attention_decoder": GuidedAttentionConfig()}


_KINDS = ("conv", "norm", "act")


def _in_rows(prefix: str) -> Callable[[re.Match[str]], str]:
    """A replacement for a place in a row of convolutions, norms and activations, the last that the pattern catches."""

    def name(match: re.Match[str]) -> str:
        *outer, place = (int(number) for number in match.groups())
        return f"{prefix.format(*(number - 1 for number in outer))}{place // 3}.{_KINDS[place % 3]}."

    return name


def _attention_name(match: re.Match[str]) -> str:
    """The attention itself is the fourth in the row."""
    half = {"pam": "position", "cam": "channel"}[match[1]]
    prefix = f"decoder.stages.{int(match[2]) - 1}.levels.{int(match[3]) - 1}.{half}."
    place = int(match[4])
    return f"{prefix}1.inner." if place == 3 else f"{prefix}{2 * (place // 4)}.{_KINDS[place % 4]}."


def _semantic_name(match: re.Match[str]) -> str:
    """Two convolutions with norms and activations, and a transposed one behind them; two such parts are in a row."""
    stage, half, number, place = int(match[1]) - 1, match[2], int(match[3]), int(match[4])
    first = 3 * (number - 1) if half == "enc" else 3 * (2 - number)
    leaf = "" if place == 6 else f"{_KINDS[place % 3]}."
    return f"decoder.stages.{stage}.semantic.{half}ode.{first + place // 3}.{leaf}"


def _level(stage: str, place: str) -> str:
    """Of these parts, levels are counted from the coarsest."""
    return f"decoder.stages.{int(stage) - 1}.levels.{LEVELS - int(place)}."


REFERENCE_NAMES = [
    (r"^down(\d)\.(\d)\.", lambda match: f"decoder.down.{int(match[1]) - 1}.{_KINDS[int(match[2])]}."),
    (r"^fuse1\.fuse_attn\.(\d)\.", _in_rows("decoder.fuse.")),
    (r"^([pc]am)_attention_(\d)_(\d)\.attn\.(\d)\.", _attention_name),
    (r"\.inner\.(query|key|value)_conv\.", r".inner.\1."),
    (r"^semanticModule_(\d)_1\.(enc|dec)(\d)\.(?:en|de)code\.(\d)\.", _semantic_name),
    (r"^conv_sem_(\d)_(\d)\.", lambda match: f"{_level(match[1], match[2])}semantic."),
    (r"^conv8_1(\d)\.", lambda match: f"{_level('2', match[1])}proj."),
    (r"^conv8_(\d)\.", lambda match: f"{_level('1', match[1])}proj."),
    (r"^predict(\d)_2\.", zero_based("decoder.second.{}.")),
    (r"^predict(\d)\.", zero_based("decoder.first.{}.")),
    (r"^(conv[67])_(\d)\.(?:1\.)?", lambda match: f"unread.{int(match[2]) - 1}.{match[1]}."),
    (r"^attention(\d)\.fuse_attn\.(\d)\.", _in_rows("unread.{}.attention.")),
    (r"^refine(\d)\.fuse_attn\.(\d)\.", _in_rows("unread.{}.refine.")),
]
