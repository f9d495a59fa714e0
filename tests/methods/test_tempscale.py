from itertools import pairwise

import pytest
import torch

import ommatid
from ommatid.methods.tempscale import low_pass, temper_attention_
from ommatid.nn.mixers import Attention, WindowAttention
from ommatid.ops.tempered_attention import tempered_attention_weights


def weights_of(layer: Attention, tokens: torch.Tensor, temperature: float) -> torch.Tensor:
    query, key, _ = layer.project(tokens)
    return tempered_attention_weights(query, key, temperature=temperature)


def test_tempered_model_attends_with_the_temperature():
    torch.manual_seed(0)
    model = ommatid.create_model("vit", image_size=32, patch_size=8, dim=32, depth=1, heads=2)
    tokens, layer = torch.randn(2, 9, 32), model.blocks[0].token.inner
    sharp, values = weights_of(layer, tokens, 0.5), layer.project(tokens)[2]
    temper_attention_(model, 0.5)
    torch.testing.assert_close(weights_of(layer, tokens, 1.0), sharp)
    torch.testing.assert_close(layer.project(tokens)[2], values)


def test_flatter_attention_leaves_less_of_high_frequencies():
    torch.manual_seed(0)
    query, key, tokens = torch.randn(3, 9, 1, 4), torch.randn(3, 9, 1, 4), torch.randn(3, 9, 5)
    found = [
        low_pass(tempered_attention_weights(query, key, temperature=temperature)[:, 0], tokens)
        for temperature in (0.5, 1.0, 2.0, 1e6)
    ]
    for sharper, flatter in pairwise(found):
        assert (flatter.gain < sharper.gain).all()
        assert (flatter.entropy > sharper.entropy).all()
    assert all((rates.high_after <= rates.gain * rates.high_before).all() for rates in found)
    assert (found[-1].gain < 1e-5).all()


@pytest.mark.parametrize(("model", "temperature"), [(Attention(8, 2), 0.0), (WindowAttention(8, 2, 4), 0.5)])
def test_refuses_what_has_no_temperature(model, temperature):
    with pytest.raises(ValueError, match="allowed is"):
        temper_attention_(model, temperature)
