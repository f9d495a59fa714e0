"""Structural pruning of any model: units disappear everywhere at once, and tensors shrink.

Which axes belong together is derived from the model (`trace`); no family needs code of its own. What cannot be removed
without changing the rest is found out by trying, and left alone.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from ommatid.methods.pruning.dimensions import Dimension, leaves, resolved
from ommatid.methods.pruning.dimensions import kept as kept_entries
from ommatid.methods.pruning.trace import parameter_axes
from ommatid.methods.pruning.tracer import Axes
from ommatid.nn.resize import replace_tensor

Kind = Literal["heads", "hidden", "width"]

ModelT = TypeVar("ModelT", bound=nn.Module)

COUNTS = ("heads", "num_heads", "groups")
"""Attributes of modules that count units which tensors have a factor of an axis for; those of layers are told apart."""

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Whose groups are told by their weights (`ommatid.nn.resize`)."""

FEWEST, OTHERS = 2, 4
"""How many units a group loses when it is tried, and how many other numbers its neighbours lose: where sizes fit by
chance, or by rounding, others do not."""

TOLERANCE = 1e-4
"""Largest difference of the pruned model from the masked one, as a fraction of the largest magnitude."""


@dataclass(frozen=True)
class Group:
    """Units that each are slices of several tensors.

    name: of the first tensor that they are slices of. kind: attention heads; hidden units or channels inside of a
    block; or the width of a residual stream, which norms see. members: (tensor, axis) pairs.
    """

    name: str
    kind: Kind
    dimension: Dimension
    members: tuple[tuple[str, int], ...]

    @property
    def size(self) -> int:
        return self.dimension.size


Kept = Mapping[str, Tensor]
"""Group name -> booleans (units,), which of them stay. Groups that are not named stay whole."""


@dataclass(frozen=True)
class Structure:
    """A model's groups, and the axes of its tensors by name.

    refused: groups that tracing found, but that cannot lose a unit after all, and why.
    """

    groups: tuple[Group, ...]
    axes: Mapping[str, Axes]
    refused: Mapping[Group, str] = field(default_factory=dict)

    def reasons(self, tensor: str) -> list[str]:
        """Why units of a tensor's axes stay, each reason once; none for axes that are of a group."""
        frozen = [dimension.frozen for axis in self.axes[tensor] for dimension in leaves(axis)]
        refused = [why for group, why in self.refused.items() if tensor in dict(group.members)]
        return list(dict.fromkeys(filter(None, frozen + refused)))

    def masks(self, kept: Kept) -> dict[str, list[Tensor]]:
        """For every tensor that loses something, booleans along each of its axes.

        Raises ValueError for a group that does not exist, or that would lose every unit.
        """
        known = {group.name: group for group in self.groups}
        for name, units in kept.items():
            if name not in known or len(units) != known[name].size or not units.any():
                raise ValueError(f"{name} is no group of {len(units)} units of which some are kept")
            known[name].dimension.kept = units
        try:
            masks = {name: [kept_entries(axis) for axis in axes] for name, axes in self.axes.items()}
        finally:
            for name in kept:
                known[name].dimension.kept = None
        return {name: along for name, along in masks.items() if not all(mask.all() for mask in along)}


def describe(model: nn.Module, example: Tensor) -> Structure:
    """The groups of units that can be removed from a model, found on an image (B, C, H, W) and tried out.

    Every group has lost a unit once, and the smaller model answered as the masked one; those that failed are left out.
    """
    axes = parameter_axes(model, example)
    members: dict[Dimension, list[tuple[str, int]]] = {}
    for name, of_tensor in axes.items():
        for place, axis in enumerate(of_tensor):
            for dimension in dict.fromkeys(leaves(axis)):
                if not dimension.frozen:
                    members.setdefault(dimension, []).append((name, place))
    groups = tuple(
        Group(found[0][0], _kind(dimension, found, axes), dimension, tuple(found))
        for dimension, found in members.items()
        if dimension.size > 1
    )
    refused: dict[Group, str] = {}
    sound = _sound(model, example, axes, _with_own_names(groups), refused)
    return Structure(tuple(sound), axes, refused)


def prune(model: ModelT, structure: Structure, kept: Kept) -> ModelT:
    """A smaller copy without the units that are not kept. `resized` tells `save` which attributes have changed."""
    pruned = copy.deepcopy(model)
    state, masks = pruned.state_dict(), structure.masks(kept)
    for name, along in masks.items():
        value = state[name]
        for place, mask in enumerate(along):
            if not mask.all():
                value = value.index_select(place, mask.nonzero().flatten().to(value.device))
        replace_tensor(pruned, name, value.clone())
    changed: dict[str, Any] = dict(getattr(pruned, "resized", None) or {})
    for group in structure.groups:
        if group.name in kept and not kept[group.name].all():
            changed |= _set_counts(pruned, group, int(kept[group.name].sum()))
    channels = getattr(pruned, "channels", None)
    if channels is not None:
        changed |= _told_channels(pruned, structure, kept)
    pruned.resized = changed  # type: ignore[assignment]
    return pruned


