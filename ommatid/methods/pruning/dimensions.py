"""Axes of tensors as products and sums of dimensions, and what follows when two axes must be the same.

An axis is a product of dimensions, row-major: the outputs of a joint projection are [3, heads, width]. A dimension may
turn out to be a product itself, where a view splits it, or a concatenation of products, where tensors are joined or
cut. One that nothing splits any further is what can be pruned: its units disappear everywhere at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

UNLIKE = "it meets an axis that is made up in another way"
PIECES = "pieces of it go different ways"
RESHAPED = "a reshape cuts through it"
"""Why units cannot be removed."""


class Dimension:
    """So many units that stand for the same wherever the dimension occurs.

    frozen: why its units cannot be removed one by one; "" where they can. normed: a norm is taken over them, which
    notices what is removed. parts: the products that it is a concatenation of, once known; of one part, the product
    that it is.
    """

    def __init__(self, size: int, *, frozen: str = "") -> None:
        self.size = size
        self.frozen = frozen
        self.normed = False
        self.parts: list[Axis] | None = None
        self._same: Dimension | None = None
        self.kept: Tensor | None = None

    @property
    def root(self) -> Dimension:
        """The dimension that stands for all that were found to be the same."""
        dimension = self
        while dimension._same is not None:
            dimension = dimension._same
        return dimension

    def link(self, other: Dimension) -> None:
        """From now on `self`, a root without parts, is `other`, another root."""
        self._same = other
        if self.frozen:
            freeze([other], self.frozen)
        if self.normed:
            mark_normed([other])


Axis = list[Dimension]
"""A product of dimensions, the last of which varies fastest; none for an axis of length 1."""


def new_axis(size: int, *, frozen: str = "") -> Axis:
    return [Dimension(size, frozen=frozen)] if size != 1 else []


def length(axis: Axis) -> int:
    return math.prod(dimension.size for dimension in axis)


def resolved(axis: Axis) -> Axis:
    """The axis by the finest dimensions that are known; concatenations stay whole."""
    finest: Axis = []
    for dimension in axis:
        root = dimension.root
        if root.parts is not None and len(root.parts) == 1:
            finest += resolved(root.parts[0])
        elif root.size != 1:
            finest.append(root)
    return finest


def leaves(axis: Axis) -> Axis:
    """The dimensions that the axis is made of, those inside of concatenations too."""
    found: Axis = []
    for dimension in resolved(axis):
        found += [leaf for part in dimension.parts for leaf in leaves(part)] if dimension.parts else [dimension]
    return found


def freeze(axis: Axis, why: str) -> None:
    """Of several reasons the first is kept."""
    for dimension in leaves(axis):
        dimension.frozen = dimension.frozen or why


def mark_normed(axis: Axis) -> None:
    for dimension in leaves(axis):
        dimension.normed = True


def unify(one: Axis, other: Axis) -> None:
    """Makes two axes of the same length the same; what cannot be reconciled is frozen."""
    left, right = resolved(one), resolved(other)
    if length(left) != length(right):
        freeze(left + right, UNLIKE)
        return
    while left and right:
        a, b = left[0], right[0]
        if a is b:
            left, right = left[1:], right[1:]
        elif a.size == b.size:
            _merge(a, b)
            left, right = left[1:], right[1:]
        else:
            larger, smaller = (a, b) if a.size > b.size else (b, a)
            if larger.size % smaller.size or not _split_product(larger, [smaller.size, larger.size // smaller.size]):
                freeze(left + right, UNLIKE)
                return
        # What follows may be known better by now, or be what was just found to be the same.
        left, right = resolved(left), resolved(right)


def reshape(axes: Sequence[Axis], sizes: Sequence[int]) -> list[Axis]:
    """The axes of a view; where dimensions do not follow it, they are frozen."""
    view: list[Axis] = []
    old, new = list(axes), list(sizes)
    while new:
        block, wanted = [old.pop(0)] if old else [], [new.pop(0)]
        # The smallest run of axes on either side that holds the same entries.
        while (before := math.prod(map(length, block))) != (after := math.prod(wanted)):
            if before < after:
                block.append(old.pop(0))
            else:
                wanted.append(new.pop(0))
        view += _reshape_block(block, wanted)
    return view


def _reshape_block(axes: Sequence[Axis], sizes: Sequence[int]) -> list[Axis]:
    pending = [dimension for axis in axes for dimension in resolved(axis)]
    view: list[Axis] = []
    for size in sizes:
        axis: Axis = []
        while length(axis) < size and pending:
            first, missing = pending.pop(0), size // length(axis)
            if first.size <= missing:
                axis.append(first)
            elif missing > 1 and first.size % missing == 0 and _split_product(first, [missing, first.size // missing]):
                pending = resolved([first]) + pending
            else:
                return _give_up(axes, sizes)
        if length(axis) != size:
            return _give_up(axes, sizes)
        view.append(axis)
    return view


def split(axis: Axis, sizes: Sequence[int]) -> list[Axis]:
    """The axes of consecutive pieces of an axis."""
    whole = resolved(axis)
    if len(sizes) == 1:
        return [axis]
    if len(whole) == 1 and not whole[0].frozen and sum(sizes) == whole[0].size:
        only = whole[0]
        if only.parts is None:
            only.parts = [new_axis(size) for size in sizes]
            if only.normed:
                mark_normed([only])
        if [length(part) for part in only.parts] == list(sizes):
            return only.parts
    if len(whole) > 1 and whole[0].size == len(sizes) and len(set(sizes)) == 1:
        freeze(whole[:1], PIECES)
        return [whole[1:] for _ in sizes]
    freeze(whole, PIECES)
    return [new_axis(size, frozen=PIECES) for size in sizes]


def concatenate(parts: Sequence[Axis]) -> Axis:
    """The axis of tensors joined one after another."""
    whole = Dimension(sum(length(part) for part in parts))
    whole.parts = [list(part) for part in parts]
    if len(parts) == 1:
        return list(parts[0])
    pieces = [dimension for part in parts for dimension in leaves(part)]
    if pieces and all(dimension.frozen for dimension in pieces):
        return new_axis(whole.size, frozen=pieces[0].frozen)
    return [whole]


def kept(axis: Axis) -> Tensor:
    """Booleans, as long as the axis: which of its entries stay, by what `Dimension.kept` says of its dimensions."""
    mask = torch.ones(1, dtype=torch.bool)
    for dimension in resolved(axis):
        if dimension.parts is not None:
            own = torch.cat([kept(part) for part in dimension.parts])
        elif dimension.kept is not None:
            own = dimension.kept
        else:
            own = torch.ones(dimension.size, dtype=torch.bool)
        mask = (mask[:, None] & own[None, :]).flatten()
    return mask


def units_of(axis: Axis, dimension: Dimension) -> Tensor:
    """For every entry of the axis, which unit of the dimension it belongs to; -1 for none."""
    units = torch.full((1,), -1)
    for part in resolved(axis):
        if part.parts is not None:
            own = torch.cat([units_of(piece, dimension) for piece in part.parts])
        elif part is dimension:
            own = torch.arange(part.size)
        else:
            own = torch.full((part.size,), -1)
        units = torch.where(own[None, :] >= 0, own[None, :], units[:, None]).flatten()
    return units


def _merge(a: Dimension, b: Dimension) -> None:
    """Two roots of the same size become one."""
    if a.parts is None:
        a.link(b)
    elif b.parts is None:
        b.link(a)
    elif [length(part) for part in a.parts] == [length(part) for part in b.parts]:
        for one, other in zip(a.parts, b.parts, strict=True):
            unify(one, other)
    else:
        freeze([a, b], UNLIKE)


def _split_product(dimension: Dimension, sizes: Sequence[int]) -> bool:
    """Finds a root to be a product of such sizes; whether that was possible."""
    if dimension.parts is None:
        dimension.parts = [[Dimension(size, frozen=dimension.frozen) for size in sizes]]
        if dimension.normed:
            mark_normed([dimension])
        return True
    first, rest = sizes[0], math.prod(sizes[1:])
    if len(dimension.parts) != first or any(length(part) != rest for part in dimension.parts):
        return False
    for part in dimension.parts[1:]:
        unify(dimension.parts[0], part)
    dimension.parts = [[Dimension(first, frozen=PIECES), *dimension.parts[0]]]
    return True


def _give_up(axes: Sequence[Axis], sizes: Sequence[int]) -> list[Axis]:
    for axis in axes:
        freeze(axis, RESHAPED)
    return [new_axis(size, frozen=RESHAPED) for size in sizes]
