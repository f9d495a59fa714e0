"""The block of a transformer that reads another sequence beside its own."""

from __future__ import annotations

from torch import Tensor, nn

from ommatid.nn.norm import LayerNorm
from ommatid.nn.residual import MakeNorm, Residual
from ommatid.nn.token_attention import TokenAttention, TokenCrossAttention, Turn


class CrossBlock(nn.Module):
    """Residual branches around self-attention, attention to a memory, and a channel mixer: (B, N, C) -> (B, N, C).

    The decoder's block of "Attention Is All You Need" (arXiv 1706.03762), with norms in front of the branches.

    Args:
        dim: C.
        heads: number of heads; divides C.
        channel_mixer: (B, N, C) -> (B, N, C).
        norm: makes the norm of a width in front of each branch.
        norm_memory: whether the block norms the memory, too.
        bias: of the attentions' linear layers.
        head_norm: makes what norms queries and keys by head; none where None.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        channel_mixer: nn.Module,
        *,
        norm: MakeNorm = LayerNorm,
        norm_memory: bool = True,
        bias: bool = True,
        head_norm: MakeNorm | None = None,
    ) -> None:
        super().__init__()
        self.token = Residual(dim, TokenAttention(dim, heads, bias=bias, norm=head_norm), norm=norm)
        self.memory_norm = norm(dim) if norm_memory else nn.Identity()
        self.cross = Residual(dim, TokenCrossAttention(dim, heads, bias=bias, norm=head_norm), norm=norm)
        self.channel = Residual(dim, channel_mixer, norm=norm)

    def forward(
        self,
        tokens: Tensor,
        memory: Tensor,
        turn: Turn | None = None,
        bias: Tensor | None = None,
        memory_bias: Tensor | None = None,
    ) -> Tensor:
        """`memory`: (B, M, C). `turn`: of tokens and memory by their positions. Biases: of the scores of either."""
        tokens = self.token(tokens, turn, bias)
        tokens = self.cross(tokens, self.memory_norm(memory), turn, turn, memory_bias)
        return self.channel(tokens)
