"""The contract of every restoration network: a picture in, a better picture of the same scene out."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from ommatid.models.model import Model


@dataclass(frozen=True)
class Sides:
    """Heights and widths in pixels: multiples of `multiple`, from `shortest` to `longest`, None being any.

    They are twice their multiple at least: an export takes what is there once for a constant.
    """

    multiple: tuple[int, int] = (1, 1)
    shortest: int = 2
    longest: int | None = None

    def counts(self, axis: int) -> tuple[int, int | None]:
        """How many times its multiple a side is, at least and at most."""
        multiple = self.multiple[axis]
        return max(2, -(-self.shortest // multiple)), None if self.longest is None else self.longest // multiple

    def nearest(self, height: int, width: int) -> tuple[int, int]:
        """The sides next to these: rounded up where possible."""
        return self._nearest(0, height), self._nearest(1, width)

    def _nearest(self, axis: int, side: int) -> int:
        least, most = self.counts(axis)
        count = max(least, -(-side // self.multiple[axis]))
        return self.multiple[axis] * (count if most is None else min(count, most))


class Restorer(Model):
    """Base of all restoration networks. A family defines `restore`, and sets `multiple` where sizes are not free.

    Attributes:
        scale: pixels of the answer for each pixel of the picture, along each axis; 1 where the size stays.
        multiple: what height and width are padded to a multiple of before `restore` sees the picture.
        longest: side of the largest picture that it can see at once; None for any.
    """

    scale: int = 1
    multiple: tuple[int, int] = (1, 1)
    longest: int | None = None

    def restore(self, image: Tensor) -> Tensor:
        """(B, in_channels, H, W), H and W multiples of `multiple` -> (B, in_channels, scale H, scale W)."""
        raise NotImplementedError

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, H, W) of any size, values from 0 to 1 -> (B, in_channels, scale H, scale W)."""
        height, width = image.shape[-2:]
        restored = self.restore(mirrored(image, self.multiple))
        return restored[..., : height * self.scale, : width * self.scale]

    def exported_sides(self) -> Sides:
        """The pictures that one exported program serves: those that the network takes the same steps for."""
        return Sides(self.multiple)

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
