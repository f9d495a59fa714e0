"""The pixel decoder of PEM: convolutions alone, told by the whole image what matters.

"PEM: Prototype-based Efficient MaskFormer for Image Segmentation" (arXiv 2402.19422).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ommatid.models.config import require
from ommatid.nn.conv import Conv2d, ConvNorm, ConvTranspose2d
from ommatid.nn.deformable_conv import DeformableConv2d
from ommatid.nn.deploy import fold_norm_after_
from ommatid.nn.image_pool import ImagePool, PooledBatchNorm2d
from ommatid.nn.norm import BatchNorm2d


class ContextModulation(nn.Module):
    """Strengthens channels by what the whole map says of them: (B, H, W, C) -> (B, H, W, C).

    As published the gate goes through two sigmoids: channels are multiplied by 1.5 to 1.73.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.squeeze = ConvNorm(dim, dim // 2, 1, act=nn.ReLU(), norm=PooledBatchNorm2d(dim // 2))
        self.excite = Conv2d(dim // 2, dim, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.excite(self.squeeze(x.mean((1, 2), keepdim=True)))
        return x + x * gate.sigmoid().sigmoid()


class DeformableStep(nn.Module):
    """A deformable convolution, and its answer once more at twice the resolution.

    (B, H, W, C) -> (B, H, W, C) and (B, 2 H, 2 W, C).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv, self.norm = DeformableConv2d(dim, dim), BatchNorm2d(dim)
        self.enlarge = ConvTranspose2d(dim, dim, 4, stride=2, padding=1, bias=False)
        self.enlarge_norm: nn.Module = BatchNorm2d(dim)
        line = torch.tensor([0.25, 0.75, 0.75, 0.25])
        with torch.no_grad():
            self.enlarge.weight[:, 0] = torch.outer(line, line)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        level = self.norm(self.conv(x)).relu()
        return level, self.enlarge_norm(self.enlarge(level)).relu()

    def deploy_(self) -> None:
        assert isinstance(self.enlarge_norm, BatchNorm2d)
        fold_norm_after_(self.enlarge, self.enlarge_norm)
        self.enlarge_norm = nn.Identity()


class ModulatedPixels(nn.Module):
    """Four maps fine to coarse, (B, H_i, W_i, C_i) -> mask features (B, H_0, W_0, mask_dim) and the others of dim.

    Those come coarsest first. Under autocast too all is computed in the precision of the weights, as masks get
    thresholded.

    Args:
        channels: C_i.
        dim: width of the maps on the way; even.
        mask_dim: width of the mask features.

    Raises:
        ValueError: a map is not twice as large as the next.
    """

    def __init__(self, channels: Sequence[int], dim: int, mask_dim: int) -> None:
        super().__init__()
        self.projections = nn.ModuleList(ConvNorm(width, dim, 1, act=nn.ReLU()) for width in channels)
        self.context = ImagePool(channels[-1], dim)
        self.modulations = nn.ModuleList(ContextModulation(dim) for _ in channels)
        self.steps = nn.ModuleList(DeformableStep(dim) for _ in channels[1:])
        self.mask_features = ConvNorm(dim, mask_dim, 1, act=nn.ReLU())
        for part in (*self.projections, self.context.proj, self.mask_features):
            assert isinstance(part, ConvNorm)
            nn.init.kaiming_normal_(part.conv.weight, a=1)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        sizes = [(level.shape[1], level.shape[2]) for level in maps]
        doubled = all(fine == (2 * coarse[0], 2 * coarse[1]) for fine, coarse in pairwise(sizes))
        require(doubled, "sizes of maps", sizes, "each twice the next, as of images with sides of multiples of 32")
        weight = self.mask_features.conv.weight
        with torch.autocast(weight.device.type, enabled=False):
            return self._decode([level.to(weight.dtype) for level in maps])

    def _decode(self, maps: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        projected = [project(level) for project, level in zip(self.projections, maps, strict=True)]
        modulated = [modulate(level) for modulate, level in zip(self.modulations, projected[::-1], strict=True)]
        above, levels = self.context(maps[-1]), []
        for step, level in zip(self.steps, modulated[:-1], strict=True):
            seen, above = step(level + above)
            levels.append(seen)
        return self.mask_features(modulated[-1] + above), levels
