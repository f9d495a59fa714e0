"""The merged convolution does what its branches did together."""

import pytest
import torch
from torch import nn

from ommatid.nn.deploy import deployed_copy
from ommatid.nn.reparam import ReparamConv, depthwise_residual


@pytest.mark.parametrize("identity", [False, True])
@pytest.mark.parametrize("branches", [[(3, 1)], [(3, 1), (1, 1)], [(13, 1), (5, 1), (7, 2), (3, 5)]])
def test_merging_keeps_the_function_up_to_the_border(branches: list[tuple[int, int]], identity: bool) -> None:
    torch.manual_seed(0)
    conv = ReparamConv(6, branches, identity=identity)
    for parameter in conv.parameters():
        nn.init.normal_(parameter)
    features = torch.randn(4, 9, 7, 6)
    conv(features)  # running statistics other than the initial ones
    merged = deployed_copy(conv)
    assert sum(parameter.numel() for parameter in merged.parameters()) == 6 * (branches[0][0] ** 2 + 1)
    torch.testing.assert_close(merged(features), conv.eval()(features), rtol=1e-4, atol=1e-4)


def test_a_residual_of_scale_zero_starts_as_the_identity() -> None:
    features = torch.randn(2, 5, 5, 4)
    assert torch.equal(depthwise_residual(4, scale=0.0)(features), features)
