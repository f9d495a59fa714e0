import pytest
import torch

from ommatid.nn.mixers.global_conv import GlobalConv, MultiScaleKernel

DIM, LENGTH = 3, 21


def made(mode: str, count: int, **options) -> MultiScaleKernel:
    torch.manual_seed(0)
    return MultiScaleKernel(count, DIM, 4, 3, decay=(1.0, 2.0), mode=mode, **options)


@pytest.mark.parametrize("length", [5, LENGTH])
def test_both_ways_is_a_sum_over_earlier_and_one_over_later_tokens(length: int) -> None:
    conv = GlobalConv(DIM, made("cat_randn", 4), bidirectional=True)
    tokens = torch.randn(2, length, DIM)
    earlier, later = conv.kernel(length).chunk(2)
    expected = conv.skip * tokens.unsqueeze(2)
    for at in range(length):
        for other in range(length):
            gain = earlier[..., at - other] if other <= at else later[..., other - at - 1]
            expected[:, at] += gain * tokens[:, other, None]
    torch.testing.assert_close(conv(tokens), expected.flatten(2), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("mode", ["cat_nearest_randn", "sum_cos", "cat_learnable_fixed", "sum_cat_learnable"])
def test_kernels_are_normed_as_a_whole_and_zero_beyond(mode: str) -> None:
    kernel = made(mode, 2, init_scale=1)
    whole = kernel(40)
    torch.testing.assert_close(whole.norm(dim=-1), torch.ones(2, DIM))
    assert not whole[..., 4 * 2**3 :].any()
    torch.testing.assert_close(kernel(7), whole[..., :7])


def test_pieces_that_repeat_their_numbers_follow_each_other() -> None:
    kernel = made("cat_nearest", 1)
    ones = torch.ones_like(kernel.pieces)
    factors = torch.linspace(1, 2, DIM)[:, None] ** torch.tensor([2.0] * 4 + [1.0] * 4 + [0.0] * 8)
    torch.testing.assert_close(kernel.whole(ones, None)[0], factors)
