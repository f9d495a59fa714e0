"""ConViT beyond its reference cases: where its heads look at first, and what happens without ordinary blocks."""

import torch

import ommatid
from ommatid.nn.mixers import GatedPositionalAttention

TINY = {"image_size": 32, "patch_size": 8, "dim": 18, "heads": 9, "depth": 2, "num_classes": 3}


def test_heads_start_at_fixed_offsets() -> None:
    model = ommatid.create_model("convit", **TINY, local_layers=1, locality_strength=20.0)
    rows, columns = model.local_blocks[0].token.inner.position_weights((5, 5))
    for head in range(9):
        assert rows[head, 2].argmax() == 2 + head % 3 - 1
        assert columns[head, 2].argmax() == 2 + head // 3 - 1


def test_position_weights_are_a_softmax_over_the_map() -> None:
    mixer = GatedPositionalAttention(8, 2)
    rows, columns = 3, 4
    y, x = torch.arange(rows).repeat_interleave(columns), torch.arange(columns).repeat(rows)
    dx, dy = x[None, :] - x[:, None], y[None, :] - y[:, None]
    scores = mixer.position(torch.stack([dx, dy, dx**2 + dy**2], dim=-1).float()).permute(2, 0, 1)
    by_row, by_column = mixer.position_weights((rows, columns))
    product = torch.einsum("hij,hkl->hikjl", by_row, by_column).reshape(2, rows * columns, rows * columns)
    torch.testing.assert_close(product, scores.softmax(-1))


def test_without_ordinary_blocks_the_first_patch_is_classified() -> None:
    model = ommatid.create_model("convit", **TINY, local_layers=2).eval()
    image = torch.rand(1, 3, 32, 32)
    assert not any("class_token" in name for name, _ in model.named_parameters())
    first_patch = model.features(image)[0][:, :, 0, 0]
    torch.testing.assert_close(model.embed(image), model.norm(first_patch))
