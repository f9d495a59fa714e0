"""Sampling along straight lines, and the network that starts by answering nothing."""

from __future__ import annotations

import pytest
import torch

import ommatid
from ommatid.methods.rectified_flow import euler_steps, flow_loss, guided_noise, sample

SIZES = {"image_size": 4, "dim": 8, "depth": 2, "heads": 2, "mlp_ratio": 1, "num_experts": 3, "num_classes": 5}


@pytest.fixture
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    network = ommatid.create_model("dit_moe", **SIZES).eval()
    for name, parameter in network.named_parameters():
        if "modulation" in name or name.startswith("head"):
            torch.nn.init.normal_(parameter, std=0.3)
    return network


def test_a_constant_velocity_is_followed_exactly() -> None:
    noise, velocity = torch.randn(2, 4, 4, 4), torch.randn(2, 4, 4, 4)
    *_, picture = euler_steps(lambda latent, time: velocity, noise, 7)
    torch.testing.assert_close(picture, noise - velocity)


def test_blocks_start_as_the_identity_and_the_answer_at_zero() -> None:
    fresh = ommatid.create_model("dit_moe", **SIZES).eval()
    arguments = torch.randn(2, 4, 4, 4), torch.rand(2), torch.tensor([1, 4])
    assert (fresh(*arguments) == 0).all()
    start = fresh.patches(arguments[0].permute(0, 2, 3, 1)).flatten(1, 2) + fresh.position
    torch.testing.assert_close(fresh.tokens(*arguments), start)


def test_without_guidance_the_label_alone_counts(model: torch.nn.Module) -> None:
    latent, time, label = torch.randn(2, 4, 4, 4), torch.full((2,), 0.5), torch.tensor([0, 3])
    torch.testing.assert_close(guided_noise(model, latent, time, label, 1.0), model(latent, time, label))
    strong = guided_noise(model, latent, time, label, 3.0)
    torch.testing.assert_close(strong[:, 3:], model(latent, time, label)[:, 3:])
    nearly = sample(model, latent, label, steps=2, guidance=1 + 1e-6)
    torch.testing.assert_close(nearly, sample(model, latent, label, steps=2), atol=1e-4, rtol=1e-4)


def test_training_teaches_the_direction_of_noise(model: torch.nn.Module) -> None:
    picture, label = torch.randn(8, 4, 4, 4), torch.randint(5, (8,))
    optimizer = torch.optim.Adam(model.train().parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = flow_loss(model, picture, label)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < sum(losses[:5])


def test_a_latent_of_another_size_is_refused(model: torch.nn.Module) -> None:
    with pytest.raises(ValueError, match=r"size of the latent = \(6, 6\) .* \(4, 4\), fixed by image_size"):
        model(torch.randn(1, 4, 6, 6), torch.rand(1), torch.tensor([0]))
