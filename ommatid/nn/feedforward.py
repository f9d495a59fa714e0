"""Channel mixers: what happens at every position by itself (or nearly so)."""

from __future__ import annotations

from torch import Tensor, nn

from ommatid.nn.conv import ConvNorm, depthwise_conv
from ommatid.nn.deploy import scale_output_
from ommatid.nn.position import ConvPosition
from ommatid.ops.slices import in_slices


class MLP(nn.Module):
    """Two linear layers with an activation between: (..., C) -> (..., C).

    Cost: 2 r H W C^2 multiply-adds, with r = hidden / C.
    """

    def __init__(self, dim: int, hidden: int, *, act: nn.Module | None = None, bias: bool = True) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden, bias=bias)
        self.act = act or nn.GELU()
        self.fc2 = nn.Linear(hidden, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return in_slices(self._tokens, x.flatten(0, -2)).view(x.shape)

    def _tokens(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))

    def input_layers(self) -> tuple[nn.Module, ...]:
        """What alone reads the input, so that a constant scale and shift of it can be folded in."""
        return (self.fc1,)

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.fc2, scale)


class ConvMLP(nn.Module):
    """An MLP with a 3x3 depthwise convolution before its activation: (B, H, W, C) -> (B, H, W, C).

    From PVT v2 (arXiv 2106.13797). Cost: H W (2 r C^2 + 9 r C) multiply-adds, with r = hidden / C.

    Args:
        dim: C.
        hidden: width between the two linear layers.
        expand_act: a further activation, between the first linear layer and the convolution.
        act: the activation behind the convolution.
        residual: adds the convolution to its own input.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        *,
        expand_act: nn.Module | None = None,
        act: nn.Module | None = None,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.expand_act = expand_act or nn.Identity()
        self.conv = ConvPosition(hidden) if residual else depthwise_conv(hidden, 3)
        self.act = act or nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return in_slices(self._images, x)

    def _images(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.conv(self.expand_act(self.fc1(x)))))

    def input_layers(self) -> tuple[nn.Module, ...]:
        """What alone reads the input, so that a constant scale and shift of it can be folded in."""
        return (self.fc1,)

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.fc2, scale)


class BatchNormMLP(nn.Module):
    """Linear layer, batch norm, ReLU, linear layer, batch norm: (B, H, W, C) -> (B, H, W, C).

    The last norm starts at zero, and with it a residual branch around this. From LeViT (arXiv 2104.01136).
    Cost: 2 r H W C^2 multiply-adds, with r = hidden / C.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = ConvNorm(dim, hidden, 1, act=nn.ReLU())
        self.fc2 = ConvNorm(hidden, dim, 1, scale=0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(x))

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.fc2.conv, scale)


class GLU(nn.Module):
    """Linear layers with a gate between, W2 (act(a) * b) with (a, b) = W1 x: (..., C) -> (..., C).

    "GLU Variants Improve Transformer" (arXiv 2002.05202). Cost: 3 r H W C^2 multiply-adds, with r = hidden / C.

    Args:
        dim: C.
        hidden: width of a and of b.
        act: of a.
        bias: of the linear layers.
        norm: of the product; none where None.
    """

    def __init__(
        self, dim: int, hidden: int, *, act: nn.Module, bias: bool = False, norm: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 2 * hidden, bias=bias)
        self.act = act
        self.norm = norm or nn.Identity()
        self.fc2 = nn.Linear(hidden, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.fc1(x).chunk(2, dim=-1)
        return self.fc2(self.norm(self.act(gate) * value))

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.fc2, scale)


class SwiGLU(GLU):
    """A gated linear unit with SiLU: (..., C) -> (..., C).

    "GLU Variants Improve Transformer" (arXiv 2002.05202). Cost: 3 r H W C^2 multiply-adds, with r = hidden / C.

    Args: as `GLU`.
    """

    def __init__(self, dim: int, hidden: int, *, bias: bool = False, norm: nn.Module | None = None) -> None:
        super().__init__(dim, hidden, act=nn.SiLU(), bias=bias, norm=norm)
