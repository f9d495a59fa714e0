"""Any token mixer, inside windows."""

from __future__ import annotations

from torch import Tensor, nn

from ommatid.ops.windows import merge, pad_to_multiple, partition


class Windowed(nn.Module):
    """Applies a token mixer to each window as if it were a map of its own: (B, H, W, C) -> (B, H, W, C).

    Maps that are no multiple of the window are zero-padded at the bottom and right; nothing masks the padding.
    Cost: that of the mixer on every window.

    Args:
        mixer: (B, rows, columns, C) -> (B, rows, columns, C).
        window: rows and columns of a window.
    """

    def __init__(self, mixer: nn.Module, window: tuple[int, int]) -> None:
        super().__init__()
        self.mixer = mixer
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        padded = pad_to_multiple(x, self.window)
        windows = partition(padded, self.window).flatten(0, 1).unflatten(1, self.window)
        mixed = self.mixer(windows).flatten(1, 2).unflatten(0, (batch, -1))
        return merge(mixed, self.window, (padded.shape[1], padded.shape[2]))[:, :height, :width]
