"""Bringing tokens to their experts and the answers back: by sorting, and, as the reference, by one-hot products."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ommatid.nn.moe.routing import Routing

Experts = Callable[[Tensor, Tensor], Tensor]
"""(R, C) rows sorted by expert, (E,) the row at which each expert's end -> (R, C_out)."""


class Plan(NamedTuple):
    """Pairs in the order in which experts work on them.

    Attributes:
        token: (R,) integers, the token of each row.
        weight: (R,), the factor of its answer; 0 for a dropped pair that fills up the rows.
        kept: (R,) booleans, false for those.
        ends: (E,) int32, the row at which each expert's rows end.
    """

    token: Tensor
    weight: Tensor
    kept: Tensor
    ends: Tensor


def plan(routing: Routing) -> Plan:
    """Sorts the kept pairs by expert. Cost: one sort of S k integers."""
    experts, count = routing.experts, routing.scores.shape[1]
    keys = experts if routing.kept is None else experts.masked_fill(~routing.kept, count)
    order = keys.flatten().sort(stable=True).indices[: _rows(routing)]
    load = routing.load()
    # What fills up goes to the last expert.
    ends = torch.cat([load[:-1].cumsum(0), load.new_full((1,), order.shape[0])])
    weight = routing.kept_weights().flatten().index_select(0, order)
    kept = torch.arange(order.shape[0], device=order.device) < load.sum()
    return Plan(order // experts.shape[1], weight, kept, ends.int())


def _rows(routing: Routing) -> int | torch.SymInt:
    """Rows for all kept pairs: as many as there are, or can be where shapes must not depend on values."""
    if routing.kept is None:
        return routing.pairs
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return routing.pairs if routing.most is None else torch.sym_min(routing.most, routing.pairs)
    return int(routing.kept.sum())


def mix_sorted(tokens: Tensor, routing: Routing, experts: Experts, *, weigh_input: bool = False) -> Tensor:
    """(S, ..., C) -> (S, ..., C_out): each token's answers, weighted and added up; 0 for a token without experts.

    Time and memory grow linearly with the kept pairs.

    Args:
        tokens: (S, C); or whatever else experts take as rows, such as maps (S, H, W, C).
        routing: of these tokens.
        experts: what works on rows sorted by expert.
        weigh_input: weights multiply what goes into the experts, not what comes out.
    """
    planned = plan(routing)
    rows = tokens.index_select(0, planned.token)
    weight, kept = (values.view(-1, *[1] * (rows.dim() - 1)) for values in (planned.weight, planned.kept))
    if weigh_input:
        answers = experts(rows * weight.to(rows.dtype), planned.ends)
        answers = answers * kept.to(answers.dtype)
    else:
        answers = experts(rows, planned.ends)
        answers = answers * weight.to(answers.dtype)
    return answers.new_zeros(tokens.shape[0], *answers.shape[1:]).index_add(0, planned.token, answers)


def mix_one_hot(
    tokens: Tensor,
    routing: Routing,
    experts: Experts,
    *,
    weigh_input: bool = False,
    places: int | None = None,
    location: Tensor | None = None,
) -> Tensor:
    """The same of tokens (S, C), as the papers write it: einsums with the combine tensor (S, E, places).

    Time and memory grow with S times places, which are S in number where None. Arguments as in `mix_sorted` and
    `combine_tensor`.
    """
    combine = combine_tensor(routing, places=tokens.shape[0] if places is None else places, location=location)
    chosen = (combine != 0).to(tokens.dtype)
    buffers = torch.einsum("sep,sc->epc", combine if weigh_input else chosen, tokens)
    count, rows, _ = buffers.shape
    ends = torch.arange(1, count + 1, device=tokens.device, dtype=torch.int32) * rows
    answers = experts(buffers.flatten(0, 1), ends).unflatten(0, (count, rows))
    return torch.einsum("sep,epc->sc", chosen if weigh_input else combine, answers)


def combine_tensor(routing: Routing, *, places: int, location: Tensor | None = None) -> Tensor:
    """(S, E, places): the weight of every kept pair at its expert and its place there, 0 elsewhere.

    Args:
        routing: of S tokens.
        places: of each expert's buffer.
        location: (S, k), the place of each pair; its token's number where None.
    """
    if location is None:
        numbers = torch.arange(routing.experts.shape[0], device=routing.experts.device)
        location = numbers[:, None].expand_as(routing.experts)
    weights = routing.kept_weights()
    kept = torch.ones_like(weights, dtype=torch.bool) if routing.kept is None else routing.kept
    place = F.one_hot(location.masked_fill(~kept, 0), places).to(weights.dtype)
    expert = F.one_hot(routing.experts, routing.scores.shape[1]).to(weights.dtype)
    return torch.einsum("sk,ske,skp->sep", weights, expert, place)
