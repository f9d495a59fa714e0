"""The cross-attention projector: a student's map in the layout and width of a teacher's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ommatid.models.config import require, require_divisible, require_positive
from ommatid.nn.conv import Conv2d
from ommatid.nn.feedforward import MLP
from ommatid.nn.norm import BatchNorm2d
from ommatid.nn.residual import MakeNorm
from ommatid.ops.attention import attend
from ommatid.ops.windows import partition


class CrossAttentionProjector(nn.Module):
    """Queries in the teacher's layout attend to the student's map: (B, Cs, h, w) -> tokens (B, H W, Ct).

    ScaleKD (arXiv 2411.06786). Cost: 9 h w Cs^2 + 2 h w Cs Ct + 11 H W Ct^2 + 2 h w H W Ct multiply-adds.

    Args:
        student_dim: Cs. teacher_dim: Ct.
        student_size: (h, w). query_size: (H, W).
        heads: divides Ct.
        windows: how many, down and across, both maps are cut into; queries attend within their own. Tokens come in the
            order of the windows then, row by row inside of each, and stay so.
        softmax_scale: what scores are multiplied by beyond d^-0.5.
        learned_query: queries are parameters; otherwise they come with the map.
        norm: makes the norm on the student's map: a layer norm for students that have no batch norm.

    Raises:
        ValueError: heads or windows that do not divide, a map of another size, or queries missing or too many.
    """

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        *,
        student_size: tuple[int, int],
        query_size: tuple[int, int],
        heads: int,
        windows: tuple[int, int] = (1, 1),
        softmax_scale: float = 5.0,
        learned_query: bool = True,
        norm: MakeNorm = BatchNorm2d,
    ) -> None:
        super().__init__()
        require_positive(student_dim=student_dim, teacher_dim=teacher_dim, windows=windows)
        require_divisible(teacher_dim, heads)
        for name, size in (("student_size", student_size), ("query_size", query_size)):
            fits = all(side > 0 and side % count == 0 for side, count in zip(size, windows, strict=True))
            require(fits, name, size, f"multiples of the windows {windows}")
        self.student_size, self.query_size, self.windows, self.heads = student_size, query_size, windows, heads
        self.scale = softmax_scale * (teacher_dim // heads) ** -0.5
        self.source = nn.Sequential(Conv2d(student_dim, student_dim, 3, padding=1), norm(student_dim), nn.ReLU())
        self.position = nn.Parameter(torch.empty(1, *student_size, student_dim))
        nn.init.trunc_normal_(self.position, std=0.02)
        tokens = query_size[0] * query_size[1]
        self.learned_query = nn.Parameter(torch.randn(tokens, teacher_dim)) if learned_query else None
        self.query_proj = nn.Sequential(nn.Linear(teacher_dim, teacher_dim), nn.ReLU())
        self.query = nn.Linear(teacher_dim, teacher_dim)
        self.key = nn.Linear(student_dim, teacher_dim)
        self.value = nn.Linear(student_dim, teacher_dim)
        self.proj = nn.Linear(teacher_dim, teacher_dim)
        self.norm = nn.LayerNorm(teacher_dim)
        self.mlp = MLP(teacher_dim, 4 * teacher_dim, act=nn.ReLU())

    def forward(self, features: Tensor, query: Tensor | None = None) -> Tensor:
        """`query` (B, H W, Ct) is given unless it is learned."""
        size = tuple(features.shape[-2:])
        require(size == self.student_size, "map size", size, f"{self.student_size}, the projector's student_size")
        source = self.source(features.permute(0, 2, 3, 1)) + self.position
        queries = self.query(self.query_proj(self._queries(query, len(features))))
        windows = [
            self._in_windows(tokens)
            for tokens in (queries.unflatten(1, self.query_size), self.key(source), self.value(source))
        ]
        mixed = self.norm(self.proj(attend(*windows, scale=self.scale).reshape(queries.shape)))
        return mixed + self.mlp(mixed)

    def _queries(self, given: Tensor | None, batch: int) -> Tensor:
        if self.learned_query is not None:
            require(given is None, "query", "given", "none: this projector has learned its own")
            return self.learned_query.expand(batch, -1, -1)
        expected = (batch, self.query_size[0] * self.query_size[1], self.proj.in_features)
        shape = None if given is None else tuple(given.shape)
        require(shape == expected, "query", shape, f"tokens of the shape {expected}")
        assert given is not None
        return given

    def _in_windows(self, grid: Tensor) -> Tensor:
        """(B, H, W, C) -> (B windows, window tokens, heads, C / heads)."""
        window = (grid.shape[1] // self.windows[0], grid.shape[2] // self.windows[1])
        return partition(grid, window).flatten(0, 1).unflatten(-1, (self.heads, -1))
