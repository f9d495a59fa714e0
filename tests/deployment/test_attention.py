"""Attention as products: the same answers as the fused kernel's, whatever the mask."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.deployment import attention
from ommatid.deployment.attention import OpenAttention, attention_as_products


def mask_of(kind: str) -> Tensor | None:
    if kind == "none":
        return None
    bias = torch.randn(1, 3, 5, 7)
    return bias if kind == "bias" else bias > -1


@pytest.mark.parametrize("kind", ["none", "bias", "bool"])
@pytest.mark.parametrize("scale", [None, 1.0])
def test_the_answers_are_those_of_the_fused_kernel(kind: str, scale: float | None) -> None:
    query, key, value = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 4)
    mask = mask_of(kind)
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    torch.testing.assert_close(attention_as_products(query, key, value, attn_mask=mask, scale=scale), expected)


@pytest.mark.parametrize("causal", [False, True])
def test_what_is_not_plain_stays_with_pytorch(causal: bool) -> None:
    query, key = torch.randn(2, 3, 5, 8), torch.randn(1, 3, 5, 8)  # shared by the batch
    expected = F.scaled_dot_product_attention(query, key, key, is_causal=causal)
    torch.testing.assert_close(attention_as_products(query, key, key, is_causal=causal), expected)


def test_a_model_is_opened_while_it_runs_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    class Attends(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(tokens, tokens, tokens)

    calls = []
    monkeypatch.setattr(
        attention, "attention_as_products", lambda *args, **kwargs: calls.append(1) or attention_as_products(*args)
    )
    tokens = torch.randn(2, 5, 8)
    torch.testing.assert_close(OpenAttention(Attends())(tokens), Attends()(tokens))
    assert calls == [1]
