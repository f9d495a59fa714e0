"""Attention as two batched products around a softmax: for compilers, where that beats PyTorch's fused kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class OpenAttention(nn.Module):
    """`model`, every `F.scaled_dot_product_attention` in it as products that a compiler sees through.

    On a CPU the fused kernel computes bfloat16 no faster than float32, while products in bfloat16 run at several times
    the speed, and a compiler fuses bias and softmax into one pass between them.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Any:
        with _Opened():
            return self.model(image)


class _Opened(TorchFunctionMode):
    def __torch_function__(
        self, function: Callable[..., Any], types: Sequence[Any], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if function is F.scaled_dot_product_attention:
            return attention_as_products(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def attention_as_products(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """As `F.scaled_dot_product_attention`, which still does what is not plain attention for inference."""
    batch = query.shape[:-2]
    plain = not (dropout_p or is_causal or enable_gqa) and key.shape[:-2] == value.shape[:-2] == batch
    if not plain or not batch:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    left, right, values = (part.flatten(0, -3) for part in (query * scale, key, value))
    scores = torch.bmm(left, right.mT).unflatten(0, batch)
    if attn_mask is not None:
        masked = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -torch.inf) if masked else scores + attn_mask
    return torch.bmm(scores.softmax(-1).flatten(0, -3), values).unflatten(0, batch)
