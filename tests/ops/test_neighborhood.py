import math

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from ommatid.ops import tiles
from ommatid.ops.neighborhood import (
    neighborhood_attention_1d,
    neighborhood_attention_1d_reference,
    neighborhood_attention_2d,
    neighborhood_attention_2d_reference,
)

HEADS, CHANNELS = 2, 4

# (size, kernel size, dilation): one tile and many, uneven residue classes, borders that overlap, axes that differ.
SEQUENCES = [
    ((7,), 7, 1),
    ((8,), 7, 1),
    ((40,), 7, 1),
    ((53,), 5, 3),
    ((100,), 3, 4),
    ((33,), 11, 3),
    ((67,), 3, 2),
    ((9,), 1, 2),
]
MAPS = [
    ((7, 7), 7, 1),
    ((8, 11), 7, 1),
    ((9, 9), 3, 3),
    ((13, 17), 5, 2),
    ((17, 13), 5, 1),
    ((20, 23), 7, 1),
    ((16, 29), 7, 2),
    ((27, 26), 3, 5),
    ((24, 13), 11, 1),
    ((11, 19), (3, 7), (2, 1)),
    ((12, 35), (1, 5), (3, 2)),
    ((35, 12), (5, 1), 2),
    ((6, 5), 1, 1),
]
CASES = [(1, *case) for case in SEQUENCES] + [(2, *case) for case in MAPS]
FAST = {1: neighborhood_attention_1d, 2: neighborhood_attention_2d}
REFERENCE = {1: neighborhood_attention_1d_reference, 2: neighborhood_attention_2d_reference}


def per_axis(number, axes):
    return number if isinstance(number, tuple) else (number,) * axes


def random_inputs(size, kernel_size, dtype=torch.float64, batch=2) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(sum(size))
    tokens = [torch.randn(batch, *size, HEADS, CHANNELS, generator=generator, dtype=dtype) for _ in range(3)]
    sides = [2 * kernel - 1 for kernel in per_axis(kernel_size, len(size))]
    return *tokens, torch.randn(HEADS, *sides, generator=generator, dtype=dtype)


def window(position: int, length: int, kernel: int, dilation: int) -> list[tuple[int, int]]:
    """(key position, bias index) of every neighbour, by the published rule, in integers."""
    residue = position % dilation
    rank = position // dilation
    group = len([other for other in range(length) if other % dilation == residue])
    start = min(max(rank - kernel // 2, 0), group - kernel)
    return [((start + a) * dilation + residue, start + a - rank + kernel - 1) for a in range(kernel)]


def brute_force_2d(query, key, value, bias, kernels, dilations) -> Tensor:
    batch, height, width, heads, channels = query.shape
    output = torch.zeros_like(query)
    for b in range(batch):
        for i in range(height):
            for j in range(width):
                for m in range(heads):
                    logits, values = [], []
                    for row, u in window(i, height, kernels[0], dilations[0]):
                        for column, v in window(j, width, kernels[1], dilations[1]):
                            product = torch.dot(query[b, i, j, m], key[b, row, column, m]) / math.sqrt(channels)
                            logits.append(product + bias[m, u, v])
                            values.append(value[b, row, column, m])
                    output[b, i, j, m] = torch.stack(logits).softmax(0) @ torch.stack(values)
    return output


@pytest.mark.parametrize("versions", [FAST, REFERENCE], ids=["fast", "reference"])
@pytest.mark.parametrize(
    ("size", "kernels", "dilations"),
    [((5, 6), (3, 3), (1, 1)), ((7, 9), (3, 3), (2, 3)), ((9, 6), (5, 3), (1, 2)), ((11, 5), (5, 5), (2, 1))],
)
def test_2d_follows_the_published_window_rule(versions, size, kernels, dilations):
    query, key, value, bias = random_inputs(size, kernels, batch=1)
    answer = versions[2](query, key, value, kernel_size=kernels, dilation=dilations, bias=bias)
    torch.testing.assert_close(answer, brute_force_2d(query, key, value, bias, kernels, dilations))


@pytest.mark.parametrize("versions", [FAST, REFERENCE], ids=["fast", "reference"])
@pytest.mark.parametrize(("length", "kernel", "dilation"), [(7, 3, 1), (11, 3, 3), (21, 5, 2), (40, 7, 1)])
def test_1d_follows_the_published_window_rule(versions, length, kernel, dilation):
    query, key, value, bias = random_inputs((length,), kernel, batch=1)
    answer = versions[1](query, key, value, kernel_size=kernel, dilation=dilation, bias=bias)
    one_row = (x[:, None] for x in (query, key, value, bias))
    torch.testing.assert_close(answer, brute_force_2d(*one_row, (1, kernel), (1, dilation))[:, 0])


@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize(("axes", "size", "kernel_size", "dilation"), CASES)
def test_fast_and_reference_agree_in_answer_and_gradients(axes, size, kernel_size, dilation, with_bias):
    query, key, value, bias = (x.requires_grad_() for x in random_inputs(size, kernel_size))
    inputs = (query, key, value, bias) if with_bias else (query, key, value)
    options = {"kernel_size": kernel_size, "dilation": dilation, "bias": bias if with_bias else None}
    probe = torch.randn(query.shape, generator=torch.Generator().manual_seed(1), dtype=query.dtype)

    answers, gradients = [], []
    for versions in (FAST, REFERENCE):
        answers.append(versions[axes](query, key, value, **options))
        gradients.append(torch.autograd.grad((answers[-1] * probe).sum(), inputs))

    torch.testing.assert_close(*answers)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, {"rtol": 1e-5, "atol": 1e-5}), (torch.bfloat16, {"rtol": 2e-2, "atol": 2e-2})],
)
@pytest.mark.parametrize("train", [False, True], ids=["inference", "training"])
def test_lower_precision_stays_close_to_double(dtype, tolerance, train):
    inputs = random_inputs((13, 17), 5, dtype=dtype)
    exact = neighborhood_attention_2d_reference(
        *(x.double() for x in inputs[:3]), kernel_size=5, dilation=2, bias=inputs[3].double()
    )
    query, key, value, bias = (x.requires_grad_(train) for x in inputs)
    answer = neighborhood_attention_2d(query, key, value, kernel_size=5, dilation=2, bias=bias)
    assert answer.dtype == dtype
    torch.testing.assert_close(answer.double(), exact, **tolerance)


