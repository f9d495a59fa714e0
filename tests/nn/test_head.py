"""Normed heads, alone and in pairs."""

import torch
from torch import nn

from ommatid.nn.deploy import deployed_copy
from ommatid.nn.head import NormHead, norm_classifier


def test_folding_makes_one_linear_layer_of_norms_and_heads() -> None:
    torch.manual_seed(0)
    head = NormHead(6, 3, distillation=True)
    for parameter in head.parameters():
        nn.init.normal_(parameter)
    pooled = torch.randn(8, 6)
    head(pooled)  # running statistics other than the initial ones
    deployed = deployed_copy(head)
    assert sum(parameter.numel() for parameter in deployed.parameters()) == 6 * 3 + 3
    torch.testing.assert_close(deployed(pooled), head.eval()(pooled), rtol=1e-4, atol=1e-5)


def test_the_answer_is_the_mean_of_both() -> None:
    head = NormHead(6, 3, distillation=True)
    pooled = torch.randn(8, 6)
    label, teacher = head.both(pooled)
    torch.testing.assert_close(head(pooled), (label + teacher) / 2)


def test_no_classes_no_head() -> None:
    assert isinstance(norm_classifier(6, 0, distillation=True), nn.Identity)
