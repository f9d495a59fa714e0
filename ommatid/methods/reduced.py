"""A trained model that does less for its answer, saved and used like any other."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ommatid.models.backbone import Backbone
from ommatid.models.config import Config, require, suggest
from ommatid.models.registry import Family, families, family_of, is_classifier, register
from ommatid.nn.block import Block, Trunk
from ommatid.nn.mixers import Attention
from ommatid.nn.sparse import hold_zeros_
from ommatid.nn.sparse_attention import ConnectivityPredictor, SparseAttention
from ommatid.nn.trunks.clustered import ClusteredTrunk
from ommatid.nn.trunks.exiting import ExitingTrunk
from ommatid.nn.trunks.interpreted import InterpretedTrunk
from ommatid.nn.trunks.merging import MergingTrunk, merging_schedule

PLAIN = "a plain transformer with attention as it comes: vit, deit_*, channelvit"


def trunk_of(model: nn.Module) -> Trunk:
    """The trunk that a method may replace.

    Raises:
        ValueError: the model has none, or it has been replaced already.
    """
    blocks = getattr(model, "blocks", None)
    plain = type(blocks) is Trunk and all(
        isinstance(block, Block)
        and isinstance(block.token.inner, Attention)
        and block.token.inner.bias is block.token.inner.local is block.token.inner.value_local is None
        for block in blocks
    )
    require(plain, "model", type(model).__name__, PLAIN)
    assert isinstance(blocks, Trunk)
    return blocks


def width_of(trunk: Trunk) -> int:
    """Of its tokens; less than the config says where units were removed."""
    block = trunk[0]
    assert isinstance(block, Block)
    attention = block.token.inner
    assert isinstance(attention, Attention)
    return attention.qkv.in_features


def common_width(model: nn.Module) -> int:
    """What divides the width of a model's tokens as well as that in its config, with which a loaded one is built."""
    width, config = width_of(trunk_of(model)), getattr(model, "config", None)
    return math.gcd(width, getattr(config, "dim", width))


def _merging(model: Backbone, *, r: int | list[int], inflection: float = 0.0, prop_attn: bool = True) -> nn.Module:
    trunk = trunk_of(model)
    schedule = merging_schedule(len(trunk), r, inflection)
    return MergingTrunk(trunk, schedule, special=trunk.special, prop_attn=prop_attn)


def _clustered(model: Backbone, *, location: int, keep: float, **numbers: Any) -> nn.Module:
    trunk = trunk_of(model)
    require(0 < keep <= 1, "keep", keep, "above 0, up to 1")
    exists = 0 <= location < len(trunk)
    require(exists, "location", location, f"a block from 0 to {len(trunk) - 1}")
    return ClusteredTrunk(trunk, location=location, keep=keep, **numbers)


def _interpreted(model: Backbone, *, groups: list[int], heads: int, trained_groups: int | None = None) -> nn.Module:
    trunk = trunk_of(model)
    require(trunk.special == 1, "model", type(model).__name__, "one with a class token, which asks the others")
    whole = sum(groups) == len(trunk) and min(groups) > 0
    require(whole, "groups", groups, f"block counts that add up to {len(trunk)}")
    width, common = width_of(trunk), common_width(model)
    require(common % heads == 0, "heads", heads, f"a divisor of the width ({common})")
    asked = len(groups) if trained_groups is None else trained_groups
    return InterpretedTrunk(trunk, groups, width, heads, trained_groups=asked)


