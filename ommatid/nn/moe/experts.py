"""Experts: many channel mixers of one kind, stacked, that work on rows sorted by expert.

All of them take rows (R, C) and the row at which each expert's rows end, (E,) int32, and give (R, C_out).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from ommatid.nn.feedforward import MLP, SwiGLU
from ommatid.ops.grouped import group_of_rows, grouped_linear
from ommatid.ops.slices import slice_count


class StackedLinear(nn.Module):
    """A linear layer for each of E experts, as one grouped product; each starts as `nn.Linear` does.

    Cost: R C_in C_out multiply-adds for R rows, however they are spread over the experts.
    """

    def __init__(self, experts: int, in_dim: int, out_dim: int, *, bias: bool = True) -> None:
        super().__init__()
        reach = 1 / math.sqrt(in_dim)
        self.weight = nn.Parameter(torch.empty(experts, out_dim, in_dim).uniform_(-reach, reach))
        self.bias = nn.Parameter(torch.empty(experts, out_dim).uniform_(-reach, reach)) if bias else None

    def forward(self, rows: Tensor, ends: Tensor) -> Tensor:
        return grouped_linear(rows, self.weight, self.bias, ends)


class StackedMLP(nn.Module):
    """E times an MLP: two linear layers with an activation between. Cost: 2 R C hidden multiply-adds for R rows."""

    def __init__(
        self,
        experts: int,
        dim: int,
        hidden: int,
        *,
        out_dim: int | None = None,
        act: nn.Module | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.experts = experts
        self.fc1 = StackedLinear(experts, dim, hidden, bias=bias)
        self.act = act or nn.GELU()
        self.fc2 = StackedLinear(experts, hidden, out_dim or dim, bias=bias)

    def forward(self, rows: Tensor, ends: Tensor) -> Tensor:
        return in_sorted_slices(self._rows, rows, ends)

    def _rows(self, rows: Tensor, ends: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(rows, ends)), ends)


class StackedSwiGLU(nn.Module):
    """E times `SwiGLU`: W2 (SiLU(a) * b) with (a, b) = W1 x. Cost: 3 R C hidden multiply-adds for R rows."""

    def __init__(self, experts: int, dim: int, hidden: int, *, bias: bool = False) -> None:
        super().__init__()
        self.experts = experts
        self.fc1 = StackedLinear(experts, dim, 2 * hidden, bias=bias)
        self.fc2 = StackedLinear(experts, hidden, dim, bias=bias)

    def forward(self, rows: Tensor, ends: Tensor) -> Tensor:
        return in_sorted_slices(self._rows, rows, ends)

    def _rows(self, rows: Tensor, ends: Tensor) -> Tensor:
        gate, value = self.fc1(rows, ends).chunk(2, dim=-1)
        return self.fc2(F.silu(gate) * value, ends)


class StackedMixer(nn.Module):
    """E times any channel mixer that treats rows one by one, its parameters stacked along a first axis.

    Rows are tokens (R, C), or, for a mixer that looks at neighbours, maps (R, H, W, C).

    All experts work at once on buffers of as many places as the busiest needs: batched products, but time and memory
    grow with the imbalance.

    Args:
        experts: E.
        mixer: what each of them is at first.

    Raises:
        ValueError: the mixer has buffers, such as statistics: experts would share them.
    """

    def __init__(self, experts: int, mixer: nn.Module) -> None:
        super().__init__()
        for name, _ in mixer.named_buffers():
            owner = type(mixer.get_submodule(name.rpartition(".")[0])).__name__
            raise ValueError(f"{type(mixer).__name__} holds {name} ({owner}): allowed is a mixer without buffers")
        self.experts = experts
        # Out of sight of what changes models part by part: its own parameters are not in use.
        self.template = (copy.deepcopy(mixer),)
        self.names = [name for name, _ in mixer.named_parameters()]
        self.stacked = nn.ParameterDict(
            {
                name.replace(".", "_"): parameter.detach().expand(experts, *parameter.shape).clone()
                for name, parameter in mixer.named_parameters()
            }
        )

    def forward(self, rows: Tensor, ends: Tensor) -> Tensor:
        expert = group_of_rows(ends, rows.shape[0])
        sizes = ends.diff(prepend=ends.new_zeros(1))
        place = torch.arange(rows.shape[0], device=rows.device) - (ends - sizes).index_select(0, expert)
        static = torch.compiler.is_compiling() or torch.jit.is_tracing()
        places = rows.shape[0] if static else int(sizes.max())
        buffers = rows.new_zeros(self.experts, places, *rows.shape[1:]).index_put((expert, place), rows)
        self.template[0].train(self.training)
        parameters = {name: self.stacked[name.replace(".", "_")] for name in self.names}
        answers = vmap(self._one, randomness="different")(parameters, buffers)
        return answers[expert, place]

    def _one(self, parameters: dict[str, Tensor], rows: Tensor) -> Tensor:
        return functional_call(self.template[0], parameters, (rows,))


def stack(mixer: nn.Module, experts: int) -> nn.Module:
    """E copies of a channel mixer as experts, in the fastest form there is for its kind."""
    if type(mixer) is MLP and not list(mixer.act.parameters()):
        stacked: nn.Module = StackedMLP(
            experts,
            mixer.fc1.in_features,
            mixer.fc1.out_features,
            out_dim=mixer.fc2.out_features,
            act=copy.deepcopy(mixer.act),
            bias=mixer.fc1.bias is not None,
        )
    elif type(mixer) is SwiGLU and not list(mixer.norm.parameters()):
        has_bias = mixer.fc1.bias is not None
        stacked = StackedSwiGLU(experts, mixer.fc1.in_features, mixer.fc2.in_features, bias=has_bias)
    else:
        return StackedMixer(experts, mixer)
    copies = {name: value.expand(experts, *value.shape) for name, value in mixer.state_dict().items()}
    stacked.load_state_dict(copies)
    return stacked.to(next(mixer.parameters()).dtype)


def in_sorted_slices(function: Callable[[Tensor, Tensor], Tensor], rows: Tensor, ends: Tensor) -> Tensor:
    """`function(rows, ends)`, a slice of the rows at a time where `in_slices` would do so for one expert."""
    count = slice_count(rows)
    if count == 1:
        return function(rows, ends)
    parts, start = [], 0
    for part in rows.chunk(count):
        parts.append(function(part, (ends - start).clamp(0, part.shape[0])))
        start += part.shape[0]
    return torch.cat(parts)
