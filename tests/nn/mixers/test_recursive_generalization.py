"""Recursive generalization attention: how often the map is reduced, and which maps are too narrow for it."""

import pytest
import torch

from ommatid.nn.mixers import RecursiveGeneralizationAttention
from ommatid.nn.mixers.recursive_generalization import recursion_steps, shortest_side


@pytest.mark.parametrize(
    ("side", "training", "after"),
    [(3, 0, 2), (4, 0, 2), (15, 0, 2), (16, 1, 2), (63, 1, 2), (64, 2, 2), (256, 3, 2), (1023, 3, 2), (1024, 4, 3)],
)
def test_the_recursion_goes_deeper_in_larger_maps(side: int, training: int, after: int) -> None:
    assert recursion_steps(side, training=True) == training
    assert recursion_steps(side, training=False) == after


@pytest.mark.parametrize("training", [True, False])
def test_the_shorter_side_must_outlast_the_recursion(training: bool) -> None:
    mixer = RecursiveGeneralizationAttention(8, 2).train(training)
    shortest = shortest_side(70, training=training)
    assert mixer(torch.randn(1, shortest, 70, 8)).shape == (1, shortest, 70, 8)
    with pytest.raises(ValueError, match="allowed is at least 16 a side"):
        mixer(torch.randn(1, 70, shortest - 1, 8))


def test_keys_are_few() -> None:
    mixer = RecursiveGeneralizationAttention(8, 2).eval()
    sizes = []
    mixer.key.register_forward_hook(lambda layer, inputs, output: sizes.append(tuple(output.shape)))
    mixer(torch.randn(1, 50, 64, 8))
    assert sizes == [(1, 3, 4, 4)]
