"""SLAB beyond its reference cases: counters of checkpoints, folding, and learning on its published schedule."""

import pytest
import torch

import ommatid
from ommatid.nn.progressive_norm import ProgressiveNorm

SWIN = {"arch": "slab_swin", "image_size": 56, "patch_size": 2, "dims": (8, 16), "depths": (2, 2), "heads": (2, 2)}
SWIN |= {"window_size": 14, "attention_types": "LM1", "mlp_ratio": 2, "num_classes": 3}


def trained_a_little() -> torch.nn.Module:
    torch.manual_seed(0)
    model = ommatid.create_model("slab", **SWIN, prepbn_steps=4, prepbn_warmup=1)
    for _ in range(6):
        model(torch.rand(2, 3, 56, 56))
    return model.eval()


def test_only_the_last_norm_survives_deployment() -> None:
    model, image = trained_a_little(), torch.rand(2, 3, 56, 56)
    deployed = model.deploy()
    assert [name for name, part in deployed.named_modules() if isinstance(part, ProgressiveNorm)] == ["norm"]
    torch.testing.assert_close(deployed.embed(image), model.embed(image), rtol=1e-4, atol=1e-4)


def test_loss_falls_on_the_published_schedule() -> None:
    torch.manual_seed(0)
    model = ommatid.create_model("slab", **SWIN, prepbn_steps=60000)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    image, target = torch.rand(4, 3, 56, 56), torch.randn(4, 3)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = (model(image) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[4:]) < losses[0], losses


def test_counters_of_a_checkpoint_are_read() -> None:
    model = ommatid.create_model("slab", dim=8, depth=1, heads=2, image_size=32, num_classes=0, prepbn_steps=9)
    counters = {"norm.iter": torch.tensor([3]), "norm.warm": torch.tensor(0), "norm.total_step": torch.tensor(9)}
    report = ommatid.load_reference(model, counters)
    assert not report.unexpected
    assert model.norm.steps_left == 3
    assert model.stages[0].blocks[0].token.norm.steps_left == 9


@pytest.mark.parametrize("wrong", [{"image_size": (56, 60)}, {"attention_types": "LX"}, {"kernel_size": 4}])
def test_impossible_configs_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="allowed is"):
        ommatid.create_model("slab", **SWIN | wrong)