def test_gradients_match_finite_differences():
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, 7, 6, 1, 2)] * 3 + [(1, 5, 5)]
    inputs = [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]

    def attend(query, key, value, bias):
        return neighborhood_attention_2d(query, key, value, kernel_size=3, dilation=(1, 2), bias=bias)

    assert torch.autograd.gradcheck(attend, inputs)


@pytest.mark.parametrize("axes", [1, 2])
def test_scale_multiplies_the_logits_but_not_the_bias(axes):
    query, key, value, bias = random_inputs((10, 9)[:axes], 3)
    scaled = FAST[axes](query, key, value, kernel_size=3, bias=bias, scale=0.3)
    by_hand = REFERENCE[axes](0.3 * query, key, value, kernel_size=3, bias=bias, scale=1.0)
    torch.testing.assert_close(scaled, by_hand)


@pytest.mark.parametrize("axes", [1, 2])
def test_every_image_of_a_batch_is_answered_alone(axes):
    query, key, value, bias = random_inputs((19, 11)[:axes], 3, batch=3)
    together = FAST[axes](query, key, value, kernel_size=3, bias=bias)
    alone = [FAST[axes](query[[b]], key[[b]], value[[b]], kernel_size=3, bias=bias) for b in range(3)]
    torch.testing.assert_close(together, torch.cat(alone))
    assert FAST[axes](query[:0], key[:0], value[:0], kernel_size=3, bias=bias).shape == query[:0].shape


class Attend(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bias = torch.nn.Parameter(torch.randn(HEADS, 9, 9))

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return neighborhood_attention_2d(query, key, value, kernel_size=5, dilation=2, bias=self.bias)


def test_export_agrees_and_leaves_nothing_fake_behind():
    tiles.map_tiles.cache_clear()
    module = Attend().eval()
    inputs = random_inputs((13, 17), 5, dtype=torch.float32)[:3]
    exported = torch.export.export(module, inputs).module()
    torch.testing.assert_close(exported(*inputs), module(*inputs))


def test_fake_and_meta_tensors_give_shapes():
    tiles.map_tiles.cache_clear()
    with FakeTensorMode():
        tokens = torch.randn(2, 13, 17, HEADS, CHANNELS)
        assert neighborhood_attention_2d(tokens, tokens, tokens, kernel_size=5).shape == tokens.shape
    tokens = torch.randn(2, 13, 17, HEADS, CHANNELS, device="meta")
    assert neighborhood_attention_2d(tokens, tokens, tokens, kernel_size=5).shape == tokens.shape
    real = random_inputs((13, 17), 5)[:3]
    torch.testing.assert_close(
        neighborhood_attention_2d(*real, kernel_size=5), neighborhood_attention_2d_reference(*real, kernel_size=5)
    )


def test_bfloat16_autocast_trains_the_bias():
    module = Attend()
    inputs = random_inputs((13, 17), 5, dtype=torch.float32)[:3]
    exact = module(*inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        answer = module(*inputs)
    torch.testing.assert_close(answer.float(), exact, rtol=5e-2, atol=5e-2)
    answer.float().square().sum().backward()
    assert module.bias.grad is not None
    assert module.bias.grad.isfinite().all()
    assert module.bias.grad.abs().sum() > 0


@pytest.mark.parametrize("versions", [FAST, REFERENCE], ids=["fast", "reference"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_size": 4}, "kernel_size must be odd and positive, got 4"),
        ({"kernel_size": -1}, "kernel_size must be odd and positive, got -1"),
        ({"kernel_size": (3, 3, 3)}, "kernel_size must be an integer or a sequence of 2 integers"),
        ({"kernel_size": 3.0}, "kernel_size must be an integer or a sequence of 2 integers, got 3.0"),
        ({"kernel_size": 3, "dilation": 0}, "dilation must be at least 1, got 0"),
        (
            {"kernel_size": 5, "dilation": (1, 2)},
            r"width 9 is smaller than kernel_size \* dilation = 5 \* 2: pad the width by 1",
        ),
        (
            {"kernel_size": 3, "bias": torch.zeros(HEADS, 3, 3)},
            r"bias must have the shape .*\(2, 5, 5\), got \(2, 3, 3\)",
        ),
    ],
)
def test_impossible_options_are_refused(versions, options, message):
    query, key, value, _ = random_inputs((8, 9), 3)
    with pytest.raises(ValueError, match=message):
        versions[2](query, key, value, **options)


@pytest.mark.parametrize("axes", [1, 2])
def test_inputs_that_do_not_fit_together_are_refused(axes):
    query, key, value, _ = random_inputs((8, 9)[:axes], 3)
    with pytest.raises(ValueError, match="query, key and value must share one shape"):
        FAST[axes](query, key[:, 1:], value, kernel_size=3)
    with pytest.raises(ValueError, match="query, key and value must share one shape"):
        FAST[axes](query[0], key[0], value[0], kernel_size=3)
