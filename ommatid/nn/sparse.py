"""Weights of which many are zero: kept so in training, stored without them, and run as 2:4 where hardware can."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

VALUES, PLACES, SHAPE = ".nonzero.values", ".nonzero.places", ".nonzero.shape"
"""Ends of the names under which a sparse tensor is stored: its non-zero values, a bit for each place, its shape."""


def hold_zeros_(model: nn.Module, names: Iterable[str]) -> None:
    """Lets what is zero in these parameters stay zero, however they are trained: its gradient is removed.

    Decoupled weight decay and moving averages leave zeros alone, and so do moments without gradients.
    """
    names = tuple(names)
    for name in names:
        parameter = model.get_parameter(name)
        places = parameter.detach() != 0
        parameter.register_hook(lambda grad, places=places: grad * places.to(grad))
    model.sparse = names  # type: ignore[assignment]


def pack(state: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """A state in which the named tensors are stored as their non-zero values, and one bit for each place."""
    packed = dict(state)
    for name in names:
        value = packed.pop(name)
        places = (value != 0).flatten()
        bits = torch.nn.functional.pad(places, (0, -len(places) % 8)).view(-1, 8).to(torch.uint8)
        packed[name + VALUES] = value.flatten()[places].contiguous()
        packed[name + PLACES] = (bits << torch.arange(8)).sum(1).to(torch.uint8)
        packed[name + SHAPE] = torch.tensor(value.shape)
    return packed


def unpack(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undoes `pack`."""
    state = {name: value for name, value in packed.items() if not name.endswith((VALUES, PLACES, SHAPE))}
    for name in (name.removesuffix(VALUES) for name in packed if name.endswith(VALUES)):
        shape = packed[name + SHAPE].tolist()
        bits = (packed[name + PLACES][:, None].int() >> torch.arange(8)) & 1
        places = bits.flatten()[: torch.Size(shape).numel()].bool()
        value = packed[name + VALUES].new_zeros(len(places))
        state[name] = value.masked_scatter(places, packed[name + VALUES]).view(shape)
    return state


def semi_structured_(model: nn.Module) -> int:
    """Turns the 2:4 sparse weights of linear layers into PyTorch's format for sparse tensor cores: how many there were.

    For inference in half precision on a CUDA GPU (compute capability 8 or more). A CPU has no such kernels: there zeros
    cost what other numbers cost.

    Raises:
        ValueError: the model is not on such a GPU.
    """
    device = next(model.parameters()).device
    if device.type != "cuda" or torch.cuda.get_device_capability(device)[0] < 8:
        raise ValueError(f"2:4 kernels need a CUDA GPU of compute capability 8 or more; the model is on {device}")
    from torch.sparse import to_sparse_semi_structured

    count = 0
    for layer in model.modules():
        if isinstance(layer, nn.Linear) and _is_two_of_four(layer.weight):
            layer.weight = nn.Parameter(to_sparse_semi_structured(layer.weight.detach()), requires_grad=False)
            count += 1
    return count


def _is_two_of_four(weight: Tensor) -> bool:
    """Whether it is, and of a shape that the kernels take."""
    rows, columns = weight.shape
    return not (rows % 32 or columns % 64) and bool((weight.reshape(-1, 4).ne(0).sum(1) <= 2).all())
