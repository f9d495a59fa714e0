"""Any token mixer, inside windows or on grids."""

from __future__ import annotations

from torch import Tensor, nn

from ommatid.ops.windows import merge, pad_to_multiple, partition


class Windowed(nn.Module):
    """Applies a token mixer to each window as if it were a map of its own: (B, H, W, C) -> (B, H, W, C).

    What Swin Transformer (arXiv 2103.14030) does with attention. Maps that are no multiple of the window are
    zero-padded at the bottom and right; nothing masks the padding. Cost: that of the mixer on every window.

    Args:
        mixer: (B, rows, columns, C) -> (B, rows, columns, C).
        window: rows and columns of a window.
        shift: of the windows against the map's corner, in tokens; those at the end hold what was cut off at the start.
    """

    def __init__(self, mixer: nn.Module, window: tuple[int, int], *, shift: int = 0) -> None:
        super().__init__()
        self.mixer = mixer
        self.window = window
        self.shift = shift

    def forward(self, x: Tensor) -> Tensor:
        padded = pad_to_multiple(x, self.window)
        shifted = padded.roll((-self.shift, -self.shift), (1, 2)) if self.shift else padded
        mixed = mixed_in_windows(self.mixer, shifted, self.window)
        restored = mixed.roll((self.shift, self.shift), (1, 2)) if self.shift else mixed
        return restored[:, : x.shape[1], : x.shape[2]]


class Gridded(nn.Module):
    """Applies a token mixer to grids of tokens spread evenly over the map: (B, H, W, C) -> (B, H, W, C).

    The grid attention of MaxViT (arXiv 2204.01697). However large the map, every grid spans it: neighbours in a grid
    are H / rows and W / columns tokens apart. Padding as in `Windowed`. Cost: that of the mixer on every grid.

    Args:
        mixer: (B, rows, columns, C) -> (B, rows, columns, C).
        grid: rows and columns of a grid.
    """

    def __init__(self, mixer: nn.Module, grid: tuple[int, int]) -> None:
        super().__init__()
        self.mixer = mixer
        self.grid = grid

    def forward(self, x: Tensor) -> Tensor:
        padded = pad_to_multiple(x, self.grid)
        interval = (padded.shape[1] // self.grid[0], padded.shape[2] // self.grid[1])
        return mixed_in_windows(self.mixer, padded, self.grid, interval)[:, : x.shape[1], : x.shape[2]]


def mixed_in_windows(
    mixer: nn.Module, features: Tensor, window: tuple[int, int], interval: int | tuple[int, int] = 1
) -> Tensor:
    """A map (B, H, W, C) whose windows each went through the mixer; arguments as in `partition`."""
    if features.shape[1:3] == window:
        return mixer(features)
    windows = partition(features, window, interval).flatten(0, 1).unflatten(1, window)
    mixed = mixer(windows).flatten(1, 2).unflatten(0, (features.shape[0], -1))
    return merge(mixed, window, (features.shape[1], features.shape[2]), interval)
