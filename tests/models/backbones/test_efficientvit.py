"""EfficientViT's tables of distances follow the image size."""

import torch

import ommatid
from ommatid.models.backbones.efficientvit import resize_table

TINY = {"dims": (16, 24), "depths": (1, 1), "heads": (2, 2), "key_dims": (4, 4), "window_sizes": (7, 7)}


def test_tables_of_another_image_size_are_resampled() -> None:
    names = {"stages.0.blocks.0": "blocks1.0", "stages.1.blocks.0": "blocks2.3"}
    state = {f"{theirs}.mixer.m.attn.attention_biases": torch.randn(2, 49) for theirs in names.values()}
    model = ommatid.create_model("efficientvit", **TINY, image_size=64, num_classes=3)
    report = ommatid.load_reference(model, state)
    assert report.placed == 2
    assert not report.mismatched
    for ours, theirs in names.items():
        table = model.get_submodule(f"{ours}.attention.inner.mixer.bias").table
        side = 4 if ours.startswith("stages.0") else 2
        assert torch.equal(table, resize_table(state[f"{theirs}.mixer.m.attn.attention_biases"], side))


def test_resampling_keeps_a_constant_table() -> None:
    torch.testing.assert_close(resize_table(torch.full((3, 49), 0.5), 4), torch.full((3, 16), 0.5))
