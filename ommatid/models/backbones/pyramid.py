"""Pyramid: the free composition. Every stage takes any token mixer and any channel mixer, by name.

Not a published architecture but the place where published parts meet: `ommatid parts` lists them, docs/pyramid.md says
how compositions are written, and `ommatid explore` searches for good ones. With one stage it is a plain model.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier, doubling_strides
from ommatid.models.composition import Choice, by_stage, check_part, composed, try_part, written
from ommatid.models.config import Config, require, require_positive, require_stages
from ommatid.models.registry import register
from ommatid.models.sizes import halved, pair
from ommatid.nn.block import Stage, pyramid
from ommatid.nn.init import init_linear_
from ommatid.nn.parts import Place, Role, find_part
from ommatid.nn.parts.registry import named
from ommatid.nn.residual import Residual, stochastic_depth

MIXED: tuple[Role, Role] = ("mixer", "channel_mixer")


@dataclass(frozen=True, kw_only=True)
class PyramidConfig(Config):
    """A composition. `image_size` is what usual values of options follow from; images of any other size work too.

    `mixer` and `channel_mixer` are the name of a part, (name, options), or a list with an entry for each stage, where
    an entry that is itself a list takes turns from block to block. `patch_size` is the stride of the stem, `mlp_ratios`
    the hidden width of channel mixers over theirs, `head_dim` the wanted width of attention heads.
    """

    image_size: int | tuple[int, int] = 224
    patch_size: int = 4
    dims: tuple[int, ...] = (48, 96, 192, 384)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    stem: str = "overlap_conv"
    downsample: str = "overlap_conv"
    mixer: Any = "large_kernel"
    channel_mixer: Any = "conv_glu"
    mlp_ratios: float | tuple[float, ...] = 4.0
    head_dim: int = 32
    norm: str = "layer"
    position: str = "none"
    layer_scale: float | None = None

    def __post_init__(self) -> None:
        for field in ("mixer", "channel_mixer"):
            object.__setattr__(self, field, written(field, getattr(self, field)))
        super().__post_init__()

    def check(self) -> None:
        require_stages(dims=self.dims, depths=self.depths)
        require_positive(dims=self.dims, depths=self.depths, patch_size=self.patch_size, head_dim=self.head_dim)
        require_positive(mlp_ratios=self.mlp_ratios, image_size=self.image_size)
        if isinstance(self.mlp_ratios, tuple):
            require_stages(dims=self.dims, mlp_ratios=self.mlp_ratios)
        for role in ("stem", "downsample", "norm", "position"):
            find_part(role, getattr(self, role))
        power = self.patch_size > 1 and self.patch_size & (self.patch_size - 1) == 0
        require(self.stem != "conv" or power, "patch_size", self.patch_size, "2, 4, 8, ... with the stem 'conv'")
        self.each_part(check_part)
        for both in (both for stage in range(len(self.dims)) for both in self.blocks(stage)):
            empty = all(named(choice)[0] == "none" for choice in both)
            require(not empty, "channel_mixer", "none", "another part where the mixer is 'none' too")

    def each_part(self, visit: Callable[[Role, Choice, Place, str], None]) -> None:
        """Calls `visit` with the role, the choice, the place, and the place in words, of all parts of all stages."""
        for role in MIXED:
            choices = by_stage(role, getattr(self, role), len(self.dims))
            for stage, place in enumerate(self.places()):
                where = f"in stage {stage + 1}, {place.dim} wide on a map of {place.size[0]} x {place.size[1]}"
                for choice in choices[stage]:
                    visit(role, choice, place, where)

    def places(self) -> list[Place]:
        """Where the blocks of each stage work."""
        height, width = pair(self.image_size)
        first = (-(-height // self.patch_size), -(-width // self.patch_size))
        ratios = self.mlp_ratios if isinstance(self.mlp_ratios, tuple) else (self.mlp_ratios,) * len(self.dims)
        return [
            Place(dim, halved(first, stage), ratio, self.head_dim)
            for stage, (dim, ratio) in enumerate(zip(self.dims, ratios, strict=True))
        ]

    def blocks(self, stage: int) -> Iterator[tuple[Choice, Choice]]:
        """The token mixer and the channel mixer of each block of a stage."""
        mixers, channel_mixers = (by_stage(role, getattr(self, role), len(self.dims))[stage] for role in MIXED)
        for block in range(self.depths[stage]):
            yield mixers[block % len(mixers)], channel_mixers[block % len(channel_mixers)]


@register("pyramid", PyramidConfig)
class Pyramid(Backbone):
    no_decay = (".table",)

    def __init__(self, config: PyramidConfig) -> None:
        config.each_part(try_part)  # before anything is built
        super().__init__(config)
        self.channels = config.dims
        self.strides = doubling_strides(config.patch_size, len(config.dims))
        rates = stochastic_depth(config.drop_path_rate, config.depths)
        self.stem = stem_of(config)
        self.stages = nn.ModuleList(
            Stage(
                led_to(config, stage),
                [
                    composed_block(mixer, channel_mixer, place, config, rate)
                    for (mixer, channel_mixer), rate in zip(config.blocks(stage), rates[stage], strict=True)
                ],
            )
            for stage, place in enumerate(config.places())
        )
        self.norm = find_part("norm", config.norm).make(config.dims[-1])
        self.head = classifier(config.dims[-1], config.num_classes)
        self.apply(init_linear_)

    def maps(self, image: Tensor) -> list[Tensor]:
        return pyramid(self.stages, self.stem(channels_last(image)))

    def embed(self, image: Tensor) -> Tensor:
        return self.norm(self.maps(image)[-1]).mean((1, 2))


def stem_of(config: PyramidConfig) -> nn.Module:
    return find_part("stem", config.stem).make(config.in_channels, config.dims[0], config.patch_size)


def led_to(config: PyramidConfig, stage: int) -> nn.Sequential:
    """What leads from the stage above, or from the stem, to the blocks of a stage."""
    place, make_position = config.places()[stage], find_part("position", config.position).make
    shrink = find_part("downsample", config.downsample).make(config.dims[stage - 1], place.dim) if stage else None
    return nn.Sequential(shrink or nn.Identity(), make_position(place.size, place.dim))


def composed_block(
    mixer: Choice, channel_mixer: Choice, place: Place, config: PyramidConfig, drop_path: float
) -> nn.Sequential:
    """A residual branch around each of the two mixers, where it is not "none": (B, H, W, C) -> (B, H, W, C)."""
    norm = find_part("norm", config.norm).make
    built = {"token": composed("mixer", mixer, place), "channel": composed("channel_mixer", channel_mixer, place)}
    return nn.Sequential(
        OrderedDict(
            (name, Residual(place.dim, part, norm=norm, layer_scale=config.layer_scale, drop_path=drop_path))
            for name, part in built.items()
            if not isinstance(part, nn.Identity)
        )
    )


def _small_image_variant(dims: tuple[int, ...], depths: tuple[int, ...], mlp_ratio: float) -> PyramidConfig:
    """For images of some 32 to 96 pixels: patches are small, and local mixers do the work."""
    return PyramidConfig(
        image_size=32,
        patch_size=2,
        dims=dims,
        depths=depths,
        stem="conv",
        downsample="pre_norm_conv",
        mixer=("depthwise_conv", "large_small", "efficient_modulation"),
        channel_mixer="mlp",
        mlp_ratios=mlp_ratio,
        position="conditional",
    )


# Found by `ommatid explore` and measured in docs/pyramid-variants.md.
VARIANTS = {
    "pyramid_n": _small_image_variant((32, 64, 96), (1, 1, 1), 1.0),
    "pyramid_t": _small_image_variant((64, 96, 144), (2, 1, 2), 1.0),
    "pyramid_s": _small_image_variant((96, 160, 256), (2, 2, 2), 2.0),
}
