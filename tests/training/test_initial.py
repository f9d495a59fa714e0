"""Weights that a training starts from: ours, the reference's, and what is neither."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ommatid.catalog import parity
from ommatid.models import create_model, load_reference, save
from ommatid.training.initial import check_patch, check_size, fresh_model, model_from_weights

CASES = Path(__file__).parents[1] / "parity" / "cases"
SHAPE = {"dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "heads": [1, 1, 2, 2]}


def ours(path: Path, num_classes: int) -> nn.Module:
    model = create_model("pvt_v2_b0", num_classes=num_classes, **SHAPE)
    save(model, path)
    return model


def start(weights: Path, said: list[str], num_classes: int = 5, name: str = "pvt_v2_b0", **settings: Any) -> nn.Module:
    return model_from_weights(weights, name, settings, num_classes=num_classes, size=32, say=said.append)


def differing(model: nn.Module, other: nn.Module) -> set[str]:
    theirs = other.state_dict()
    return {
        name
        for name, tensor in model.state_dict().items()
        if tensor.shape != theirs[name].shape or not tensor.equal(theirs[name])
    }


def test_our_own_weights_are_all_placed(tmp_path: Path) -> None:
    model, said = ours(tmp_path / "w.safetensors", 5), []
    assert differing(start(tmp_path / "w.safetensors", said), model) == set()
    assert said == []


def test_a_head_for_other_classes_starts_fresh_and_that_is_said(tmp_path: Path) -> None:
    model, said = ours(tmp_path / "w.safetensors", 7), []
    assert differing(start(tmp_path / "w.safetensors", said), model) == {"head.weight", "head.bias"}
    assert "the head (head.weight, head.bias) starts fresh" in said[0]


def test_settings_that_change_other_shapes_are_refused(tmp_path: Path) -> None:
    ours(tmp_path / "w.safetensors", 5)
    with pytest.raises(ValueError, match=r"does not fit pvt_v2: it has no .* of that shape"):
        start(tmp_path / "w.safetensors", [], mlp_ratios=[2, 2, 2, 2])


def test_another_family_is_refused(tmp_path: Path) -> None:
    ours(tmp_path / "w.safetensors", 5)
    with pytest.raises(ValueError, match="holds a pvt_v2, not a swin_tiny"):
        start(tmp_path / "w.safetensors", [], name="swin_tiny")


@pytest.mark.parametrize("form", ["safetensors", "pth", "nested pth"])
def test_a_reference_checkpoint(form: str, tmp_path: Path) -> None:
    case = parity.load_case(CASES / "pvt_v2", "tiny")
    state = {name: torch.as_tensor(value).clone() for name, value in case.state().items()}
    path = tmp_path / f"reference.{form.split()[-1]}"
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save({"model": state, "epoch": 3} if form == "nested pth" else state, path)
    expected = create_model("pvt_v2", **case.config)
    load_reference(expected, state)
    said: list[str] = []
    settings = {name: value for name, value in case.config.items() if name != "num_classes"}
    model = start(path, said, num_classes=case.config["num_classes"] + 1, name="pvt_v2", **settings)
    assert differing(model, expected) == {"head.weight", "head.bias"}
    assert "starts fresh" in said[0]


class Surprise:
    def __reduce__(self) -> Any:
        return print, ("this must not run",)


def test_a_pickle_runs_no_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": Surprise()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match=r"evil\.pth can't be read as weights") as caught:
        start(tmp_path / "evil.pth", [])
    assert "\n" not in str(caught.value)
    assert "must not run" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("content", [b"", b"abc", b"neither weights nor a pickle"])
def test_a_file_that_is_no_weights(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} (can't be read|is not)") as caught:
        start(tmp_path / name, [])
    assert "\n" not in str(caught.value)


def test_a_checkpoint_without_tensors(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="holds no state dict"):
        start(tmp_path / "w.pth", [])


def test_a_size_that_the_model_does_not_take() -> None:
    with pytest.raises(ValueError, match="size = 8 is not possible for ConvNeXt"):
        check_size(create_model("convnext_tiny", depths=[1, 1, 1, 1], num_classes=3), 8, 3)


def test_an_embedding_is_no_classifier() -> None:
    with pytest.raises(ValueError, match="does not give one number per class"):
        check_size(create_model("pvt_v2_b0", num_classes=0, **SHAPE), 32, 3)


def test_a_fresh_model_has_the_tables_and_windows_of_its_image_size() -> None:
    with torch.device("meta"):
        assert fresh_model("vit_tiny", {}, size=64, num_classes=5).config.image_size == 64
        maxvit = fresh_model("maxvit_tiny_224", {}, size=64, num_classes=5)
    assert (maxvit.config.window_size, maxvit.config.grid_size) == (2, 2)
    check_size(fresh_model("maxvit", {"depths": [1, 1, 1, 1]}, size=64, num_classes=5), 64, 5)


def test_a_restoration_network_without_a_scale_fits_data_of_its_own_size_only() -> None:
    maxim = {"dim": 8, "depth": 2, "num_stages": 1, "num_groups": 1, "supervision_scales": 1, "high_res_levels": 1}
    sizes = {name: [4, 4] for name in ("block_size_hr", "grid_size_hr", "block_size_lr")}
    model = fresh_model("maxim", maxim | sizes | {"bottleneck_blocks": 1}, size=16, scale=1)
    check_patch(model, 16, 1)
    with pytest.raises(ValueError, match="not 2 times its sides"):
        check_patch(model, 16, 2)
