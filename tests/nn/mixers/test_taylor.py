import torch

from ommatid.nn.mixers import TaylorAttention
from ommatid.ops.taylor_features import taylor_features

TOKENS = torch.randn(2, 100, 12, generator=torch.Generator().manual_seed(0))


def mixer(**options) -> TaylorAttention:
    torch.manual_seed(0)
    return TaylorAttention(12, 3, feature_dim=5, **options)


def test_causal_attention_is_that_of_all_weights_below_the_diagonal() -> None:
    attention = mixer(head_dim=6)
    query, key, value = attention.split(TOKENS)
    weights = torch.einsum("bnhd,bmhd->bhnm", query, key).tril()
    mixed = torch.einsum("bhnm,bmhe->bnhe", weights / weights.sum(-1, keepdim=True), value)
    torch.testing.assert_close(attention(TOKENS), attention.proj(mixed.flatten(2)), atol=1e-5, rtol=1e-4)


def test_goes_on_token_by_token_behind_a_prompt() -> None:
    attention = mixer()
    together, last = attention.advance(TOKENS)
    features, state = attention.advance(TOKENS[:, :70])
    steps = [features]
    for token in TOKENS[:, 70:].split(1, dim=1):
        features, state = attention.advance(token, state)
        steps.append(features)
    torch.testing.assert_close(torch.cat(steps, dim=1), together, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(state, last, atol=1e-4, rtol=1e-4)


def test_without_queries_every_token_reads_the_mean_so_far() -> None:
    attention = mixer()
    torch.nn.init.zeros_(attention.query.weight)
    mean = attention.value(TOKENS).cumsum(1) / torch.arange(1, 101)[:, None]
    torch.testing.assert_close(attention(TOKENS), attention.proj(mean), atol=1e-5, rtol=1e-4)


def test_without_a_direction_every_token_reads_all_others() -> None:
    attention = mixer(causal=False)
    reversed_back = attention(TOKENS.flip(1)).flip(1)
    torch.testing.assert_close(attention(TOKENS), reversed_back, atol=1e-5, rtol=1e-4)


def test_features_multiply_to_the_series() -> None:
    query, key = torch.randn(2, 7, 6), torch.randn(2, 9, 6)
    scores = query @ key.mT * 6**-0.5
    products = taylor_features(query) @ taylor_features(key).mT
    torch.testing.assert_close(products, 1 + scores + scores.square() / 2)
