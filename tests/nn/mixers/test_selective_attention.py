import pytest
import torch

from ommatid.models import create_model
from ommatid.nn.mixers import Attention, SelectiveAttention


def test_without_any_temperature_it_is_plain_attention():
    torch.manual_seed(0)
    plain, ours, features = (
        Attention(8, 2),
        SelectiveAttention(8, 2, hidden=None, position_aware=()),
        torch.randn(2, 3, 4, 8),
    )
    ours.load_state_dict(plain.state_dict())
    torch.testing.assert_close(ours(features), plain(features))


@pytest.mark.parametrize("position_aware", [(), ("q",), ("q", "v")])
def test_causal_tokens_do_not_see_later_ones(position_aware):
    torch.manual_seed(0)
    attention = SelectiveAttention(8, 2, position_aware=position_aware, causal=True)
    tokens = torch.randn(2, 7, 8)
    torch.testing.assert_close(attention(tokens)[:, :5], attention(tokens[:, :5]))


def test_a_longer_sequence_than_the_bound_is_refused():
    layer = create_model("selective_attention", part="position_code", dim=8, heads=2, max_tokens=4)
    with pytest.raises(ValueError, match="allowed is"):
        layer(torch.randn(1, 5, 8))
