import pytest
import torch
from torch import nn

from ommatid.nn.block import Stage, pyramid, pyramid_stages
from ommatid.nn.embed import PatchMerging


def test_a_pyramid_has_the_blocks_that_its_rates_say_each_told_its_place():
    places = []

    def block(stage: int, index: int, rate: float) -> nn.Module:
        places.append((stage, index, rate))
        return nn.Identity()

    stages = pyramid_stages((4, 6), [[0.0], [0.1, 0.2]], PatchMerging, block)
    assert places == [(0, 0, 0.0), (1, 0, 0.1), (1, 1, 0.2)]
    assert [tuple(features.shape) for features in pyramid(stages, torch.randn(2, 6, 5, 4))] == [
        (2, 6, 5, 4),
        (2, 3, 3, 6),
    ]


@pytest.mark.parametrize("norm", [None, nn.LayerNorm])
def test_only_the_first_stage_is_led_to_by_the_stem_and_all_end_with_the_norm(norm):
    stem = nn.Linear(3, 4)
    first, second = pyramid_stages((4, 6), [[], []], PatchMerging, lambda *_: nn.Identity(), stem=stem, norm=norm)
    assert isinstance(first, Stage)
    assert first.downsample is stem
    assert isinstance(second.downsample, PatchMerging)
    assert [type(stage.norm) for stage in (first, second)] == [norm or nn.Identity] * 2
