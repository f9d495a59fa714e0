import pytest
import torch

from ommatid.ops.super_tokens import (
    sample_super_tokens,
    sample_super_tokens_reference,
    spread,
    spread_reference,
)

VERSIONS = {"fast": (sample_super_tokens, spread), "reference": (sample_super_tokens_reference, spread_reference)}
GRIDS = [(1, 1), (1, 4), (2, 2), (3, 5), (6, 4)]


def random_cells(grid, dtype=torch.float64):
    generator = torch.Generator().manual_seed(sum(grid))
    return torch.randn(2, *grid, 4, 6, generator=generator, dtype=dtype)


def round_trip(version, cells, iterations):
    """Super tokens, and what pixels get back of their squares."""
    sample, give_back = VERSIONS[version]
    super_tokens, shares = sample(cells, iterations)
    return super_tokens, give_back(shares, super_tokens.square())


@pytest.mark.parametrize("version", VERSIONS)
def test_one_iteration_follows_the_published_rule(version):
    cells = random_cells((2, 3))[:1]
    super_tokens, _ = round_trip(version, cells, 1)
    means = cells[0].mean(2)
    sums, weights = torch.zeros(2, 3, 6, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.float64)
    for row in range(2):
        for column in range(3):
            for pixel in cells[0, row, column]:
                slots = [(row + a, column + b) for a in (-1, 0, 1) for b in (-1, 0, 1)]
                inside = [0 <= y < 2 and 0 <= x < 3 for y, x in slots]
                zero = torch.zeros((), dtype=torch.float64)
                scores = [
                    pixel @ means[slot] / 6**0.5 if known else zero for slot, known in zip(slots, inside, strict=True)
                ]
                for slot, known, share in zip(slots, inside, torch.stack(scores).softmax(0), strict=True):
                    if known:
                        sums[slot] += share * pixel
                        weights[slot] += share
    torch.testing.assert_close(super_tokens[0], sums / weights[..., None])


@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("grid", GRIDS)
def test_fast_and_reference_agree_in_answer_and_gradients(grid, iterations):
    answers, gradients = [], []
    for version in VERSIONS:
        cells = random_cells(grid).requires_grad_()
        answers.append(round_trip(version, cells, iterations))
        gradients.append(torch.autograd.grad(answers[-1][1].square().sum(), cells))
    torch.testing.assert_close(*answers)
    torch.testing.assert_close(*gradients)


def test_shares_are_constants_for_the_gradient():
    cells = random_cells((3, 3)).requires_grad_()
    _, shares = sample_super_tokens(cells, 2)
    assert not shares.requires_grad


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, {"rtol": 1e-5, "atol": 1e-5}), (torch.bfloat16, {"rtol": 5e-2, "atol": 5e-2})],
)
def test_lower_precision_stays_close_to_double(dtype, tolerance):
    cells = random_cells((3, 5), dtype=dtype)
    exact = round_trip("reference", cells.double(), 2)
    answer = round_trip("fast", cells, 2)
    assert all(part.dtype == dtype for part in answer)
    torch.testing.assert_close([part.double() for part in answer], list(exact), **tolerance)


@pytest.mark.parametrize("version", VERSIONS)
def test_no_iterations_are_refused(version):
    with pytest.raises(ValueError, match="iterations = 0 is not possible: allowed is 1 or more"):
        round_trip(version, random_cells((2, 2)), 0)
