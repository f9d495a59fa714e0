"""DLGSANet's options beyond its reference cases."""

from typing import Any

import pytest
import torch

import ommatid

TINY: dict[str, Any] = {"dim": 12, "groups": 1, "blocks": 1, "kernel_size": 3, "heads": 2, "tlc_kernel": None}


@pytest.mark.parametrize(
    "options",
    [
        {"scale": 1},
        {"scale": 5},
        {"scale": 4, "upsampler": "pixelshuffle"},
        {"block_type": "edge", "ffn_type": "BaseFFN", "dynamic": False},
        {"act": "sigmoid", "body_norm": True, "tlc_kernel": 6},
    ],
)
def test_every_option_answers_at_its_scale(options: dict[str, Any]) -> None:
    model = ommatid.create_model("dlgsanet", **TINY | options).eval()
    scale = options.get("scale", 2)
    with torch.no_grad():
        for size in ((9, 14), (1, 5)):
            assert model(torch.rand(2, 3, *size)).shape == (2, 3, scale * size[0], scale * size[1])


@pytest.mark.parametrize(
    "impossible",
    [{"kernel_size": 4}, {"heads": 5}, {"group_channels": 5}, {"scale": 6, "upsampler": "pixelshuffle"}, {"dim": 3}],
)
def test_impossible_configs_are_refused(impossible: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="allowed is"):
        ommatid.create_model("dlgsanet", **TINY | impossible)
