"""Overlapping cross-attention: each query looks at the larger window around its own, zeros beyond the border."""

import torch

from ommatid.nn.mixers import OverlappingCrossAttention

HEADS, WINDOW, HALO = 2, 3, 2


def expected(mixer: OverlappingCrossAttention, x: torch.Tensor) -> torch.Tensor:
    """Token by token, for one image (H, W, C) of whole windows."""
    height, width, dim = x.shape
    query, key, value = mixer.qkv(x).unflatten(-1, (3, HEADS, -1)).unbind(2)
    reach, head_dim = WINDOW + 2 * HALO, dim // HEADS
    table = mixer.bias.table.unflatten(0, (WINDOW + reach - 1, WINDOW + reach - 1))
    mixed = torch.zeros(height, width, HEADS, head_dim)
    for y in range(height):
        for x in range(width):
            top, left = y - y % WINDOW - HALO, x - x % WINDOW - HALO
            scores, values = [], []
            for down in range(reach):
                for across in range(reach):
                    row, column = top + down, left + across
                    inside = 0 <= row < height and 0 <= column < width
                    product = (query[y, x] * key[row, column]).sum(-1) if inside else torch.zeros(HEADS)
                    offset = (y % WINDOW - down + reach - 1, x % WINDOW - across + reach - 1)
                    scores.append(product * head_dim**-0.5 + table[offset])
                    values.append(value[row, column] if inside else torch.zeros(HEADS, head_dim))
            weights = torch.stack(scores).softmax(0)
            mixed[y, x] = (weights[..., None] * torch.stack(values)).sum(0)
    return mixer.proj(mixed.flatten(2))


def test_is_what_it_says_token_by_token() -> None:
    torch.manual_seed(0)
    mixer = OverlappingCrossAttention(8, HEADS, WINDOW, HALO)
    torch.nn.init.normal_(mixer.bias.table)
    x = torch.randn(2, 2 * WINDOW, 3 * WINDOW, 8)
    with torch.no_grad():
        torch.testing.assert_close(mixer(x), torch.stack([expected(mixer, image) for image in x]))


def test_without_a_halo_windows_are_alone() -> None:
    mixer = OverlappingCrossAttention(8, HEADS, WINDOW, 0)
    x = torch.randn(1, 2 * WINDOW, 3 * WINDOW, 8)
    changed = x.clone()
    changed[:, :WINDOW, :WINDOW] += 1
    with torch.no_grad():
        same = (mixer(x) == mixer(changed)).all(-1)[0]
    assert same[WINDOW:].all()
    assert same[:, WINDOW:].all()
    assert not same[:WINDOW, :WINDOW].any()