@torch.no_grad()
def masked(model: ModelT, structure: Structure, kept: Kept) -> ModelT:
    """A copy of the same size in which the units that are not kept are zero everywhere, and norms pass them over."""
    copied = copy.deepcopy(model)
    state = copied.state_dict()
    for name, along in structure.masks(kept).items():
        for place, mask in enumerate(along):
            shape = [-1 if axis == place else 1 for axis in range(len(along))]
            state[name].mul_(mask.view(shape).to(state[name]))
        owner, _, leaf = name.rpartition(".")
        norm = copied.get_submodule(owner)
        if leaf == "weight" and isinstance(norm, nn.LayerNorm | nn.RMSNorm) and len(along) == 1:
            path, _, last = owner.rpartition(".")
            setattr(copied.get_submodule(path), last, _KeptNorm(norm, along[0]))
    return copied


@torch.no_grad()
def difference(pruned: nn.Module, expected: nn.Module, image: Tensor) -> float:
    """Of two models' answers in evaluation mode, the largest, as a fraction of the largest magnitude."""
    answers = [model.eval()(image) for model in (pruned, expected)]
    return float((answers[0] - answers[1]).abs().max() / answers[1].abs().max().clamp_min(1e-12))


def verify(model: nn.Module, structure: Structure, kept: Kept, image: Tensor) -> float:
    """How far the pruned model is from the masked one. Raises ValueError beyond TOLERANCE."""
    error = difference(prune(model, structure, kept), masked(model, structure, kept), image)
    if not error <= TOLERANCE:
        raise ValueError(f"the pruned model does not answer as the masked one: the difference is {error:.1e}")
    return error


class _KeptNorm(nn.Module):
    """A layer norm, or one by the root mean square, over the kept entries alone; the others are 0."""

    def __init__(self, norm: nn.LayerNorm | nn.RMSNorm, mask: Tensor) -> None:
        super().__init__()
        self.places = mask.nonzero().flatten()
        self.norm = copy.deepcopy(norm)
        for name, parameter in norm.named_parameters():
            replace_tensor(self.norm, name, parameter.detach()[self.places])

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x[..., self.places])
        return torch.zeros_like(x).index_copy(-1, self.places, normed)


def _kind(dimension: Dimension, members: Sequence[tuple[str, int]], axes: Mapping[str, Axes]) -> Kind:
    if dimension.normed:
        return "width"
    for name, place in members:
        product = resolved(axes[name][place])
        if dimension in product[:-1]:
            return "heads"
    return "hidden"


def _with_own_names(groups: Sequence[Group]) -> list[Group]:
    """One tensor may begin several groups: later ones are told apart by a number."""
    seen: dict[str, int] = {}
    named = []
    for group in groups:
        seen[group.name] = seen.get(group.name, 0) + 1
        number = seen[group.name]
        name = group.name if number == 1 else f"{group.name} ({number})"
        named.append(Group(name, group.kind, group.dimension, group.members))
    return named


def _sound(
    model: nn.Module, example: Tensor, axes: Mapping[str, Axes], groups: Sequence[Group], refused: dict[Group, str]
) -> list[Group]:
    """Those that can lose units; tried together first, then by halves. Why others cannot is added to `refused`.

    Every other group is also tried while its neighbours stay whole: two that must lose as many are none.
    """
    tries = [groups] if len(groups) == 1 else [groups, groups[::2], groups[1::2]]
    why = next(filter(None, (_failure(model, example, axes, some) for some in tries if some)), "")
    if not why:
        return list(groups)
    if len(groups) == 1:
        refused[groups[0]] = why
        return []
    half = len(groups) // 2
    return [found for part in (groups[:half], groups[half:]) for found in _sound(model, example, axes, part, refused)]


def _failure(model: nn.Module, example: Tensor, axes: Mapping[str, Axes], groups: Sequence[Group]) -> str:
    """What happens where each group loses a few units; "" where the model answers as the masked one."""
    kept = {}
    for place, group in enumerate(groups):
        middle = max(group.size // 2, 1)
        kept[group.name] = (torch.arange(group.size) - middle) % group.size >= min(FEWEST + place % OTHERS, middle)
    try:
        verify(model, Structure(tuple(groups), axes), kept, example)
    except (ValueError, RuntimeError, IndexError, TypeError, AssertionError) as error:
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    return ""


def _set_counts(model: nn.Module, group: Group, count: int) -> dict[str, int]:
    """Sets what counts the group's units, in the modules around its tensors: by path."""
    changed = {}
    for name, _ in group.members:
        path = name.rpartition(".")[0]
        for _ in range(3):
            module = model.get_submodule(path)
            for attribute in COUNTS:
                if not isinstance(module, LAYERS) and getattr(module, attribute, None) == group.size:
                    setattr(module, attribute, count)
                    changed[f"{path}.{attribute}".lstrip(".")] = count
            path = path.rpartition(".")[0]
    return changed


def _told_channels(model: nn.Module, structure: Structure, kept: Kept) -> dict[str, list[int]]:
    """The backbone's widths by stage, where the width of a stage has changed."""
    widths = [group for group in structure.groups if group.kind != "heads" and group.name in kept]
    if all(kept[group.name].all() for group in widths):
        return {}
    backbone: Any = model
    side = getattr(backbone.config, "image_size", 64)
    size = side if isinstance(side, tuple) else (side, side)
    with torch.no_grad():
        image = next(backbone.parameters()).new_zeros(1, backbone.config.in_channels, *size)
        features = backbone.eval().features(image)
    channels = [int(stage.shape[1]) for stage in features]
    if channels == list(backbone.channels):
        return {}
    backbone.channels = tuple(channels)
    return {"channels": channels}
