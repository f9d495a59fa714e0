"""How connectivity predictors learn which pairs matter: by making the dense attention again from little.

"Sparsifiner: Learning Sparse Instance-Dependent Attention for Efficient Vision Transformers" (arXiv 2303.13755).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ommatid.methods.reduced import Reduced
from ommatid.models.backbones.sparsifiner import reconstruction_loss
from ommatid.nn.sparse_attention import SparseAttention


def train_predictors(
    model: Reduced, batches: Callable[[], Iterable[tuple[Tensor, Tensor]]], *, epochs: int = 1, lr: float = 1e-3
) -> Reduced:
    """Teaches all predictors at once, with everything else as it is; the model itself, again.

    Every layer's teacher is its own dense attention. Fine-tuning the model afterwards is plain training.

    Args:
        model: what `sparsify_attention` gave.
        batches: gives images, and labels that are not read, once for each epoch.
        epochs, lr: AdamW.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, SparseAttention)]
    parameters = [parameter for layer in layers for parameter in layer.predictor.requires_grad_(True).parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=lr)
    read: dict[SparseAttention, Tensor] = {}
    hooks = [layer.register_forward_pre_hook(lambda layer, inputs: read.update({layer: inputs[0]})) for layer in layers]
    was_training, modes = model.training, [layer.mode for layer in layers]
    model.eval()
    for layer in layers:
        layer.mode = "reconstruct"
    for _ in range(epochs):
        for images, _labels in batches():
            with torch.no_grad():
                model(images)
            loss = torch.stack([_error(layer, read[layer]) for layer in layers]).mean() / len(images)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for hook in hooks:
        hook.remove()
    for layer, mode in zip(layers, modes, strict=True):
        layer.mode = mode
        layer.predictor.requires_grad_(False)
    return model.train(was_training)


def _error(layer: SparseAttention, tokens: Tensor) -> Tensor:
    """How far the prediction is from the layer's own attention, for the tokens (B, N, C) that it read."""
    with torch.no_grad():
        query, key, _ = layer.qkv(tokens).unflatten(-1, (3, layer.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        attention = (query @ key.mT * query.shape[-1] ** -0.5).softmax(-1)
    approximation = layer.predictor(query, key, "reconstruct").approximation
    return reconstruction_loss(approximation[None], attention[None])
