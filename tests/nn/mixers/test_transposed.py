"""Transposed attention against its definition, whole and in tiles."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ommatid.nn.mixers import TransposedAttention


def by_definition(mixer: TransposedAttention, qkv: Tensor) -> Tensor:
    """Unit-length maps, one head after another."""
    height, width = qkv.shape[1:3]
    query, key, value = qkv.permute(0, 3, 1, 2).flatten(2).chunk(3, dim=1)  # (B, C, N)
    heads = []
    for head, (q, k, v) in enumerate(zip(*(part.chunk(mixer.heads, 1) for part in (query, key, value)), strict=True)):
        cosines = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT
        heads.append(mixer.act(cosines * mixer.temperature[head]) @ v)
    return mixer.proj(torch.cat(heads, 1).mT).unflatten(1, (height, width))


def test_is_attention_between_maps_of_unit_length() -> None:
    torch.manual_seed(0)
    for act in (None, torch.nn.ReLU()):
        mixer = TransposedAttention(24, 3, act=act)
        torch.nn.init.normal_(mixer.temperature)
        qkv = torch.randn(2, 5, 7, 72)
        torch.testing.assert_close(mixer.attend(qkv), by_definition(mixer, qkv), rtol=1e-4, atol=1e-5)


def test_an_empty_channel_is_like_no_other() -> None:
    mixer = TransposedAttention(8, 2, act=torch.nn.ReLU())
    qkv = torch.randn(1, 4, 4, 24)
    qkv[..., :16] = 0
    assert torch.equal(mixer.attend(qkv), torch.zeros(1, 4, 4, 8))


def test_tiles_attend_on_their_own_in_evaluation_only() -> None:
    torch.manual_seed(0)
    whole, tiled = TransposedAttention(8, 2), TransposedAttention(8, 2, tile=6)
    tiled.load_state_dict(whole.state_dict())
    x = torch.randn(2, 6, 10, 8)
    torch.testing.assert_close(tiled(x), whole(x))
    tiled.eval()
    mixed = tiled(x)
    qkv = tiled.conv(tiled.qkv(x))
    torch.testing.assert_close(mixed[:, :, :4], tiled.attend(qkv[:, :, :6])[:, :, :4])
    overlap = (tiled.attend(qkv[:, :, :6])[:, :, 4:] + tiled.attend(qkv[:, :, 4:])[:, :, :2]) / 2
    torch.testing.assert_close(mixed[:, :, 4:6], overlap)
    torch.testing.assert_close(tiled(x[:, :, :6]), whole(x[:, :, :6]))
