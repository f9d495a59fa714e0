"""How many units to keep, and which: a distribution over sizes, a score per unit, and the mask that both make."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ommatid.methods.pruning.once_for_both.gather import replace_


class Choice(nn.Module):
    """A table of sizes (rows, columns) to choose from, such as heads by channels, for units (R, C) with scores.

    An option keeps the first so many rows and columns, once units are ordered by their scores. A plain choice of one
    number has one row. `size` is (R, C), which the largest option may fall short of.

    Attributes:
        alpha: (row options, column options), logits. score: (R, C). open: options that are not closed yet.
        finished: whether one option is left, and its units alone; the score is then what units are multiplied by.
    """

    def __init__(self, rows: Sequence[int], columns: Sequence[int], size: tuple[int, int]) -> None:
        super().__init__()
        self.rows, self.columns = _kept(rows, size[0]), _kept(columns, size[1])
        self.finished = False
        self.alpha = nn.Parameter(torch.rand(len(rows), len(columns)))
        self.score = nn.Parameter(nn.init.trunc_normal_(torch.empty(size), std=0.2))
        self.open: Tensor
        self.register_buffer("open", torch.ones(len(rows), len(columns), dtype=torch.bool), persistent=False)

    @property
    def options(self) -> int:
        """How many are open."""
        return int(self.open.sum())

    def probabilities(self) -> Tensor:
        """(row options, column options): a softmax over what is open."""
        return self.alpha.masked_fill(~self.open, -math.inf).flatten().softmax(0).view(self.alpha.shape)

    def profile(self) -> Tensor:
        """(R, C): how probable it is that units of each rank are kept; it never rises along rows or columns."""
        rows, columns = (
            _prefixes(options, size).to(self.alpha)
            for options, size in zip((self.rows, self.columns), self.score.shape, strict=True)
        )
        return rows.T @ self.probabilities() @ columns

    def importance(self) -> Tensor:
        """(R, C), 0 to 1."""
        return self.score.sigmoid()

    def order(self) -> tuple[Tensor, Tensor]:
        """Rows (R,), the most important first, and for each row, as it stands, its columns in such an order (R, C)."""
        rows = self.importance().sum(1).argsort(descending=True, stable=True)
        return rows, self.score.argsort(dim=1, descending=True, stable=True)

    def mask(self) -> Tensor:
        """(R, C): every unit's entry of the profile, by the rank of its row and its rank in it."""
        rows, columns = self.order()
        row_rank, column_rank = rows.argsort(), columns.argsort(dim=1)
        return self.profile()[row_rank[:, None], column_rank]

    def multiplier(self, importance_weight: float) -> Tensor:
        """(R, C): what the units' activations are multiplied by."""
        if self.finished:
            return self.score
        return importance_weight * self.importance() + (1 - importance_weight) * self.mask()

    @torch.no_grad()
    def close(self, threshold: float) -> bool:
        """Closes options whose probability is at most threshold / (number of open ones); whether there were any."""
        few = threshold / self.options
        probabilities = self.probabilities()
        if self.options == 1 or probabilities[self.open].min() > few:
            return False
        self.open &= probabilities > few
        self.alpha.masked_fill_(~self.open, 0.0)
        return True

    @torch.no_grad()
    def cut(self, importance_weight: float, optimizer: Optimizer | None = None) -> tuple[Tensor, Tensor] | None:
        """Drops units that no open option keeps, and with one option left finishes.

        Returns:
            The rows that stay (R',), and their columns (R', C'), in the order that they have from now on; None where
            all stay.
        """
        row = int(self.open.any(1).nonzero().max())
        column = int(self.open.any(0).nonzero().max())
        whole = (row + 1, column + 1) == self.open.shape
        if self.options > 1 and whole:
            return None
        rows, columns = self.order()
        rows = rows[: self.rows[row]]
        columns = columns[rows, : self.columns[column]]
        profile = self.profile()[: len(rows), : columns.shape[1]]
        replace_(self, "score", lambda score: score[rows[:, None], columns], optimizer)
        if self.options == 1:
            self.score.copy_(importance_weight * self.score.sigmoid() + (1 - importance_weight) * profile)
            self.finished = True
        else:
            replace_(self, "alpha", lambda alpha: alpha[: row + 1, : column + 1], optimizer)
            self.open = self.open[: row + 1, : column + 1].clone()
            self.rows, self.columns = self.rows[: row + 1], self.columns[: column + 1]
        return rows, columns

    def one_hot_loss(self, norm_weight: float) -> Tensor:
        """What pulls towards one option and few important units: a scalar, 0 with one option left.

        Entropy, a tangent that falls from infinity (all alike) to minus infinity (one alone), and the scores' sum.
        """
        if self.options == 1:
            return self.alpha.new_zeros(())
        count, likely = self.options, self.probabilities()[self.open]
        spread = (likely - 1 / count).square().sum() / (1 - 1 / count)
        entropy = -(likely * likely.log()).sum()
        return entropy + (math.pi / 2 - math.pi * spread).tan() / count + norm_weight * self.importance().sum()


def embedding_sizes(dim: int) -> range:
    """Half of the width to all of it."""
    return range(dim // 2, dim + 1, max(min(dim // 32, 12), 1))


def head_counts(heads: int) -> range:
    return range(2, heads + 1, 2)


def head_widths(width: int) -> range:
    return range(width // 4, width + 1, max(width // 8, 1))


def hidden_sizes(hidden: int) -> range:
    return range(hidden // 4, hidden + 1, max(hidden // 8, 1))


def _kept(options: Sequence[int], size: int) -> list[int]:
    """The reference computes them from their ratios, and rounds down what comes out."""
    return [int(option / size * size) for option in options]


def _prefixes(options: Sequence[int], size: int) -> Tensor:
    """(options, size): 1 for the first so many units."""
    return (torch.arange(size) < torch.tensor(list(options))[:, None]).float()
