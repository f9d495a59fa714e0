"""Sub-networks and bits are searched together: masked genes mean nothing, and few measurements beat random ones."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

import ommatid
from ommatid.methods.quantized_search.elastic import ElasticSearch
from ommatid.methods.quantized_search.genotype import Gene, Space
from ommatid.methods.quantized_search.linas import front, search
from ommatid.methods.quantized_search.nsga2 import best_first, crowding, hypervolume, ranks
from ommatid.methods.quantized_search.policy import (
    LayerPolicy,
    fake_quantized,
    model_bytes,
    quantizable,
    quantized_weights,
)

POINTS = np.array([[0.0, 3.0], [1.0, 1.0], [3.0, 0.0], [2.0, 2.0], [3.0, 3.0]])


def test_points_are_ranked_and_crowded_as_defined() -> None:
    assert ranks(POINTS).tolist() == [0, 0, 0, 1, 2]
    assert crowding(POINTS[:3]).tolist() == [np.inf, 2.0, np.inf]
    assert best_first(POINTS).tolist() == [0, 2, 1, 3, 4]
    assert hypervolume(POINTS, np.array([4.0, 4.0])) == pytest.approx(4 * 1 + 3 * 2 + 1 * 1)
    assert hypervolume(np.array([[0.0, 0.0, 0.0], [1.0, 1.0, -1.0]]), np.full(3, 2.0)) == pytest.approx(9.0)


def test_weights_lie_on_the_grid_of_their_mode() -> None:
    weight = torch.tensor([[-1.0, 0.5, 0.25], [0.0, 2.0, 1.0]])
    symmetric, asymmetric = (quantized_weights(weight, mode) for mode in ("symmetric", "asymmetric"))
    scale = torch.tensor([[1.0], [2.0]]) / 127
    assert torch.allclose(symmetric, (weight / scale).round() * scale)
    assert torch.allclose(asymmetric, weight, atol=2 / 255)
    assert not torch.equal(symmetric, asymmetric)
    assert torch.equal(quantized_weights(torch.zeros(2, 3), "asymmetric"), torch.zeros(2, 3))


def test_bits_of_32_change_nothing_and_8_everywhere_is_nearly_the_same_at_a_quarter() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64))
    images = torch.randn(16, 64)
    whole = dict.fromkeys(quantizable(model), LayerPolicy(32))
    eight = dict.fromkeys(quantizable(model), LayerPolicy(8, "asymmetric"))
    expected = model(images)
    assert torch.equal(fake_quantized(model, whole, [images])(images), expected)
    answer = fake_quantized(model, eight, [images])(images)
    assert 0 < (answer - expected).abs().max() < 0.05 * expected.abs().max()
    assert model_bytes(model, whole) / model_bytes(model, eight) == pytest.approx(4, rel=0.1)
    with pytest.raises(ValueError, match="policy = 'nowhere'"):
        fake_quantized(model, {"nowhere": LayerPolicy(8)}, [images])


def toy(choices: dict[str, Any]) -> tuple[float, float]:
    """ZDT1, whose front is known, over integers."""
    first, *others = (value / 9 for value in choices.values())
    rest = 1 + 9 * sum(others) / len(others)
    return first, rest * (1 - (first / rest) ** 0.5)


def test_a_known_front_is_found_with_fewer_measurements_than_at_random() -> None:
    space = Space(tuple(Gene(f"x{number}", tuple(range(10))) for number in range(8)), lambda choices: set(choices))
    found = search(space, toy, population=15, evaluations=60, predicted=1500, seed=0)
    assert len({candidate.genotype for candidate in found}) == 60
    best = np.array([candidate.objectives for candidate in front(found)])
    assert ranks(best).max() == 0
    chance = random.Random(0)
    drawn = np.array([toy({gene.name: chance.choice(gene.choices) for gene in space.genes}) for _ in range(60)])
    corner = np.array([1.1, 11.0])
    assert hypervolume(best, corner) > 1.1 * hypervolume(drawn[ranks(drawn) == 0], corner)


@pytest.fixture(scope="module")
def elastic() -> ElasticSearch:
    torch.manual_seed(0)
    model = ommatid.create_model("once_for_all", width_mult=0.25, num_classes=4, depths=(1, 2), kernel_sizes=(3, 5))
    images = torch.rand(8, 3, 32, 32)
    return ElasticSearch(model.eval(), [images], [(images, torch.arange(8) % 4)])


def test_genes_of_what_the_sub_network_lacks_change_neither_its_code_nor_its_measurement(
    elastic: ElasticSearch,
) -> None:
    space = elastic.space
    names = [gene.name for gene in space.genes]
    one = [0] * len(names)  # every stage one block
    other = list(one)
    for number, name in enumerate(names):
        if name in ("kernel.1", "expand.1") or name.startswith(("bits.stages.0.1.", "mode.")):
            other[number] = 1
    assert any(name.startswith("bits.stages.0.1.") for name in names)
    assert space.codes(one) == space.codes(other)
    assert space.canonical(one) == space.canonical(other)
    assert elastic.measure(space.choices(one)) == elastic.measure(space.choices(other))


def test_the_search_over_a_super_network_gives_a_front_from_small_to_accurate(elastic: ElasticSearch) -> None:
    found = search(elastic.space, elastic.measure, population=4, evaluations=8, predicted=100)
    best = front(found)
    sizes = [candidate.objectives[1] for candidate in best]
    assert sizes == sorted(sizes, reverse=True)
    model = elastic.model(best[0].choices)
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 4)
    alone = ElasticSearch(elastic.supernet, elastic.calibration, elastic.judged, bits=(32,))
    assert all(policy.bits == 32 for policy in alone.policy(alone.space.choices([0] * len(alone.space.genes))).values())
