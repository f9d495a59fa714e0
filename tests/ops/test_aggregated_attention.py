import pytest
import torch

from ommatid.ops.aggregated_attention import (
    aggregated_attention,
    aggregated_attention_reference,
    window_counts,
)

VERSIONS = [aggregated_attention, aggregated_attention_reference]
HEADS, CHANNELS, POOLED = 2, 3, 4

# (size, window): one tile and many, windows wider than the map, sides that differ.
MAPS = [((3, 3), 3), ((8, 8), 3), ((5, 11), 3), ((1, 2), 5), ((9, 4), 5), ((12, 10), 7), ((2, 6), 1)]


def random_inputs(size, window, dtype=torch.float64, batch=2):
    generator = torch.Generator().manual_seed(sum(size) + window)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    maps = [draw(batch, *size, HEADS, CHANNELS) for _ in range(3)]
    pooled = [draw(batch, POOLED, HEADS, CHANNELS) for _ in range(2)]
    named = {
        "window_bias": draw(HEADS, window**2),
        "pooled_bias": draw(HEADS, size[0] * size[1], POOLED),
        "dynamic": draw(batch, *size, HEADS, window**2),
    }
    return [*maps, *pooled], named


@pytest.mark.parametrize("version", VERSIONS, ids=["fast", "reference"])
@pytest.mark.parametrize(("size", "window"), [((4, 5), 3), ((3, 2), 5)])
def test_follows_the_published_rule(version, size, window):
    inputs, named = random_inputs(size, window, batch=1)
    query, key, value, pooled_key, pooled_value = (x[0] for x in inputs)
    answer = version(*inputs, window_size=window, **named)[0]
    for row in range(size[0]):
        for column in range(size[1]):
            for head in range(HEADS):
                scores, values, extra = [], [], []
                for place in range(window**2):
                    y, x = row + place // window - window // 2, column + place % window - window // 2
                    if 0 <= y < size[0] and 0 <= x < size[1]:
                        product = query[row, column, head] @ key[y, x, head]
                        scores.append(product + named["window_bias"][head, place])
                        values.append(value[y, x, head])
                        extra.append(named["dynamic"][0, row, column, head, place])
                for cell in range(POOLED):
                    product = query[row, column, head] @ pooled_key[cell, head]
                    scores.append(product + named["pooled_bias"][head, row * size[1] + column, cell])
                    values.append(pooled_value[cell, head])
                    extra.append(torch.zeros((), dtype=torch.float64))
                weights = torch.stack(scores).softmax(0) + torch.stack(extra)
                torch.testing.assert_close(answer[row, column, head], weights @ torch.stack(values))


@pytest.mark.parametrize(("size", "window"), MAPS)
def test_fast_and_reference_agree_in_answer_and_gradients(size, window):
    inputs, named = random_inputs(size, window)
    leaves = [x.requires_grad_() for x in (*inputs, *named.values())]
    answers = [version(*inputs, window_size=window, **named) for version in VERSIONS]
    probe = torch.randn(answers[0].shape, dtype=torch.float64)
    gradients = [torch.autograd.grad((answer * probe).sum(), leaves) for answer in answers]
    torch.testing.assert_close(*answers)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, {"rtol": 1e-5, "atol": 1e-5}), (torch.bfloat16, {"rtol": 1e-1, "atol": 1e-1})],
)
def test_lower_precision_stays_close_to_double(dtype, tolerance):
    inputs, named = random_inputs((9, 7), 3, dtype=dtype)
    doubles = {name: x.double() for name, x in named.items()}
    exact = aggregated_attention_reference(*(x.double() for x in inputs), window_size=3, **doubles)
    answer = aggregated_attention(*inputs, window_size=3, **named)
    assert answer.dtype == dtype
    torch.testing.assert_close(answer.double(), exact, **tolerance)


@pytest.mark.parametrize(("size", "window"), MAPS)
def test_windows_are_counted_by_their_tokens_on_the_map(size, window):
    ones = torch.ones(1, 1, *size)
    counted = torch.nn.functional.conv2d(ones, torch.ones(1, 1, window, window), padding=window // 2)
    assert torch.equal(window_counts(size, window, ones.device), counted[0, 0].long())
