"""Parameters, MACs and memory against counts by hand and published numbers; times must be times."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ommatid.measuring.macs import count_macs
from ommatid.measuring.measure import forward_memory, image_for, measure
from ommatid.models import create_model
from ommatid.nn.moe import MoE, StackedMLP, linear_router

CASES = Path(__file__).parents[1] / "parity" / "cases"
SPARED = 196 * 2 * 192 * 768
"""The last MLP of vit_tiny on the patches, which the published number counts and nobody reads."""

PUBLISHED = [("vit", 0, SPARED), ("swin", 0, 0), ("convnext", 0, 0), ("pvt_v2", 0, 0), ("pvt_v2", 2, 0)]


class Small(nn.Module):
    """A 3x3 convolution of 3 to 8 channels, then the mean and a linear layer to 5."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.dropout = nn.Dropout()
        self.head = nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.dropout(self.conv(image)).mean((2, 3)))


def test_counts_of_a_network_small_enough_to_count_by_hand() -> None:
    measured = measure(Small(), size=16, batch=2, throughput_batch=4, rounds=3)
    assert measured.parameters == 3 * 8 * 9 + 8 + 8 * 5 + 5
    assert measured.macs == 16 * 16 * 3 * 8 * 9 + 8 * 5
    assert measured.memory_mb >= 2 * 8 * 16 * 16 * 4 / 2**20
    assert (measured.size, measured.batch, measured.throughput_batch) == ((16, 16), 2, 4)
    assert 0 < measured.latency_p25 <= measured.latency_ms <= measured.latency_p75
    assert measured.throughput > 0
    assert measured.threads == torch.get_num_threads()


def test_the_model_is_left_as_it_was() -> None:
    model = Small().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measured = measure(model, size=8, rounds=1, precision="bfloat16")
    assert measured.precision == "bfloat16"
    assert model.training
    assert all(parameter.requires_grad and parameter.dtype == torch.float32 for parameter in model.parameters())
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_memory_is_that_of_weights_image_and_what_is_made_of_them() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 1000), nn.Linear(1000, 10)).eval().requires_grad_(False)
    image = torch.randn(1, 3, 8, 8)
    weights = 192 * 1000 + 1000 + 1000 * 10 + 10
    assert forward_memory(model, image) == 4 * (weights + 192 + 1000 + 10)


@pytest.mark.parametrize(("system", "index", "spared"), PUBLISHED)
def test_macs_are_close_to_the_published_ones(system: str, index: int, spared: int) -> None:
    published = json.loads((CASES / system / "cases.json").read_text())["published"][index]
    with torch.device("meta"):
        model = create_model(system, **published["config"]).eval()
        macs = count_macs(model, image_for(model, 1, (224, 224)))
    assert macs + spared == pytest.approx(published["macs"], rel=0.02)


@pytest.mark.parametrize(
    ("setting", "value"), [("batch", 0), ("threads", 0), ("rounds", -1), ("precision", "int3"), ("device", "abacus")]
)
def test_impossible_settings_are_named(setting: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{setting} = "):
        measure(Small(), size=8, **{setting: value})


def test_experts_count_as_the_dense_layer_that_a_token_sees() -> None:
    tokens, dim, hidden, experts = 32, 16, 64, 4
    moe = MoE(linear_router(dim, experts, 1), StackedMLP(experts, dim, hidden))
    expected = tokens * (2 * dim * hidden + dim * experts)
    assert count_macs(moe, torch.rand(tokens, dim)) == expected


def test_a_parameter_may_be_what_a_layer_takes() -> None:
    class Queries(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.queries = nn.Parameter(torch.rand(4, 8))
            self.layer = nn.Linear(8, 16)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image.mean() + self.layer(self.queries.expand(2, 4, 8))

    assert count_macs(Queries(), torch.rand(1, 3, 8, 8)) == 2 * 4 * 8 * 16
