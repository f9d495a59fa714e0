"""The range of values in which a restoration network sees images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Red, green and blue of the average picture in DIV2K, the training set of most super-resolution networks.
MEAN = (0.4488, 0.4371, 0.4040)


class ImageRange(nn.Module):
    """Images (B, channels, H, W) of values from 0 to 1, and what a network sees of them, (image - mean) * img_range.

    The mean is that of DIV2K's pictures where there are three channels, otherwise 0. From EDSR (arXiv 1707.02921).

    Args:
        channels: of the image.
        img_range: what the difference between black and white becomes.
    """

    def __init__(self, channels: int, img_range: float) -> None:
        super().__init__()
        self.img_range = img_range
        self.mean: Tensor
        mean = torch.tensor(MEAN) if channels == len(MEAN) else torch.zeros(channels)
        self.register_buffer("mean", mean, persistent=False)

    def to_map(self, image: Tensor) -> Tensor:
        """(B, channels, H, W) -> contiguous (B, H, W, channels), centred and scaled."""
        return ((image.permute(0, 2, 3, 1) - self.mean) * self.img_range).contiguous()

    def to_image(self, features: Tensor) -> Tensor:
        """(B, H, W, channels), centred and scaled -> (B, channels, H, W), a view of a channels-last map."""
        return (features / self.img_range + self.mean).permute(0, 3, 1, 2)
