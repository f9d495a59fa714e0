import pytest
import torch

from ommatid.methods.dual_cross_attention import (
    DualCrossAttention,
    local_attention,
    paired_attention,
    random_partners,
    select_patches,
)
from ommatid.models.backbones.vit import ViT, ViTConfig
from ommatid.nn.mixers import Attention
from ommatid.ops.attention_rollout import attention_rollout, first_token_rollout


def made(local_ratio: float) -> DualCrossAttention:
    torch.manual_seed(0)
    vit = ViT(ViTConfig(image_size=32, patch_size=8, dim=16, depth=2, heads=2, num_classes=5))
    return DualCrossAttention(vit, local_ratio=local_ratio).eval()


def test_its_own_partner_distracts_nobody():
    network, image = made(0.2), torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(network.paired_logits(image, torch.arange(3)), network.vit(image))
    torch.testing.assert_close(network.logits(network.look(image))[0], network.vit(image))


def test_looking_at_all_patches_again_is_one_more_block():
    network, image = made(1.0), torch.randn(2, 3, 40, 24)
    expected = network.local_norm(network.local_block(network.vit.tokens(image))[:, 0])
    torch.testing.assert_close(network.look(image).local, expected)
    assert network(image).shape == (2, 5)
    torch.testing.assert_close(network(image).sum(-1), torch.full((2,), 2.0))
    assert network.embed(image).shape == (2, 32)


def test_selected_tokens_answer_as_among_all():
    attention, tokens, selected = Attention(8, 2), torch.randn(2, 6, 8), torch.tensor([[0, 4], [3, 1]])
    answers = attention(tokens)
    torch.testing.assert_close(
        local_attention(attention, tokens, selected), torch.stack([answers[0, [0, 4]], answers[1, [3, 1]]])
    )
    torch.testing.assert_close(paired_attention(attention, tokens, tokens), answers)


def test_rollout():
    torch.manual_seed(0)
    weights = list(torch.rand(3, 2, 7, 7).softmax(-1).unbind())
    rollout = attention_rollout(weights)
    torch.testing.assert_close(rollout.sum(-1), torch.ones(2, 7))
    torch.testing.assert_close(first_token_rollout(weights), rollout[:, 0])
    alike = first_token_rollout([torch.full((1, 7, 7), 1 / 7)] * 3)
    torch.testing.assert_close(alike[:, 1:], alike[:, 1:2].expand(-1, 6))


@pytest.mark.parametrize(("ratio", "expected"), [(0.01, [2]), (0.5, [2, 0]), (1.0, [2, 0, 1, 3])])
def test_patches_of_one_response_are_taken_in_order(ratio, expected):
    assert select_patches(torch.tensor([[0.2, 0.2, 0.4, 0.2]]), ratio).tolist() == [expected]


@pytest.mark.parametrize("count", [2, 3, 8])
def test_partners_are_others(count):
    partners = random_partners(count)
    assert (partners != torch.arange(count)).all()
    assert partners.sort().values.equal(torch.arange(count))