def _sparse(model: Backbone, *, tokens: int, mode: str = "sparse", **numbers: Any) -> nn.Module:
    trunk = trunk_of(model)
    require(trunk.special == 1, "model", type(model).__name__, "one with a class token, which sees everything")
    for block in trunk:
        assert isinstance(block, Block)
        dense = block.token.inner
        assert isinstance(dense, Attention)
        predictor = ConnectivityPredictor(dense.proj.in_features // dense.heads, tokens, **numbers)
        sparse = SparseAttention(
            dense.qkv.in_features, dense.heads, predictor, mode="sparse" if mode == "sparse" else "reconstruct"
        )
        sparse.qkv, sparse.proj = dense.qkv, dense.proj
        block.token.inner = sparse
    return trunk


def _exiting(model: Backbone, *, threshold: float, earliest: int = 1) -> nn.Module:
    return ExitingTrunk(trunk_of(model), threshold=threshold, earliest=earliest)


METHODS: dict[str, Callable[..., nn.Module]] = {
    "tome": _merging,
    "expedite": _clustered,
    "ia_red2": _interpreted,
    "sparsifiner": _sparse,
    "early_exit": _exiting,
}
"""Each makes, of a model and settings, what takes the place of its trunk."""


@dataclass(frozen=True, kw_only=True)
class ReducedConfig(Config):
    """`family` and `base` are those of the model that was reduced, `settings` the method's own numbers."""

    family: str = "vit"
    base: dict[str, Any] = field(default_factory=dict)
    method: str = "tome"
    settings: dict[str, Any] = field(default_factory=lambda: {"r": 0})

    def check(self) -> None:
        allowed = ", ".join(METHODS) + suggest(self.method, METHODS)
        require(self.method in METHODS, "method", self.method, allowed)
        base = self.base_family().config.from_dict({**self.base, **self._shared()})
        object.__setattr__(self, "base", base.to_dict())

    def base_family(self) -> Family:
        known = families()
        fits = self.family in known and self.family != "reduced"
        require(fits, "family", self.family, "a family of classifiers" + suggest(self.family, known))
        return known[self.family]

    def base_config(self) -> Config:
        config = self.base_family().config.from_dict(self.base)
        assert isinstance(config, Config)
        return config

    @property
    def image_size(self) -> int | tuple[int, int]:
        """Of the model that was reduced."""
        return getattr(self.base_config(), "image_size", 224)

    def _shared(self) -> dict[str, Any]:
        names = ("in_channels", "num_classes", "drop_path_rate")
        return {name: getattr(self, name) for name in names}


@register("reduced", ReducedConfig)
class Reduced(Backbone):
    """A plain transformer with another trunk; everything else is that of the model it was. `model` is that model."""

    config: ReducedConfig

    def __init__(self, config: ReducedConfig, model: Backbone | None = None) -> None:
        super().__init__(config)
        built = model or config.base_family().build(config.base_config())
        assert isinstance(built, Backbone)
        self.channels, self.strides = built.channels, built.strides
        self.no_decay, self.image_sizes = built.no_decay, built.image_sizes
        self.model = built
        self.model.blocks = METHODS[config.method](built, **config.settings)
        self.batch_dependent = config.method == "early_exit"

    @property
    def head(self) -> nn.Module:  # type: ignore[override]
        return self.model.head

    @property
    def body(self) -> list[nn.Module]:
        trunk = self.model.blocks
        if isinstance(trunk, InterpretedTrunk):
            return list(trunk.blocks)
        assert isinstance(trunk, Trunk)
        return list(trunk)

    def forward(self, image: Tensor) -> Tensor:
        return self.model(image)

    def embed(self, image: Tensor) -> Tensor:
        return self.model.embed(image)

    def maps(self, image: Tensor) -> list[Tensor]:
        return self.model.maps(image)

    def tokens(self, image: Tensor) -> Tensor:
        return self.model.tokens(image)

    def with_auxiliary_loss(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.with_auxiliary_loss(image)


def reduced(model: nn.Module, method: str, settings: dict[str, Any]) -> Reduced:
    """A copy of the model in which the method took its place, with the model's weights and mode.

    Raises:
        ValueError: the method does not apply to the model, or a setting is impossible.
    """
    family = family_of(model)
    require(isinstance(model, Backbone) and is_classifier(family, model.config), "model", type(model).__name__, PLAIN)
    assert isinstance(model, Backbone)
    trunk_of(model)
    own = model.config
    config = ReducedConfig(
        family=family.id,
        base=own.to_dict(),
        method=method,
        settings=settings,
        in_channels=own.in_channels,
        num_classes=own.num_classes,
        drop_path_rate=own.drop_path_rate,
    )
    copied = copy.deepcopy(model)
    modules, parameters = dict(copied.named_modules()), dict(copied.named_parameters())
    made = Reduced(config, copied).train(model.training)
    _take_over_(made, model, modules, parameters)
    return made


def _take_over_(
    made: Reduced, model: nn.Module, modules: Mapping[str, nn.Module], parameters: Mapping[str, nn.Parameter]
) -> None:
    """What the model says of units and weights that it has lost before, by the names that things have now.

    modules, parameters: of the copy that was taken into `made`, by their names before.
    """
    places = {id(part): name for name, part in made.named_modules()}
    resized: dict[str, Any] = {}
    for path, value in (getattr(model, "resized", None) or {}).items():
        owner, _, leaf = path.rpartition(".")
        resized[f"{places.get(id(modules[owner]), f'model.{owner}')}.{leaf}"] = value
        if not owner:
            resized[leaf] = value
    if resized:
        made.resized = resized
    names = {id(value): name for name, value in made.named_parameters()}
    sparse = [names[id(parameters[name])] for name in getattr(model, "sparse", ())]
    if sparse:
        hold_zeros_(made, sparse)
