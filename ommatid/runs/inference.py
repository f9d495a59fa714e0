"""Images through a trained model, for evaluate and predict."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.inference_mode()
def probabilities(model: nn.Module, images: Tensor, device: torch.device) -> Tensor:
    """(B, 3, H, W) -> (B, classes) on the CPU; the model is on `device` already."""
    return model(images.to(device)).float().softmax(-1).cpu()
