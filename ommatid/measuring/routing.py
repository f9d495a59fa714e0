"""What the routers of a model decide: which tokens go to which expert, how surely, and which are dropped."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ommatid.models.backbones.adv_moe import Router as PathwayRouter
from ommatid.nn.mixture_of_heads import MixtureOfHeads
from ommatid.nn.moe import MoE, Routing


@dataclass(frozen=True)
class Decision:
    """What one layer decided for N tokens of each of B images.

    grid: rows and columns that the last of the tokens lie on; None where they are no map.
    scores: (B, N, E), what the router thinks of each expert. wanted, kept: (B, N, E) booleans, which experts a token
    asked for and which of them worked on it.
    first: (B, N), the expert that counts most for a token; -1 where none worked on it.
    """

    grid: tuple[int, int] | None
    scores: Tensor
    wanted: Tensor
    kept: Tensor
    first: Tensor


See = Callable[[str, Decision], None]


class Tally:
    """Sums over any number of decisions of one layer: everything that is said of its load."""

    def __init__(self, experts: int) -> None:
        self.sums = torch.zeros(experts + 4, dtype=torch.float64)

    def add(self, decision: Decision) -> None:
        shares = decision.scores.double().clamp(min=0)
        shares = shares / shares.sum(-1, keepdim=True).clamp(min=1e-12)
        entropy = torch.special.entr(shares).sum(-1)
        totals = [decision.wanted.sum(), decision.kept.sum(), entropy.sum(), torch.tensor(decision.first.numel())]
        load = decision.kept.flatten(0, 1).sum(0)
        self.sums += torch.cat([load.cpu(), torch.stack([total.cpu().double() for total in totals])])

    def summary(self) -> dict[str, Any]:
        """load: share of all work by expert. balance: entropy of the load, 1 where all are loaded alike.

        entropy: of a token's scores in the mean, 1 where the router has no preference. dropped: share of what was asked
        for and not worked on.
        """
        load, (wanted, kept, entropy, tokens) = self.sums[:-4], self.sums[-4:].tolist()
        shares, most = load / load.sum().clamp(min=1), math.log(max(len(load), 2))
        return {
            "load": shares.tolist(),
            "balance": float(torch.special.entr(shares).sum()) / most,
            "entropy": entropy / max(tokens, 1) / most,
            "dropped": 1 - kept / max(wanted, 1),
        }


def routing_layers(model: nn.Module) -> dict[str, int]:
    """The layers of a model that choose among experts, and how many these are."""
    found: dict[str, int] = {}
    for name, module in model.named_modules():
        if isinstance(module, MoE):
            found[name] = module.router.experts
        elif isinstance(module, MixtureOfHeads) and module.route is not None:
            found[name] = module.route.out_features
        elif isinstance(module, PathwayRouter):
            found[name] = module.head.out_features
    return found


@contextmanager
def observed(model: nn.Module, see: See) -> Iterator[None]:
    """While the block runs, `see` is told what each layer decides, by the layer's name."""
    hooks: list[Any] = []
    for name in routing_layers(model):
        module = model.get_submodule(name)
        if isinstance(module, MoE):
            hooks += _watch_mixture(name, module, see)
        elif isinstance(module, MixtureOfHeads):
            hooks.append(module.register_forward_hook(_of_heads(name, see)))
        else:
            hooks.append(module.register_forward_hook(_of_pathway(name, see)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _watch_mixture(name: str, module: MoE, see: See) -> list[Any]:
    """The tokens' shape is known where they enter the layer, and their fate where dispatch has decided."""
    entered: list[torch.Size] = []

    def enter(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        entered.append(inputs[0].shape)

    def decide(_module: nn.Module, _inputs: Any, routing: Routing) -> None:
        # Whoever calls `mix` enters by another door: the tokens are then one sequence.
        see(name, of_routing(routing, entered.pop() if entered else torch.Size([1, *routing.scores.shape])))

    return [module.register_forward_pre_hook(enter), module.dispatch.register_forward_hook(decide)]


def of_routing(routing: Routing, shape: torch.Size) -> Decision:
    """A routing of the tokens of maps (B, H, W, C) or sequences (B, N, C)."""
    kept = torch.ones_like(routing.experts, dtype=torch.bool) if routing.kept is None else routing.kept
    empty = torch.zeros_like(routing.scores, dtype=torch.bool)
    working = empty.scatter(1, routing.experts, kept)
    # Where experts choose tokens, all pairs are listed, and what is not kept was never asked for.
    listed = routing.kept is not None and routing.experts.shape[1] == routing.scores.shape[1]
    wanted = working if listed else empty.scatter(1, routing.experts, True)
    weights = torch.full_like(routing.scores, -math.inf).scatter(1, routing.experts, routing.weights.to(routing.scores))
    return _decision(routing.scores, wanted, working, weights, shape)


def _of_heads(name: str, see: See) -> Callable[..., None]:
    def decide(module: MixtureOfHeads, inputs: tuple[Tensor, ...], weights: Tensor) -> None:
        assert module.route is not None
        routed = weights[..., -module.route.out_features :].flatten(0, -2)
        scores = module.route(inputs[0]).softmax(-1).flatten(0, -2)
        see(name, _decision(scores, routed > 0, routed > 0, routed, inputs[0].shape))

    return decide


def _of_pathway(name: str, see: See) -> Callable[..., None]:
    def decide(_module: nn.Module, _inputs: Any, scores: Tensor) -> None:
        best = scores == scores.max(-1, keepdim=True).values
        see(name, _decision(scores.softmax(-1), best, best, scores, torch.Size([len(scores), 1, 1, scores.shape[1]])))

    return decide


def _decision(scores: Tensor, wanted: Tensor, kept: Tensor, weights: Tensor, shape: torch.Size) -> Decision:
    """From (S, E) each; `weights` say what counts most of what was kept."""
    batch, between = shape[0], shape[1:-1]
    first = weights.masked_fill(~kept, -math.inf).argmax(-1).masked_fill(~kept.any(-1), -1)
    parts = (part.detach().unflatten(0, (batch, -1)) for part in (scores, wanted, kept, first))
    scores, wanted, kept, first = parts
    return Decision(grid_of(tuple(between)), scores, wanted, kept, first)


def grid_of(between: tuple[int, ...]) -> tuple[int, int] | None:
    """Rows and columns of tokens with these axes; of a sequence, the square that fits behind up to two special ones."""
    if len(between) == 2:
        return between[0], between[1]
    if len(between) != 1:
        return None
    side = math.isqrt(between[0])
    return (side, side) if between[0] - side * side <= 2 else None


def readable(name: str) -> str:
    """`stages.2.blocks.1.channel.inner` -> "stage 3, block 2"."""
    words = [
        f"{word} {int(match[1]) + 1}"
        for word, pattern in (("stage", r"\bstages\.(\d+)\b"), ("block", r"\bblocks\.(\d+)\b"))
        if (match := re.search(pattern, name))
    ]
    return ", ".join(words) or name
