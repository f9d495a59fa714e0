"""Grouped linear layers: rows lie sorted by group, and every group has a weight of its own.

The fast form is one grouped matrix product, `torch.nn.functional.grouped_mm`, whatever the sizes of the groups: no
padding, no loop. The plain form multiplies group by group.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ALIGNMENT = 16
"""Rows of a grouped product begin at multiples of so many bytes."""


def grouped_linear(rows: Tensor, weight: Tensor, bias: Tensor | None, ends: Tensor) -> Tensor:
    """rows @ weight[g].T + bias[g], with g the group of each row; under autocast in its type.

    Args:
        rows: (R, D), group after group.
        weight: (G, O, D).
        bias: (G, O), or None.
        ends: (G,) int32, the row at which each group ends; the last is R. Groups may be empty.

    Returns:
        (R, O).
    """
    if torch.is_autocast_enabled(rows.device.type):
        narrow = torch.get_autocast_dtype(rows.device.type)
        rows, weight, bias = rows.to(narrow), weight.to(narrow), None if bias is None else bias.to(narrow)
    if rows.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return grouped_linear_reference(rows, weight, bias, ends)
    if bias is None:
        return _product(rows, weight, ends)
    if not torch.is_grad_enabled() or weight.shape[2] > weight.shape[1]:
        return _product(rows, weight, ends) + bias.index_select(0, group_of_rows(ends, rows.shape[0]))
    # Where the input is the narrow side, the bias of a training step is cheapest as one more column of it.
    step = ALIGNMENT // rows.element_size()
    weight = torch.cat([weight, F.pad(bias[..., None], (0, step - 1))], -1)
    return _product(F.pad(rows, (0, step), value=1.0), weight, ends)


def grouped_linear_reference(rows: Tensor, weight: Tensor, bias: Tensor | None, ends: Tensor) -> Tensor:
    """The same, one group after another."""
    sizes = ends.diff(prepend=ends.new_zeros(1)).tolist()
    biases = [None] * weight.shape[0] if bias is None else list(bias)
    parts = [F.linear(*part) for part in zip(rows.split(sizes), weight, biases, strict=True)]
    return torch.cat(parts)


def group_of_rows(ends: Tensor, rows: int) -> Tensor:
    """(R,): the group that each of the rows belongs to."""
    return torch.searchsorted(ends, torch.arange(rows, device=ends.device, dtype=ends.dtype), right=True)


def _product(rows: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """The grouped product, of widths that are padded with zeros to what it can take."""
    step = ALIGNMENT // rows.element_size()
    outputs, width = weight.shape[1:]
    if width % step:
        rows, weight = (F.pad(x, (0, -width % step)) for x in (rows, weight))
    if outputs % step:
        weight = F.pad(weight, (0, 0, 0, -outputs % step))
    product = F.grouped_mm(rows, weight.transpose(1, 2), offs=ends)
    if product.requires_grad and not torch.compiler.is_compiling():
        product.register_hook(Tensor.contiguous)  # the backward pass takes no expanded gradient, such as that of a sum
    return product[:, :outputs]
