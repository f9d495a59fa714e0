"""A part cut out of a super-network answers as it did inside, and batch norms can be measured anew."""

import random

import pytest
import torch
from torch import nn

import ommatid
from ommatid.methods.progressive_shrinking import random_setting
from ommatid.models.backbones.once_for_all import OnceForAll, Subnet
from ommatid.nn.recalibration import recalibrated


@pytest.fixture
def network() -> OnceForAll:
    torch.manual_seed(0)
    model = ommatid.create_model("once_for_all", width_mult=0.25, num_classes=4, depths=(1, 2))
    model.train()(torch.rand(4, 3, 40, 36))
    return model.eval()


def test_any_subnet_answers_alike_inside_and_cut_out(network: OnceForAll, tmp_path) -> None:
    image = torch.rand(2, 3, 45, 70)
    chance = random.Random(0)
    for _ in range(3):
        network.activate(random_setting(network.config, chance))
        subnet = network.extract()
        assert torch.allclose(subnet(image), network(image), atol=1e-6)
    subnet.save(tmp_path / "subnet.safetensors")
    loaded = ommatid.load(tmp_path / "subnet.safetensors")
    assert isinstance(loaded, Subnet)
    assert torch.equal(loaded(image), subnet(image))


def test_sorting_leaves_the_largest_network_alone(network: OnceForAll) -> None:
    image = torch.rand(2, 3, 32, 32)
    before = network(image)
    network.sort_channels_(1)
    assert torch.allclose(network(image), before, atol=1e-5)


def test_a_setting_that_is_not_there_is_refused(network: OnceForAll) -> None:
    with pytest.raises(ValueError, match="active_depths"):
        network.activate(network.setting._replace(depths=(9,) * 5))


def test_one_batch_measured_anew_is_normed_by_its_own_statistics() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))
    images = torch.rand(6, 3, 8, 9)
    measured = recalibrated(model, [images])
    answer = measured(images)
    assert torch.allclose(answer.mean((0, 2, 3)), torch.zeros(5), atol=1e-5)
    assert torch.allclose(answer.var((0, 2, 3), correction=0), torch.ones(5), atol=1e-2)
    assert model.training
