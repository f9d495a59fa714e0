"""The contract of every restoration network: a picture in, a better picture of the same scene out."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ommatid.models.model import Model


class Restorer(Model):
    """Base of all restoration networks. A family defines `restore`, and sets `multiple` where sizes are not free.

    Attributes:
        scale: pixels of the answer for each pixel of the picture, along each axis; 1 where the size stays.
        multiple: what height and width are padded to a multiple of before `restore` sees the picture.
    """

    scale: int = 1
    multiple: tuple[int, int] = (1, 1)

    def restore(self, image: Tensor) -> Tensor:
        """(B, in_channels, H, W), H and W multiples of `multiple` -> (B, in_channels, scale H, scale W)."""
        raise NotImplementedError

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, H, W) of any size, values from 0 to 1 -> (B, in_channels, scale H, scale W)."""
        height, width = image.shape[-2:]
        restored = self.restore(mirrored(image, self.multiple))
        return restored[..., : height * self.scale, : width * self.scale]

    def restorations(self, image: Tensor) -> list[Tensor]:
        """As `forward`, with all answers that training compares with the clean picture: the answer itself, then drafts.

        A draft may be smaller by a power of two n: (B, in_channels, H / n, W / n), rounded down and at least 1. Its
        pixel (y, x) stands for pixel (n y + n / 2, n x + n / 2) of the answer.
        """
        return [self(image)]


def mirrored(image: Tensor, multiple: tuple[int, int]) -> Tensor:
    """(B, C, H, W) -> continued right and below up to the next multiples: mirrored, or repeated where small."""
    height, width = image.shape[-2:]
    below, right = -height % multiple[0], -width % multiple[1]
    if not (below or right):
        return image
    mode = "reflect" if below < height and right < width else "replicate"
    return F.pad(image, (0, right, 0, below), mode=mode)
