"""COMET's router: trees whose leaves are experts, and a learned order of the experts on the leaves.

"COMET: Learning Cardinality Constrained Mixture of Experts with Trees and Local Search" (arXiv 2306.02824).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ommatid.nn.moe.routers import all_experts, full_precision
from ommatid.nn.moe.routing import Router, Routing
from ommatid.ops.sinkhorn import nearest_permutation, sinkhorn

LOWEST = torch.finfo(torch.float32).min
LEAF_EPS, ENTROPY_EPS = 1e-8, 1e-6


class TreeWeights(NamedTuple):
    """Weights of the experts, (S, E), and the probability of each leaf in each tree, (S, trees, E), left to right."""

    weights: Tensor
    leaves: Tensor


class TreeRouter(Router):
    """Binary trees that lead each token to one leaf each, once trained: tokens (S, C) -> `Routing`.

    A split sends a token left with a probability that is exactly 0 or 1 away from its threshold. At first every expert
    works on every token; when all splits are sure, at most as many as there are trees. Experts with a weight of 0 are
    not computed. The balance loss is the entropy of the leaves, times its own weight.

    Cost: (2 E - 1) trees C multiply-adds a token.

    Args:
        dim: C.
        experts: E, any number.
        trees: how many.
        gamma: width of a split's soft range.
        entropy_weight: of the entropy, which makes splits sure.
        permutation: gives the order of the experts on the leaves; the numbering where None.
    """

    def __init__(
        self,
        dim: int,
        experts: int,
        *,
        trees: int = 2,
        gamma: float = 1.0,
        entropy_weight: float = 1.0,
        permutation: LearnedPermutation | None = None,
    ) -> None:
        super().__init__()
        self.experts = experts
        self.trees = trees
        self.gamma = gamma
        self.entropy_weight = entropy_weight
        self.permutation = permutation
        self.nodes = nn.Linear(dim, (2 * experts - 1) * trees)
        self.leaf: Tensor
        self.path: Tensor
        leaves = list(leaves_with_paths(experts))
        longest = max(len(path) for _, path in leaves)
        sure = 2 * (experts - 1)  # behind the branches to the left and to the right, one of probability 1
        self.register_buffer("leaf", torch.tensor([leaf for leaf, _ in leaves]), persistent=False)
        paths = [[*path, *[sure] * (longest - len(path))] for _, path in leaves]
        self.register_buffer("path", torch.tensor(paths, dtype=torch.long).view(experts, longest), persistent=False)
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Splits start undecided: weights and biases within gamma / 100; leaves within 0.05, biases 0."""
        splits = (self.experts - 1) * self.trees
        for values in (self.nodes.weight, self.nodes.bias):
            nn.init.uniform_(values[:splits], -self.gamma / 100, self.gamma / 100)
        nn.init.uniform_(self.nodes.weight[splits:], -0.05, 0.05)
        nn.init.zeros_(self.nodes.bias[splits:])

    def forward(self, tokens: Tensor, *context: Tensor) -> Routing:
        weights, leaves = self.weigh(tokens, None if self.permutation is None else self.permutation())
        return Routing(all_experts(weights), weights, weights, self.entropy(leaves), weights > 0)

    def weigh(self, tokens: Tensor, permutation: Tensor | None = None) -> TreeWeights:
        """permutation: (trees or 1, E, E), from leaves to experts."""
        nodes = full_precision(self.nodes, tokens).unflatten(-1, (-1, self.trees))
        left = smooth_step(nodes[:, : self.experts - 1], self.gamma)
        branches = torch.cat([left, 1 - left, torch.ones_like(nodes[:, :1])], dim=1)
        leaves = branches[:, self.path].prod(2)
        reached = nodes[:, self.leaf] + (leaves + LEAF_EPS).log()
        scores = torch.where(leaves > 0, reached, LOWEST).transpose(1, 2)
        shares = scores.flatten(1).softmax(-1).view_as(scores)
        if permutation is None:
            weights = shares.sum(1)
        else:
            weights = torch.einsum("sti,tie->se", shares, permutation.expand(self.trees, -1, -1))
        return TreeWeights(weights / weights.sum(-1, keepdim=True), leaves.transpose(1, 2))

    def entropy(self, leaves: Tensor) -> Tensor:
        """The entropy loss of leaf probabilities (S, trees, E), of shape ()."""
        return -self.entropy_weight * (leaves * (leaves + ENTROPY_EPS).log()).sum((1, 2)).mean()


def smooth_step(x: Tensor, width: float) -> Tensor:
    """0 below -width / 2, 1 above width / 2, a cubic between, and smooth."""
    inner = -2 * x**3 / width**3 + 3 * x / (2 * width) + 0.5
    return torch.where(x <= -width / 2, 0.0, torch.where(x >= width / 2, 1.0, inner))


def leaves_with_paths(experts: int) -> Iterator[tuple[int, list[int]]]:
    """Each leaf of the tree, left to right, and the branches that lead there.

    Of 2 E - 1 nodes, numbered level by level, those from E - 1 on are leaves. Branch n goes left from split n, and
    branch E - 1 + n goes right.
    """

    def walk(node: int, path: list[int]) -> Iterator[tuple[int, list[int]]]:
        if node >= experts - 1:
            yield node, path
        else:
            yield from walk(2 * node + 1, [*path, node])
            yield from walk(2 * node + 2, [*path, experts - 1 + node])

    return walk(0, [])


class LearnedPermutation(nn.Module):
    """An order of E experts on the leaves of trees, learned beside the rest: () -> (n, E, E).

    In training a matrix that comes ever nearer to a permutation; after `steps` calls, and outside of training, the
    nearest permutation itself. So siblings in a tree can change.

    Args:
        experts: E.
        steps: calls in training over which it is learned.
        count: n, as many as trees, or one for all.
    """

    def __init__(self, experts: int, *, steps: int, count: int = 1) -> None:
        super().__init__()
        self.steps = steps
        self.log_weights = nn.Parameter(torch.randn(count, experts, experts) * 0.01)
        self.step: Tensor
        self.soft: Tensor
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.register_buffer("soft", torch.eye(experts).repeat(count, 1, 1))

    def forward(self) -> Tensor:
        if not self.training or int(self.step) >= self.steps:
            return nearest_permutation(self.soft)
        self.step += 1
        soft = soft_permutation(self.log_weights, int(self.step), self.steps)
        self.soft.copy_(soft.detach())
        return soft if int(self.step) < self.steps else nearest_permutation(self.soft)


def soft_permutation(log_weights: Tensor, step: int, steps: int) -> Tensor:
    """(n, E, E) -> the same, nearer to permutations the later the step."""
    temperature, iterations = annealed(step, steps)
    return sinkhorn(log_weights / temperature, iterations)


def annealed(step: int, steps: int) -> tuple[float, int]:
    """Temperature and number of Sinkhorn iterations at a step of so many."""
    done = min(max(step / steps, 0.0), 1.0)
    return 10.0 ** (-3 - 4 * done), int(20 + 130 * done)


def permutation_entropy(permutation: Tensor) -> Tensor:
    """The entropy of (n, E, E), plus that of the same with rows that sum to 1, mean over n, of shape ()."""

    def entropy(values: Tensor) -> Tensor:
        return -(values * (values + ENTROPY_EPS).log()).sum((1, 2)).mean()

    return entropy(permutation) + entropy(permutation / permutation.sum(-1, keepdim=True))
