"""UniRepLKNet's merged form is a model of its own."""

import pytest
import torch
from torch import nn

import ommatid

TINY = {"dims": (8, 8, 16, 16), "depths": (1, 1, 3, 1), "kernel_sizes": ((0,), (5,), (7, 13, 17), (3,))}


def test_a_deployed_copy_has_the_parameters_of_the_deploy_config() -> None:
    torch.manual_seed(0)
    model = ommatid.create_model("unireplknet", **TINY, layer_scale=0.5, num_classes=3)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    model(torch.randn(4, 3, 64, 64))  # running statistics other than the initial ones
    merged = ommatid.create_model("unireplknet", **TINY, deploy=True, num_classes=3).eval()
    merged.load_state_dict(model.deploy().state_dict())
    image = torch.randn(2, 3, 50, 70)
    torch.testing.assert_close(merged(image), model.eval()(image), rtol=1e-4, atol=1e-4)


def test_other_kernel_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"kernel_sizes .* allowed is each one of"):
        ommatid.create_model("unireplknet", **TINY | {"kernel_sizes": ((0,), (5,), (7, 13, 19), (3,))})
