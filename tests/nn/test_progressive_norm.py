"""Progressive norm: from layer norm to batch norm, step by step, and to one affine map in the end."""

import torch

from ommatid.nn.progressive_norm import ProgressiveNorm


def norm_of(dim: int, **arguments: int) -> ProgressiveNorm:
    torch.manual_seed(0)
    norm = ProgressiveNorm(dim, **arguments)
    for parameter in norm.parameters():
        torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return norm


def test_weight_of_the_layer_norm_falls_linearly_to_zero() -> None:
    norm, x = norm_of(6, steps=4), torch.randn(3, 5, 6)
    flat = x.flatten(0, 1)
    by_batch = torch.nn.functional.batch_norm(flat, None, None, norm.batch.weight, norm.batch.bias, training=True)
    by_batch = by_batch.view(x.shape) + norm.alpha * x
    for weight in (1, 0.75, 0.5, 0.25, 0, 0):
        torch.testing.assert_close(norm(x), weight * norm.layer(x) + (1 - weight) * by_batch)


def test_warmup_is_layer_norm_and_leaves_the_batch_norm_alone() -> None:
    norm, x = norm_of(6, steps=4, warmup=2), torch.randn(3, 5, 6)
    for _ in range(2):
        torch.testing.assert_close(norm(x), norm.layer(x))
    assert norm.batch.running_mean.eq(0).all()
    assert norm.steps_left == 4
    norm(x)
    assert norm.steps_left == 3
    assert norm.batch.running_mean.ne(0).any()


def test_evaluation_is_the_batch_norm_whatever_is_left() -> None:
    norm, x = norm_of(6, steps=4, warmup=2), torch.randn(3, 5, 6)
    for _ in range(4):
        norm(x)
    counters = (norm.steps_left.item(), norm.warmup_left.item())
    norm.eval()
    expected = norm.batch(x.flatten(0, 1)).view(x.shape) + norm.alpha * x
    torch.testing.assert_close(norm(x), expected)
    assert (norm.steps_left.item(), norm.warmup_left.item()) == counters == (2, 0)


def test_counters_are_part_of_the_state() -> None:
    norm = norm_of(6, steps=4)
    norm(torch.randn(2, 6))
    other = norm_of(6, steps=4)
    other.load_state_dict(norm.state_dict())
    assert other.steps_left == 3
