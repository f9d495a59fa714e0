"""DeepMAD: the score follows its mathematics, the counts are the built network's, the search stays in its budget."""

import pytest
import torch

from ommatid.methods.deepmad import Budget, design, score
from ommatid.methods.deepmad.cost import cost
from ommatid.methods.deepmad.mutation import BOTTLENECK_SPACE, mutated, repaired
from ommatid.models import create_model
from ommatid.models.backbones.deepmad import (
    BOTTLENECK,
    CONV,
    MOBILE,
    MOBILE_GATED,
    TWO_CONVS,
    SuperBlock,
    structure_of,
)

SMALL = (
    SuperBlock(CONV, 3, 8, 2, 3),
    SuperBlock(BOTTLENECK, 8, 16, 2, 3, 1, 8),
    SuperBlock(BOTTLENECK, 16, 24, 2, 3, 2, 8),
    SuperBlock(BOTTLENECK, 24, 32, 2, 3, 2, 16),
    SuperBlock(BOTTLENECK, 32, 40, 1, 3, 2, 16),
)
WEIGHTS = (1, 1, 1, 8)


@pytest.mark.parametrize("kind", [BOTTLENECK, TWO_CONVS, MOBILE, MOBILE_GATED])
def test_counted_parameters_are_those_of_the_network(kind: str) -> None:
    blocks = (SMALL[0], SuperBlock(kind, 8, 16, 2, 3, 2, 24), SuperBlock(kind, 16, 16, 2, 5, 2, 24))
    model = create_model("deepmad", structure=structure_of(blocks), out_stages=(0, 1, 2)).eval()
    assert cost(blocks, 32).parameters == sum(parameter.numel() for parameter in model.parameters())
    assert model(torch.rand(1, 3, 45, 70)).shape == (1, 16)


def test_more_depth_means_more_entropy_and_less_effectiveness() -> None:
    deeper = tuple(block._replace(depth=2 * block.depth) for block in SMALL)
    shallow, deep = (score(blocks, 64, stage_weights=WEIGHTS) for blocks in (SMALL, deeper))
    assert deep.entropy_score > shallow.entropy_score
    assert deep.effectiveness > shallow.effectiveness
    assert score(SMALL, 64, stage_weights=WEIGHTS, alpha_width=0, alpha_kernel=0).entropy_score == 0


def test_the_search_improves_within_its_budget_and_repeats() -> None:
    first = score(SMALL, 64, stage_weights=WEIGHTS)
    budget = Budget(mega_macs=3 * first.mega_macs, layers=40, effectiveness=2.0)
    found, best = design(SMALL, budget, image_size=64, stage_weights=WEIGHTS, trials=200)
    assert best.score > first.score
    assert budget.holds(best)
    assert design(SMALL, budget, image_size=64, stage_weights=WEIGHTS, trials=200)[0] == found
    assert (
        create_model("deepmad", structure=structure_of(found), out_stages=(0, 3))(torch.rand(2, 3, 64, 64)).shape[0]
        == 2
    )


def test_a_start_beyond_the_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="within Budget"):
        design(SMALL, Budget(mega_macs=0.001), image_size=64, stage_weights=WEIGHTS, trials=1)


def test_a_mutation_keeps_the_last_convolution_and_repair_keeps_kernels_in_their_maps() -> None:
    ending = (*SMALL, SuperBlock(CONV, 40, 48, 1, 1))
    assert mutated(ending, len(ending) - 1, BOTTLENECK_SPACE, lambda candidates: candidates[0]) == ending
    kernels = [block.kernel_size for block in repaired(SMALL, 16)]
    assert kernels == [3, 3, 1, 1, 1]
