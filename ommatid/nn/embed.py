"""From an image to a map, and from a map to a coarser one."""

from __future__ import annotations

from torch import Tensor, nn

from ommatid.nn.conv import Conv2d, ConvNorm
from ommatid.nn.deploy import fold_norm_before_
from ommatid.nn.feedforward import BatchNormMLP
from ommatid.nn.mbconv import MBConv
from ommatid.nn.norm import BatchNorm2d
from ommatid.nn.reparam import depthwise_residual
from ommatid.nn.residual import MakeNorm, Residual
from ommatid.nn.squeeze_excite import SqueezeExcite, rounded_width
from ommatid.ops.refusal import require_map
from ommatid.ops.windows import pad_to_multiple


class PatchEmbed(nn.Module):
    """A strided convolution, then optionally a norm: (B, H, W, C_in) -> (B, H', W', C).

    With padding 0 and stride = kernel these are plain patches, and rows and columns past the last whole patch
    are not read; with a kernel larger than the stride the patches overlap.

    Args:
        in_dim: C_in.
        dim: C.
        kernel_size: side of a patch.
        stride: between patches; the kernel's size where None.
        padding: zeros around the map.
        norm: applied after the convolution.
        bias: of the convolution.

    Raises:
        ValueError: the map has a side shorter than one patch.
    """

    def __init__(
        self,
        in_dim: int,
        dim: int,
        kernel_size: int,
        *,
        stride: int | None = None,
        padding: int = 0,
        norm: nn.Module | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.proj = Conv2d(in_dim, dim, kernel_size, stride=stride or kernel_size, padding=padding, bias=bias)
        self.norm = norm or nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        smallest = self.proj.kernel_size[0] - 2 * int(self.proj.padding[0])
        require_map(min(features.shape[1:3]) >= smallest, features, f"at least {smallest} a side")
        return self.norm(self.proj(features))


def overlapping_stem(in_dim: int, dim: int) -> PatchEmbed:
    """7x7 patches of stride 4 and a layer norm: (B, H, W, C_in) -> (B, ceil(H/4), ceil(W/4), C).

    From PVT v2 (arXiv 2106.13797), as `overlapping_merging`.
    """
    return PatchEmbed(in_dim, dim, 7, stride=4, padding=3, norm=nn.LayerNorm(dim))


def overlapping_merging(in_dim: int, dim: int, *, norm: MakeNorm = nn.LayerNorm) -> PatchEmbed:
    """3x3 patches of stride 2 and a norm: (B, H, W, C_in) -> (B, ceil(H/2), ceil(W/2), C)."""
    return PatchEmbed(in_dim, dim, 3, stride=2, padding=1, norm=norm(dim))


class PatchMerging(nn.Module):
    """Joins each 2x2 square of tokens into one: (B, H, W, C) -> (B, ceil(H/2), ceil(W/2), C_out).

    Channels are concatenated in the order (0,0), (1,0), (0,1), (1,1) of (row, column), normed, and reduced by one
    linear layer. Odd sides are zero-padded at the bottom and right. From Swin Transformer (arXiv 2103.14030).
    """

    def __init__(self, dim: int, out_dim: int, *, norm: MakeNorm = nn.LayerNorm) -> None:
        super().__init__()
        self.norm = norm(4 * dim)
        self.reduction = nn.Linear(4 * dim, out_dim, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        return self.reduction(self.norm(joined_squares(features)))


class PostNormPatchMerging(nn.Module):
    """`PatchMerging` with its norm after the linear layer. From Swin Transformer V2 (arXiv 2111.09883)."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * dim, out_dim, bias=False)
        self.norm = nn.LayerNorm(out_dim)

    def forward(self, features: Tensor) -> Tensor:
        return self.norm(self.reduction(joined_squares(features)))


class PreNormMerging(nn.Module):
    """Norm, then a 2x2 convolution of stride 2: (B, H, W, C) -> (B, H // 2, W // 2, C_out).

    From ConvNeXt (arXiv 2201.03545). `deploy()` folds a batch norm. Cost: H W C C_out multiply-adds.
    """

    def __init__(self, dim: int, out_dim: int, *, norm: MakeNorm = nn.LayerNorm) -> None:
        super().__init__()
        self.norm = norm(dim)
        self.conv = Conv2d(dim, out_dim, 2, stride=2)

    def forward(self, features: Tensor) -> Tensor:
        return self.conv(self.norm(features))

    def deploy_(self) -> None:
        if isinstance(self.norm, BatchNorm2d):
            fold_norm_before_(self.norm, self.conv)
            self.norm = nn.Identity()


def joined_squares(features: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, ceil(H/2), ceil(W/2), 4 C): each 2x2 square's tokens side by side, column by column."""
    even = pad_to_multiple(features, (2, 2))
    return even.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).permute(0, 1, 3, 4, 2, 5).flatten(3)


def conv_stem(in_dim: int, dim: int, halvings: int) -> nn.Sequential:
    """3x3 convolutions of stride 2 with batch norms, ReLU between: (B, H, W, C_in) -> (B, H', W', C).

    Each of the `halvings` convolutions rounds the sides up and doubles the width, up to C. LeViT (arXiv 2104.01136).
    """
    dims = [in_dim, *(dim // 2**step for step in reversed(range(halvings)))]
    return nn.Sequential(
        *(
            ConvNorm(dims[step], dims[step + 1], 3, stride=2, act=nn.ReLU() if step + 1 < halvings else None)
            for step in range(halvings)
        )
    )


def two_conv_stem(in_dim: int, dim: int, *, strides: tuple[int, int], act: nn.Module) -> nn.Sequential:
    """Two overlapping strided convolutions with layer norms, an activation between: (B, H, W, C_in) -> (B, H', W', C).

    The kernels are one wider than the strides and the zero padding is 1; the first convolution has width C / 2.
    """
    (first, second), half = strides, dim // 2
    return nn.Sequential(
        PatchEmbed(in_dim, half, first + 1, stride=first, padding=1, norm=nn.LayerNorm(half)),
        act,
        PatchEmbed(half, dim, second + 1, stride=second, padding=1, norm=nn.LayerNorm(dim)),
    )


def inverted_merging(dim: int, out_dim: int) -> MBConv:
    """Halves a map in an inverted bottleneck of ratio 4: (B, H, W, C) -> (B, ceil(H/2), ceil(W/2), C_out).

    From EfficientViT (arXiv 2305.07027). Cost: H W (4 C^2 + 9 C + C C_out) multiply-adds.
    """
    hidden, gate = 4 * dim, SqueezeExcite(4 * dim, rounded_width(dim))
    return MBConv(dim, out_dim, hidden, stride=2, act=nn.ReLU(), gate=gate)


def sandwiched_merging(dim: int, out_dim: int) -> nn.Sequential:
    """`inverted_merging` with a depthwise and an MLP residual branch before and after it. From EfficientViT."""

    def local_mixing(width: int) -> list[nn.Module]:
        mlp = Residual(width, BatchNormMLP(width, 2 * width), norm=nn.Identity)
        return [depthwise_residual(width), mlp]

    return nn.Sequential(*local_mixing(dim), inverted_merging(dim, out_dim), *local_mixing(out_dim))
