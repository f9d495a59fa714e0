"""Each image is convolved by the expert of its pathway, however the images are grouped."""

from __future__ import annotations

import pytest
import torch

from ommatid.nn.mixture_conv import MixtureConv2d, best_pathway


@pytest.mark.parametrize("chosen", [[0, 1, 2, 1, 1], [2, 2, 2], [1], [0, 2, 2, 0]])
def test_each_image_has_its_own_expert(chosen: list[int]) -> None:
    torch.manual_seed(0)
    conv, features = MixtureConv2d(3, 4, 3, experts=3, padding=1), torch.randn(len(chosen), 6, 5, 3)
    scores = torch.nn.functional.one_hot(torch.tensor(chosen), 3).float().requires_grad_()
    answers = conv(features, best_pathway(scores))
    every = conv(features).unflatten(-1, (3, 4))
    expected = torch.stack([every[index, :, :, expert] for index, expert in enumerate(chosen)])
    torch.testing.assert_close(answers, expected)
    probe = torch.randn_like(answers)
    gradients = torch.autograd.grad((answers * probe).sum(), [scores, conv.weight], retain_graph=True)
    kept = (expected * probe).sum((1, 2, 3))
    torch.testing.assert_close(
        gradients[0], torch.zeros_like(scores).scatter(1, torch.tensor(chosen)[:, None], kept[:, None])
    )
    torch.testing.assert_close(gradients[1], torch.autograd.grad((expected * probe).sum(), conv.weight)[0])


def test_permuting_experts_with_their_scores_changes_nothing() -> None:
    torch.manual_seed(0)
    conv, features, scores = MixtureConv2d(3, 4, 3, experts=3), torch.randn(5, 6, 5, 3), torch.randn(5, 3)
    expected, order = conv(features, best_pathway(scores)), torch.tensor([2, 0, 1])
    conv.weight.data = conv.weight.unflatten(0, (3, 4))[order].flatten(0, 1)
    torch.testing.assert_close(conv(features, best_pathway(scores[:, order])), expected)


def test_a_single_expert_is_a_plain_convolution_on_any_pathway() -> None:
    torch.manual_seed(0)
    conv, features = MixtureConv2d(3, 4, 3, experts=1), torch.randn(4, 6, 5, 3)
    torch.testing.assert_close(conv(features, best_pathway(torch.randn(4, 3))), conv(features))
