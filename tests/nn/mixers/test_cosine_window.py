import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ommatid.nn.mixers.cosine_window import ScaledCosine, UnbiasedKeyProjection


@pytest.mark.parametrize(("log_scale", "factor"), [(0.5, math.exp(0.5)), (-3.0, math.exp(-3)), (7.0, 100.0)])
def test_scores_are_cosines_times_a_factor_of_at_most_100(log_scale: float, factor: float) -> None:
    cosine = ScaledCosine(2)
    nn.init.constant_(cosine.log_scale, log_scale)
    raw = torch.randn(2, 3, 5, 2, 6)
    query, key = cosine(*raw)
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) / math.sqrt(6)
    expected = factor * F.cosine_similarity(raw[0][:, :, None], raw[1][:, None], dim=-1).permute(0, 3, 1, 2)
    torch.testing.assert_close(scores, expected)


def test_keys_have_no_bias() -> None:
    projection = UnbiasedKeyProjection(4)
    nn.init.constant_(projection.query_bias, 1)
    nn.init.constant_(projection.value_bias, 2)
    assert projection(torch.zeros(4)).tolist() == [1] * 4 + [0] * 4 + [2] * 4
