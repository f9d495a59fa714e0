"""What makes every layer of a decoder able to answer: the sum of the losses of all of them.

"You Need Multiple Exiting: Dynamic Early Exiting for Accelerating Unified Vision Language Model" (arXiv 2211.11152).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class TaskLoss(NamedTuple):
    """loss and nll: sums over layers and tokens, with and without label smoothing. tokens: counted in one layer."""

    loss: Tensor
    nll: Tensor
    tokens: int


def layer_wise_loss(
    layer_logits: Tensor, target: Tensor, *, label_smoothing: float = 0.0, pad: int = -1, drop_worst_ratio: float = 0.0
) -> TaskLoss:
    """Label-smoothed cross entropy of the answers of all layers.

    Args:
        layer_logits: (L, ..., V), of the shared output layer behind each of L layers.
        target: (...), of which those equal to `pad` do not count.
        label_smoothing: e; every other one of the V words gets e / (V - 1).
        drop_worst_ratio: share of the tokens with the largest losses that each layer is spared.
    """
    counted = target != pad
    log_probabilities = layer_logits[:, counted].log_softmax(-1)
    nll = -log_probabilities.gather(-1, target[counted].expand(len(layer_logits), -1)[..., None])[..., 0]
    share = label_smoothing / (layer_logits.shape[-1] - 1)
    losses = (1 - label_smoothing - share) * nll - share * log_probabilities.sum(-1)
    kept = int(losses.shape[1] * (1 - drop_worst_ratio))
    if drop_worst_ratio > 0:
        losses, easiest = torch.topk(losses, kept, largest=False)
        nll = nll.gather(1, easiest)
    return TaskLoss(losses.sum(), nll.sum(), kept)
