"""What MHS-VM does beyond its reference cases."""

from __future__ import annotations

import pytest
import torch

from ommatid.models import create_model

TINY = {"image_size": 16, "dims": (8, 16), "depths": (1, 1), "depths_decoder": (1, 1), "d_state": 2}


def test_the_published_loss_of_one_class_falls_with_the_answer() -> None:
    torch.manual_seed(0)
    model, image = create_model("mhs_vm", **TINY), torch.rand(2, 1, 16, 24)
    share = model(image)
    assert share.shape == (2, 1, 16, 24)
    assert 0 < share.min() < share.max() < 1
    better, worse = (model.losses(image, mask) for mask in (share[:, 0].detach(), 1 - share[:, 0].detach().round()))
    assert all(better[name] < worse[name] for name in ("cross_entropy", "dice"))
    torch.stack(list(better.values())).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_heads_without_a_projection_must_divide_the_width() -> None:
    assert create_model("mhs_vm", **TINY, out_projection=False, num_classes=3)(torch.rand(1, 3, 9, 17)).shape[2:] == (
        9,
        17,
    )
    with pytest.raises(ValueError, match="multiples of scan_heads \\(3\\)"):
        create_model("mhs_vm", **TINY, scan_heads=3, out_projection=False)
