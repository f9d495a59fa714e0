"""One picture through a trained restoration network, whatever its size, depth and channels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from ommatid.data.picture_file import PictureFile
from ommatid.models.config import require
from ommatid.models.restorer import Restorer
from ommatid.tasks.ensemble import self_ensemble
from ommatid.tasks.tiling import Block, restore_in_tiles


@dataclass(frozen=True)
class PictureRestorer:
    """Restores pictures with `model`, which is on `device`; see `ommatid.workflows.restore` for `tile`, `ensemble`.

    Raises ValueError for a model of other than 1 or 3 channels.
    """

    model: Restorer
    device: torch.device
    tile: int
    ensemble: bool = False

    def __post_init__(self) -> None:
        require(self.channels in (1, 3), "in_channels", self.channels, "1 (grey) or 3 (RGB) to restore picture files")

    @property
    def channels(self) -> int:
        return getattr(self.model.config, "in_channels", 3)

    @torch.inference_mode()
    def __call__(self, picture: PictureFile, advance: Callable[[int], None]) -> PictureFile:
        """The restored picture; transparency is not restored but enlarged with the bicubic filter.

        Only the answer in the picture's own 8 or 16 bits is ever whole in memory. `advance` is told of every block how
        many pixels it has.

        Raises:
            ValueError: the model answers with infinities or no numbers, or a tile does not fit the device's memory.
        """
        scale, peak = self.model.scale, np.iinfo(picture.pixels.dtype).max
        height, width, channels = picture.pixels.shape
        pixels = np.empty((scale * height, scale * width, channels), picture.pixels.dtype)
        if channels > picture.colours:
            pixels[..., -1] = _enlarged(picture.pixels[..., -1], scale)

        def read(rows: slice, columns: slice) -> Tensor:
            part = picture.pixels[rows, columns, : picture.colours].astype(np.float32)
            return torch.from_numpy(part / peak).permute(2, 0, 1)

        tile = min(self.tile, self.model.longest or self.tile)
        blocks = restore_in_tiles(
            self._restore, read, (height, width), scale=scale, tile=tile, multiple=self.model.multiple
        )
        for block in blocks:
            _place(block, pixels[..., : picture.colours], peak)
            advance(block.pixels[0].numel())
        return replace(picture, pixels=pixels)

    def _restore(self, tiles: Tensor) -> Tensor:
        """(B, C, h, w) on the CPU -> (B, C, scale h, scale w) on the CPU, C being 1 or 3, whatever the model's is."""
        forward = self_ensemble(self.model) if self.ensemble else self.model
        count, colours = tiles.shape[:2]
        tiles = tiles.to(self.device)
        try:
            if colours == self.channels:
                answer = forward(tiles)
            elif colours == 1:
                answer = forward(tiles.expand(-1, self.channels, -1, -1)).mean(1, keepdim=True)
            else:  # a network for grey pictures restores one colour after the other
                answer = forward(tiles.flatten(0, 1)[:, None]).squeeze(1).unflatten(0, (count, colours))
        except RuntimeError as error:
            if "memory" not in str(error):
                raise
            raise ValueError(
                f"tile = {self.tile} needs more memory than {self.device} has; use a smaller one"
            ) from error
        if not answer.isfinite().all():
            raise ValueError("the model answers with values that are infinite or no numbers")
        return answer.float().cpu()


def _place(block: Block, pixels: np.ndarray, peak: int) -> None:
    """Rounds a block to the picture's depth and puts it where it belongs."""
    part = block.pixels.mul(peak).round_().clamp_(0, peak).permute(1, 2, 0).numpy()
    height, width = part.shape[:2]
    pixels[block.top : block.top + height, block.left : block.left + width] = part


def _enlarged(alpha: np.ndarray, scale: int) -> np.ndarray:
    """(H, W) -> (scale H, scale W) with the bicubic filter."""
    if scale == 1:
        return alpha
    size = scale * alpha.shape[1], scale * alpha.shape[0]
    return cv2.resize(np.ascontiguousarray(alpha), size, interpolation=cv2.INTER_CUBIC)
