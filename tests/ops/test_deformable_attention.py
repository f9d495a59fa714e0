"""Deformable attention against PyTorch's grid_sample."""

import torch

from ommatid.ops.deformable_attention import cell_centres, deformable_attention, deformable_attention_reference

SIZES = [(5, 4), (3, 7), (1, 1)]


def test_values_and_gradients_are_those_of_the_reference() -> None:
    torch.manual_seed(0)
    inputs = [
        torch.randn(2, 5 * 4 + 3 * 7 + 1, 3, 8, dtype=torch.float64),
        torch.rand(2, 11, 3, 3, 4, 2, dtype=torch.float64) * 1.6 - 0.3,
        torch.rand(2, 11, 3, 3, 4, dtype=torch.float64),
    ]
    results = []
    for attention in (deformable_attention, deformable_attention_reference):
        values, locations, weights = (value.clone().requires_grad_() for value in inputs)
        output = attention(values, SIZES, locations, weights)
        results.append([output, *torch.autograd.grad(output.sin().sum(), (values, locations, weights))])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


def test_a_cell_that_looks_at_its_own_centre_finds_itself() -> None:
    values = torch.randn(1, 20 + 21, 2, 3)
    own = cell_centres(SIZES[:2])[None, :, None, None, None].expand(1, -1, 2, 2, 1, 2)
    in_first = torch.tensor([1.0, 0.0])[None, None, None, :, None].expand(1, 41, 2, 2, 1)
    found = deformable_attention(values, SIZES[:2], own, in_first).unflatten(-1, (2, 3))
    torch.testing.assert_close(found[:, :20], values[:, :20])
