"""A picture with its patches as a model took them: groups of one colour with an outline."""

from __future__ import annotations

import numpy as np
from PIL import Image

OUTLINE = 90


def grouped_picture(image: Image.Image, groups: np.ndarray, side: int = 160) -> Image.Image:
    """The image, its longer side about `side` pixels, each group filled with its mean colour and outlined.

    Args:
        image: RGB, of the aspect that the model saw.
        groups: (h, w) integers; -1 is black.
    """
    rows, columns = groups.shape
    cell = max(2, side // max(rows, columns))
    pixels = np.asarray(image.convert("RGB").resize((columns * cell, rows * cell)), dtype=np.float32)
    labels = groups.repeat(cell, 0).repeat(cell, 1)
    distinct, inverse = np.unique(labels, return_inverse=True)
    inverse = inverse.reshape(labels.shape)
    counts = np.bincount(inverse.ravel())
    means = np.stack([np.bincount(inverse.ravel(), pixels[..., c].ravel()) / counts for c in range(3)], axis=-1)
    means[distinct == -1] = 0
    filled = means[inverse]
    edge = np.zeros(labels.shape, dtype=bool)
    edge[1:] |= labels[1:] != labels[:-1]
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    filled[edge] = OUTLINE
    return Image.fromarray(filled.round().clip(0, 255).astype(np.uint8))
