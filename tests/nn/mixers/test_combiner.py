import pytest
import torch
import torch.nn.functional as F

from ommatid.nn.mixers import combiner_attention
from ommatid.ops.summarized_attention import fixed_attention, logarithmic_attention

DIM, SIZE = 8, (5, 3)
CAUSAL = [
    {"factorization": "fixed", "local_summary": "relu-sum"},
    {"factorization": "axial_rowmajor", "row_summary": "none"},
    {"factorization": "axial_rowmajor", "row_summary": "proj"},
    {"factorization": "axial_mixture", "running_summary": "max"},
    {"factorization": "logarithmic"},
]


@pytest.mark.parametrize("options", CAUSAL, ids=lambda options: "-".join(options.values()))
def test_causal_attention_sees_all_before_and_nothing_after(options: dict) -> None:
    torch.manual_seed(0)
    mixer = combiner_attention(DIM, 2, causal=True, **options).double()
    x = torch.randn(1, *SIZE, DIM, dtype=torch.float64, requires_grad=True)
    for token, mixed in enumerate(mixer(x).flatten(1, 2).unbind(1)):
        (gradient,) = torch.autograd.grad(mixed.sum(), x, retain_graph=True)
        seen = gradient.flatten(1, 2).abs().amax((0, 2)) > 0
        assert seen[: token + 1].all()
        assert not seen[token + 1 :].any()


def test_one_row_alone_is_plain_causal_attention() -> None:
    query, key, value = (torch.randn(2, 2, 1, 9, 4) for _ in range(3))
    mixed = fixed_attention(query, key, value, lambda x: x.amax(-2), causal=True)
    torch.testing.assert_close(mixed, F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=1.0))


@pytest.mark.parametrize("length", [1, 2, 11, 16])
def test_binary_blocks_weigh_every_token_before_once(length: int) -> None:
    query, key = torch.randn(2, 1, 2, length, 4).unbind(0)
    weights = logarithmic_attention(query, key, torch.eye(length).expand(1, 2, length, length))
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 2, length))
    assert not weights.triu(1).any()


def test_a_running_maximum_is_for_causal_mixtures() -> None:
    with pytest.raises(ValueError, match="running_summary = 'max' is not possible: allowed is 'sum'"):
        combiner_attention(DIM, 2, running_summary="max")
