import pytest
import torch

from ommatid.ops.softplus_attention import sharpened, softplus_attention_weights, visible_keys


def random_heads(tokens=9, dtype=torch.float64):
    generator = torch.Generator().manual_seed(tokens)
    return [torch.randn(2, tokens, 3, 8, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2)]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length_scale", [False, True])
@pytest.mark.parametrize(("power", "offset"), [(1, 0.5), (3, 1.0), (15, 1.0), (200, 0.0)])
def test_rows_sum_to_one_and_gradients_are_finite(causal, length_scale, power, offset):
    query, key = (part.float().requires_grad_() for part in random_heads())
    weights = softplus_attention_weights(query, key, causal=causal, length_scale=length_scale)
    sharp = sharpened(weights, visible_keys(query, key, causal=causal), power=power, offset=offset)
    torch.testing.assert_close(sharp.sum(-1), torch.ones(2, 3, 9))
    assert not causal or not sharp.triu(1).any()
    gradients = torch.autograd.grad(sharp.square().sum(), [query, key])
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_power_one_without_offset_changes_nothing():
    query, key = random_heads()
    weights = softplus_attention_weights(query, key)
    torch.testing.assert_close(sharpened(weights, visible_keys(query, key, causal=False), power=1, offset=0.0), weights)


def test_later_keys_change_nothing():
    query, key = random_heads()
    weights = softplus_attention_weights(query, key, causal=True)
    fewer = softplus_attention_weights(query[:, :5], key[:, :5], causal=True)
    torch.testing.assert_close(weights[:, :, :5, :5], fewer)


def test_row_of_which_nothing_is_left_stays():
    weights = torch.tensor([[[[1.0, 0.0], [0.5, 0.5]]]], requires_grad=True)
    kept = sharpened(weights, torch.tensor([1.0, 2.0]), power=3)
    assert torch.equal(kept, weights)
    assert torch.isfinite(torch.autograd.grad(kept.square().sum(), weights)[0]).all()


def test_lower_precision_stays_close():
    exact = softplus_attention_weights(*random_heads(), causal=True)
    lower = softplus_attention_weights(*random_heads(dtype=torch.bfloat16), causal=True)
    assert lower.dtype == torch.float32
    assert (lower - exact).abs().max() <= 0.05


def test_refuses_to_align_different_numbers():
    query, key = random_heads()
    with pytest.raises(ValueError, match="allowed is"):
        softplus_attention_weights(query, key[:, :4], causal=True)
