"""The two-way transformer: a few tokens and a map that attend to each other.

From "Segment Anything" (arXiv 2304.02643).
"""

from __future__ import annotations

from torch import Tensor, nn

from ommatid.nn.cross_attention import CrossAttention
from ommatid.nn.feedforward import MLP


class TwoWayLayer(nn.Module):
    """Tokens attend to one another and to the map, think, and then the map attends to them; post-norm.

    Args:
        dim: C.
        heads: of all attentions; those between tokens and map are C / 2 wide.
        mlp_dim: inner width of the tokens' MLP.
        replaces: the first attention takes the tokens' place, without positions, instead of being added to them.
    """

    def __init__(self, dim: int, heads: int, mlp_dim: int, *, replaces: bool = False) -> None:
        super().__init__()
        self.replaces = replaces
        self.attention = CrossAttention(dim, heads)
        self.to_map = CrossAttention(dim, heads, inner=dim // 2)
        self.mlp = MLP(dim, mlp_dim, act=nn.ReLU())
        self.to_tokens = CrossAttention(dim, heads, inner=dim // 2)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(4))

    def forward(self, tokens: Tensor, cells: Tensor, place: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, T, C) with places (T, C) and cells (B, N, C) with positions (N, C) -> both anew."""
        around, to_map, thought, to_tokens = self.norms
        if self.replaces:
            tokens = around(self.attention(tokens, tokens, tokens))
        else:
            placed = tokens + place
            tokens = around(tokens + self.attention(placed, placed, tokens))
        tokens = to_map(tokens + self.to_map(tokens + place, cells + position, cells))
        tokens = thought(tokens + self.mlp(tokens))
        return tokens, to_tokens(cells + self.to_tokens(cells + position, tokens + place, tokens))


class TwoWayTransformer(nn.Module):
    """Layers, and a last look of the tokens at the map: the same in and out as of a layer.

    Cost: that of a layer is (3 N + 4 T) C^2 + 2 N T C multiply-adds, N cells and T tokens, and the tokens' MLP.
    """

    def __init__(self, dim: int, depth: int, heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayLayer(dim, heads, mlp_dim, replaces=index == 0) for index in range(depth))
        self.to_map = CrossAttention(dim, heads, inner=dim // 2)
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, cells: Tensor, place: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        for layer in self.layers:
            tokens, cells = layer(tokens, cells, place, position)
        return self.norm(tokens + self.to_map(tokens + place, cells + position, cells)), cells
