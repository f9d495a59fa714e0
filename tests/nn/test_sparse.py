"""Zeros stay zero in training, and cost little on disk."""

from __future__ import annotations

import pytest
import torch

import ommatid
from ommatid.nn.sparse import hold_zeros_, pack, semi_structured_, unpack


def sparse_vit():
    torch.manual_seed(0)
    model = ommatid.create_model("vit", image_size=32, patch_size=8, dim=64, depth=2, heads=4, num_classes=5).eval()
    names = [name for name, value in model.named_parameters() if name.endswith(("qkv.weight", "fc1.weight"))]
    with torch.no_grad():
        for name in names:
            model.get_parameter(name).mul_(torch.rand(model.get_parameter(name).shape) > 0.9)
    hold_zeros_(model, names)
    return model, names


def test_packing_is_exact_for_any_shape() -> None:
    state = {"a": torch.randn(3, 5) * (torch.rand(3, 5) > 0.5), "b": torch.randn(2, 3, 3, 3), "c": torch.zeros(7)}
    back = unpack(pack(state, ["a", "b", "c"]))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_zeros_survive_steps_saving_and_more_steps(tmp_path) -> None:
    model, names = sparse_vit()
    dense = ommatid.create_model("vit", **model.config.to_dict())
    dense.save(tmp_path / "dense.safetensors")
    for _ in range(2):
        zeros = {name: model.get_parameter(name) == 0 for name in names}
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.rand(2, 3, 32, 32)).square().sum().backward()
            optimizer.step()
        assert all(model.get_parameter(name)[zeros[name]].eq(0).all() for name in names)
        model.save(tmp_path / "sparse.safetensors")
        loaded = ommatid.load(tmp_path / "sparse.safetensors")
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())
        model = loaded
    assert (tmp_path / "sparse.safetensors").stat().st_size < 0.75 * (tmp_path / "dense.safetensors").stat().st_size


def test_sparse_kernels_are_refused_where_there_are_none() -> None:
    with pytest.raises(ValueError, match="need a CUDA GPU"):
        semi_structured_(sparse_vit()[0])
