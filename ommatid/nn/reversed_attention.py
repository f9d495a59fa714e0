"""Attention turned around: every token chooses whom to send its message to."""

from __future__ import annotations

from torch import Tensor, nn

SELECTOR_TEMPERATURE = 0.1


class ReversedAttention(nn.Module):
    """Tokens send their values to those they attend to, each through few heads: (B, N, C) -> (B, N, C).

    DependencyViT (arXiv 2304.03282). Receivers are not normalised: a token that many send to grows.

    Args:
        dim: C.
        heads: number of heads; divides C.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** -0.5  # also of a layer whose heads have lost units since
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.head_selector = nn.Linear(dim, heads, bias=False)
        self.message_controller = nn.Sequential(
            nn.Linear(dim, dim // 2, bias=False), nn.GELU(), nn.Linear(dim // 2, 1, bias=False), nn.Sigmoid()
        )
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, message: Tensor) -> tuple[Tensor, Tensor]:
        """`message` (B, N): how loud each token has been so far. Returns the output and how loud each is now."""
        weights, value, message = self._sent(x, message)
        return self.proj((weights.mT @ value).transpose(1, 2).flatten(2)), message

    def dependencies(self, x: Tensor, message: Tensor) -> Tensor:
        """(B, N, N): how much each token (row) hears of each other (column). Column i sums to the message of i."""
        return self._sent(x, message)[0].sum(1).mT

    def _sent(self, x: Tensor, message: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, heads, N, N) from token (row) to token (column), values (B, heads, N, d) and messages (B, N)."""
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        message = message * self.message_controller(x)[..., 0]
        chosen = (self.head_selector(x) / SELECTOR_TEMPERATURE).softmax(-1) * message[..., None]
        attention = (query * self.scale @ key.mT).softmax(-1)
        return attention * chosen.mT[..., None], value, message


def keep_loudest(x: Tensor, message: Tensor, patch: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `count` tokens with the largest messages, those first; the choice has no gradient.

    Args:
        x: (B, N, C). message: (B, N). patch: (B, N), which patches the tokens are.
    """
    kept = message.detach().topk(count, dim=1).indices
    return x.gather(1, kept[..., None].expand(-1, -1, x.shape[-1])), message.gather(1, kept), patch.gather(1, kept)
