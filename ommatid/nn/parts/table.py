"""Which parts there are: every name, and what it stands for.

A token mixer exported by `ommatid.nn.mixers` is here without a line: its name is that of its file, or of its class
where a file has several. `MADE` has those that numbers and words alone cannot make, or that have other names.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from torch import nn

from ommatid.nn import embed, feedforward, mixers, norm, position
from ommatid.nn.conv_glu import ConvGLU, GatedConvMLP
from ommatid.nn.mbconv import FusedMBConv, MBConv
from ommatid.nn.moe.layer import mixture_of_mlps
from ommatid.nn.parts import makers, rules
from ommatid.nn.parts.part import Part, Role, Rule
from ommatid.nn.reparam import ReparamConv
from ommatid.nn.rotated_mlp import RotatedMLP
from ommatid.nn.spatial_gate_mlp import SpatialGateMLP
from ommatid.nn.spatial_mlp import SpatialMLP

Make = Callable[..., nn.Module]

RULES: dict[Role, dict[str, Rule]] = {"mixer": rules.MIXERS, "channel_mixer": rules.CHANNEL_MIXERS}

MADE: dict[str, Make] = {
    "cascaded_group": makers.cascaded_group,
    "cosine_window": makers.cosine_window,
    "gated_token_mlp": makers.gated_token_mlp,
    "guided": makers.guided,
    "guiding": makers.guiding,
    "long_short": makers.long_short,
    "masked_attention": makers.masked_attention,
    "raft": makers.raft,
    "recursive_generalization": makers.recursive_generalization,
    "spatial_reduction": makers.spatial_reduction,
    "spectral_gate": makers.spectral_gate,
    "ss2d": makers.ss2d,
    "token_linear": makers.token_linear,
    "token_mlp": makers.token_mlp,
    "wavelet": makers.wavelet,
    "window": makers.window,
    "window_mlp": makers.window_mlp,
}
"""How the exported mixers of these names are made; their docstrings are still the mixers' own."""

OWN_RULES: dict[str, dict[str, Rule]] = {
    "aggregated": {"window_size": rules.constant(3)},
    "cascaded_group": {"window_size": rules.window(7)},
    "cross_shaped": {"heads": rules.even_heads},
    "factorization": {"heads": rules.constant(1)},
    "gated_token_mlp": {"window_size": rules.fixed_window, "hidden": rules.share(2.0, 2)},
    "guided": {"ratio": rules.constant(2)},
    "guiding": {"heads": rules.even_heads},
    "lowtention": {"head_dim": rules.constant(16)},
    "masked_attention": {"window_size": rules.fixed_window},
    "multi_axis_gated_mlp": {"grid": rules.MIXERS["window"]},
    "multi_axis_linear": {"grid": rules.MIXERS["window"]},
    "gridded": {"grid": rules.MIXERS["window"]},
    "raft": {"window_size": rules.fixed_window},
    "rectangle_window": {"heads": rules.even_heads, "window": rules.constant((4, 8))},
    "spatial_mlp": {"mixer": rules.constant("depthwise_conv"), "hidden": rules.CHANNEL_MIXERS["hidden"]},
    "spectral_gate": {"window_size": rules.fixed_window},
    "token_linear": {"window_size": rules.fixed_window},
    "token_mlp": {"window_size": rules.fixed_window, "hidden": lambda _, values: 2 * values["window_size"]},
}
"""Usual values of single mixers, where a parameter's name says too little."""

OTHER_MIXERS: dict[str, tuple[Make, Any]] = {
    "depthwise_conv": (makers.depthwise, None),
    "reparam_conv": (makers.reparam_conv, ReparamConv),
    "spatial_mlp": (SpatialMLP, None),
    "none": (makers.nothing, None),
}
"""Token mixers that live beside `nn/mixers`, and whose docstring describes them."""

CHANNEL_MIXERS: dict[str, tuple[Make, Any]] = {
    "mlp": (feedforward.MLP, None),
    "conv_mlp": (feedforward.ConvMLP, None),
    "batch_norm_mlp": (feedforward.BatchNormMLP, None),
    "swiglu": (feedforward.SwiGLU, None),
    "conv_glu": (ConvGLU, None),
    "gated_conv_mlp": (GatedConvMLP, None),
    "spatial_gate_mlp": (SpatialGateMLP, None),
    "rotated_mlp": (RotatedMLP, None),
    "moe": (mixture_of_mlps, None),
    "mbconv": (makers.mbconv, MBConv),
    "fused_mbconv": (makers.fused_mbconv, FusedMBConv),
    "none": (makers.nothing, None),
}

SURROUNDINGS: dict[Role, dict[str, tuple[Make, Any]]] = {
    "stem": {
        "overlap_conv": (makers.overlap_conv_stem, None),
        "patch": (makers.patch_stem, None),
        "conv": (makers.conv_stem_of_stride, None),
    },
    "downsample": {
        "patch_merging": (embed.PatchMerging, None),
        "post_norm_patch_merging": (embed.PostNormPatchMerging, None),
        "overlap_conv": (embed.overlapping_merging, None),
        "pre_norm_conv": (makers.pre_norm_merging, embed.PreNormMerging),
        "inverted": (embed.inverted_merging, None),
        "sandwiched": (embed.sandwiched_merging, None),
    },
    "norm": {
        "layer": (norm.LayerNorm, nn.LayerNorm),
        "batch": (norm.BatchNorm2d, None),
        "rms": (norm.RMSNorm, None),
        "instance": (norm.InstanceNorm2d, None),
        "instance_batch": (norm.InstanceBatchNorm, None),
        "none": (nn.Identity, None),
    },
    "position": {
        "conditional": (makers.conditional, position.ConvPosition),
        "absolute": (position.AbsolutePosition, None),
        "none": (nn.Identity, None),
    },
}


def built_in() -> list[Part]:
    """All parts that come with ommatid."""
    exported = [
        _part("mixer", name, MADE.get(name, getattr(mixers, written)), getattr(mixers, written))
        for name, written in mixer_names().items()
    ]
    others: dict[Role, dict[str, tuple[Make, Any]]] = {
        "mixer": OTHER_MIXERS,
        "channel_mixer": CHANNEL_MIXERS,
        **SURROUNDINGS,
    }
    return exported + [
        _part(role, name, make, source) for role, table in others.items() for name, (make, source) in table.items()
    ]


def _part(role: Role, name: str, make: Make, source: Any) -> Part:
    return Part(name, role, make, {**RULES.get(role, {}), **OWN_RULES.get(name, {})}, source)


def mixer_names() -> dict[str, str]:
    """Names of the exported mixers -> their classes' (or functions') names."""
    files = Counter(_file(name) for name in mixers.__all__)
    return {_file(name) if files[_file(name)] == 1 else _snake(name): name for name in mixers.__all__}


def _file(name: str) -> str:
    return getattr(mixers, name).__module__.rpartition(".")[2]


def _snake(name: str) -> str:
    """`GuidingAttention` -> `guiding`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().removesuffix("_attention")
