"""The families that timm has too: which of its models have the architecture of ours, and how it names parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ommatid.models.reference import changed, one_later

State = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class TimmFamily:
    """One family in timm.

    Attributes:
        models: our variant -> timm's model of the same architecture.
        names: (regex, replacement), applied in order, from timm's parameter names to those of the reference
            implementation.
        convert: what renaming can't say, changes of shape; applied to timm's state first.
    """

    models: dict[str, str]
    names: list[tuple[str, Any]] = field(default_factory=list)
    convert: Callable[[State], State] = lambda state: state


def called_alike(*names: str) -> dict[str, str]:
    return {name: name for name in names}


SWIN_NAMES = [
    (r"^layers\.(\d+)\.downsample\.", lambda match: f"layers.{int(match[1]) - 1}.downsample."),
    (r"^head\.fc\.", "head."),
]

# Stages in one row of modules, of which later stages begin with their merging: three modules.
SANDWICHED_STAGES = [
    (r"^stages\.0\.blocks\.", "blocks1."),
    (r"^stages\.(\d+)\.blocks\.(\d+)\.", lambda match: f"blocks{int(match[1]) + 1}.{int(match[2]) + 3}."),
    (r"^head\.linear\.", "head.l."),
]

TIMM_FAMILIES = {
    "vit": TimmFamily(
        models={
            **{f"vit_{size}": f"vit_{size}_patch16_224" for size in ("tiny", "small", "base", "large")},
            "vit_base_patch32": "vit_base_patch32_224",
            **{f"deit_{size}": f"deit_{size}_patch16_224" for size in ("tiny", "small", "base")},
        }
    ),
    "convit": TimmFamily(models=called_alike("convit_tiny", "convit_small", "convit_base")),
    "tnt": TimmFamily(
        models={"tnt_small": "tnt_s_patch16_224", "tnt_base": "tnt_b_patch16_224"},
        names=[
            (r"^patch_pos$", "outer_pos"),
            (r"^pixel_pos$", "inner_pos"),
            (r"^pixel_embed\.", "patch_embed."),
            (r"(^|\.)norm([12])_proj\.", r"\1proj_norm\2."),
            (r"\.norm_in\.", ".inner_norm1."),
            (r"\.norm_mlp_in\.", ".inner_norm2."),
            (r"\.norm_out\.", ".outer_norm1."),
            (r"\.norm_mlp\.", ".outer_norm2."),
            (r"\.attn_in\.", ".inner_attn."),
            (r"\.attn_out\.", ".outer_attn."),
            (r"\.mlp_in\.", ".inner_mlp."),
            (r"\.mlp\.", ".outer_mlp."),
        ],
        convert=lambda state: changed(state, "^pixel_pos$", lambda table: table.flatten(2).mT),
    ),
    "crossvit": TimmFamily(
        models={
            **{f"crossvit_{size}": f"crossvit_{size}_240" for size in ("tiny", "small", "base", "9", "15", "18")},
            **{f"crossvit_{size}_dagger": f"crossvit_{size}_dagger_240" for size in ("9", "15", "18")},
            **{f"crossvit_{size}_dagger_384": f"crossvit_{size}_dagger_408" for size in ("15", "18")},
        },
        names=[(r"^(cls_token|pos_embed)_(\d)$", r"\1.\2")],
    ),
    "swin": TimmFamily(
        models={
            **{f"swin_{size}": f"swin_{size}_patch4_window7_224" for size in ("tiny", "small", "base", "large")},
            **{f"swin_{size}_window12_384": f"swin_{size}_patch4_window12_384" for size in ("base", "large")},
        },
        names=SWIN_NAMES,
    ),
    "swin_v2": TimmFamily(
        models={
            **{
                f"swin_v2_{size}_window{window}": f"swinv2_{size}_window{window}_256"
                for size in ("tiny", "small", "base")
                for window in (8, 16)
            },
            **{f"swin_v2_{size}_window12_192": f"swinv2_{size}_window12_192" for size in ("base", "large")},
            **{f"swin_v2_{size}_window12to16": f"swinv2_{size}_window12to16_192to256" for size in ("base", "large")},
            **{
                f"swin_v2_{size}_window12to24_384": f"swinv2_{size}_window12to24_192to384" for size in ("base", "large")
            },
        },
        names=SWIN_NAMES,
    ),
    "maxvit": TimmFamily(
        models={
            f"maxvit_{size}_{image}": f"maxvit_{size}_tf_{image}"
            for size in ("tiny", "small", "base", "large", "xlarge")
            for image in (224, 384, 512)
        },
    ),
    "davit": TimmFamily(
        models=called_alike("davit_tiny", "davit_small", "davit_base"),
        names=[
            (r"^stem\.conv\.", "patch_embeds.0.proj."),
            (r"^stem\.norm\.", "patch_embeds.0.norm."),
            (r"^stages\.(\d+)\.downsample\.conv\.", r"patch_embeds.\1.proj."),
            (r"^stages\.(\d+)\.downsample\.norm\.", r"patch_embeds.\1.norm."),
            (r"^stages\.(\d+)\.blocks\.", r"main_blocks.\1."),
            (r"\.cpe1\.", ".cpe.0."),
            (r"\.cpe2\.", ".cpe.1."),
            (r"^head\.norm\.", "norms."),
            (r"^head\.fc\.", "head."),
        ],
    ),
    "pvt_v2": TimmFamily(
        models=called_alike(*(f"pvt_v2_{size}" for size in ("b0", "b1", "b2", "b2_li", "b3", "b4", "b5"))),
        names=[
            (r"^patch_embed\.", "patch_embed1."),
            (r"^stages\.(\d+)\.downsample\.", one_later("patch_embed{}.")),
            (r"^stages\.(\d+)\.blocks\.", one_later("block{}.")),
            (r"^stages\.(\d+)\.norm\.", one_later("norm{}.")),
            (r"\.dwconv\.", ".dwconv.dwconv."),
        ],
    ),
    "convnext": TimmFamily(
        models=called_alike(*(f"convnext_{size}" for size in ("tiny", "small", "base", "large", "xlarge"))),
        names=[
            (r"^stem\.", "downsample_layers.0."),
            (r"^stages\.(\d+)\.downsample\.", r"downsample_layers.\1."),
            (r"^stages\.(\d+)\.blocks\.", r"stages.\1."),
            (r"\.conv_dw\.", ".dwconv."),
            (r"\.mlp\.fc", ".pwconv"),
            (r"^head\.norm\.", "norm."),
            (r"^head\.fc\.", "head."),
        ],
    ),
    "efficientvit": TimmFamily(
        models=called_alike(*(f"efficientvit_m{size}" for size in range(6))),
        names=[
            (r"^patch_embed\.conv(\d)\.", lambda match: f"patch_embed.{2 * int(match[1]) - 2}."),
            (r"^stages\.(\d+)\.downsample\.res1\.", one_later("blocks{}.0.")),
            (r"^stages\.(\d+)\.downsample\.patchmerge\.", one_later("blocks{}.1.")),
            (r"^stages\.(\d+)\.downsample\.res2\.", one_later("blocks{}.2.")),
            (r"\.conv\.weight$", ".c.weight"),
            *SANDWICHED_STAGES,
        ],
    ),
    "shvit": TimmFamily(
        models=called_alike(*(f"shvit_s{size}" for size in range(1, 5))),
        names=[
            (r"^stages\.(\d+)\.downsample\.([01])\.", one_later("blocks{}.0.{}.")),
            (r"^stages\.(\d+)\.downsample\.2\.", one_later("blocks{}.1.")),
            (r"^stages\.(\d+)\.downsample\.3\.", one_later("blocks{}.2.0.")),
            (r"^stages\.(\d+)\.downsample\.4\.", one_later("blocks{}.2.1.")),
            *SANDWICHED_STAGES,
        ],
    ),
    # The reference of these is timm itself.
    "inception_v4": TimmFamily(models=called_alike("inception_v4")),
    "inception_resnet": TimmFamily(models=called_alike("inception_resnet_v2")),
    "nasnet": TimmFamily(models=called_alike("nasnetalarge")),
    "halonet": TimmFamily(
        models=called_alike("halonet_h1", "halonet26t", "sehalonet33ts", "halonet50ts", "eca_halonext26ts")
    ),
}
"""The id of our family -> what timm has of it."""

TIMM_MODELS = {ours: theirs for family in TIMM_FAMILIES.values() for ours, theirs in family.models.items()}
"""Our variant -> timm's model of the same architecture."""

SUITE = (
    *("vit_tiny", "vit_small", "convit_tiny", "tnt_small", "crossvit_tiny"),
    *("swin_tiny", "swin_v2_tiny_window8", "maxvit_tiny_224", "davit_tiny", "halonet26t"),
    *("pvt_v2_b0", "pvt_v2_b1", "pvt_v2_b2", "efficientvit_m0", "shvit_s1"),
    *("convnext_tiny", "inception_v4", "inception_resnet_v2", "nasnetalarge"),
)
"""One variant of each shared family, or a few, by which the family is compared."""
