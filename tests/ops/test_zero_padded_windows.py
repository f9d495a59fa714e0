"""Windows over the border, against the unfolding that copies every one of them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ommatid.ops.zero_padded_windows import window_padding, window_scores, window_sums


def unfolded(features: Tensor, kernel_size: tuple[int, int], dilation: int) -> Tensor:
    """(B, H, W, C) -> (B, H, W, K L, C)."""
    padding = window_padding(kernel_size, dilation)
    columns = F.unfold(features.permute(0, 3, 1, 2), kernel_size, dilation=dilation, padding=padding)
    return columns.view(len(features), features.shape[3], -1, *features.shape[1:3]).permute(0, 3, 4, 2, 1)


@pytest.mark.parametrize(("kernel_size", "dilation"), [((3, 3), 1), ((1, 5), 2), ((5, 3), 3), ((2, 4), 2)])
def test_scores_and_sums_are_those_of_unfolded_windows(kernel_size: tuple[int, int], dilation: int) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 7, 4, 6, dtype=torch.double, requires_grad=True) for _ in range(3))
    scores = window_scores(query, key, kernel_size=kernel_size, dilation=dilation)
    sums = window_sums(scores, value, kernel_size=kernel_size, dilation=dilation)
    plain_scores = (unfolded(key, kernel_size, dilation) @ query[..., None]).squeeze(-1)
    plain_sums = (plain_scores[..., None, :] @ unfolded(value, kernel_size, dilation)).squeeze(-2)
    torch.testing.assert_close(scores, plain_scores)
    torch.testing.assert_close(sums, plain_sums)
    probe = torch.randn_like(sums)
    mine, theirs = (torch.autograd.grad((out * probe).sum(), (query, key, value)) for out in (sums, plain_sums))
    torch.testing.assert_close(mine, theirs)


def test_windows_without_a_centre_are_refused() -> None:
    with pytest.raises(ValueError, match="kernel_size = \\(3, 4\\) with dilation 1"):
        window_padding((3, 4), 1)
