"""Max pooling as a token mixer: the spatial operation has no parameters."""

from __future__ import annotations

from torch import Tensor, nn

from ommatid.nn.deploy import scale_output_
from ommatid.nn.pool import MaxPool2d


class MaxPoolMixer(nn.Module):
    """A 3x3 max pooling of three times as many channels: (B, H, W, C) -> (B, H, W, C).

    The transformer form of "Learning Features with Parameter-Free Layers" (arXiv 2202.02777).
    Cost: 6 H W C^2 multiply-adds.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.expand = nn.Linear(dim, 3 * dim)
        self.act = nn.GELU()
        self.pool = MaxPool2d(3, stride=1, padding=1)
        self.proj = nn.Linear(3 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.act(self.pool(self.act(self.expand(x)))))

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj, scale)
