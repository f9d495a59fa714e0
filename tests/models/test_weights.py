"""Weights on disk: what is written comes back, what is not ours is refused."""

import pytest
import torch
from safetensors.torch import save_file

import ommatid
from ommatid.models.weights import read_header, save

TINY = {"dims": (8, 16), "depths": (1, 1), "num_classes": 3}


def test_header_carries_extra_strings(tmp_path) -> None:
    path = tmp_path / "model.safetensors"
    save(ommatid.create_model("convnext", **TINY), path, extra={"classes": '["a", "b", "c"]'})
    assert read_header(path)["classes"] == '["a", "b", "c"]'
    assert ommatid.load(path).config.dims == (8, 16)


def test_a_deployed_copy_is_not_saved(tmp_path) -> None:
    with pytest.raises(ValueError, match="deployed copy"):
        ommatid.create_model("convnext", **TINY).deploy().save(tmp_path / "model.safetensors")


def test_files_that_are_not_ours(tmp_path) -> None:
    text = tmp_path / "text.safetensors"
    text.write_text("hello")
    bare = tmp_path / "bare.safetensors"
    save_file({"weight": torch.zeros(2)}, str(bare))
    for path, message in [
        (text, "not a safetensors file"),
        (bare, "no ommatid header"),
        (tmp_path / "no", "no weights file"),
    ]:
        with pytest.raises(ValueError, match=message):
            ommatid.load(path)
