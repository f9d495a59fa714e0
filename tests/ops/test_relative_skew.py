import pytest
import torch

from ommatid.ops.relative_skew import backward_scores, backward_scores_reference


@pytest.mark.parametrize(("count", "distances"), [(1, 1), (1, 4), (5, 5), (6, 11)])
def test_agrees_with_the_definition(count, distances):
    torch.manual_seed(0)
    found = []
    for scores in (backward_scores, backward_scores_reference):
        torch.manual_seed(0)
        inputs = [torch.randn(2, 3, count, 4, requires_grad=True), torch.randn(distances, 4, requires_grad=True)]
        answer = scores(*inputs)
        found.append((answer, *torch.autograd.grad(answer.square().sum(), inputs)))
    torch.testing.assert_close(*found)


def test_refuses_more_tokens_than_distances():
    with pytest.raises(ValueError, match="allowed is"):
        backward_scores(torch.randn(1, 5, 4), torch.randn(4, 4))
