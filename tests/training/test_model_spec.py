"""model_spec: a model and its settings in one word."""

import pytest

from ommatid.training.model_spec import ModelSpec, parse_model, split_models


def test_a_name_alone() -> None:
    assert parse_model(" swin_tiny ") == ModelSpec("swin_tiny", "swin_tiny", {})


def test_settings_in_brackets() -> None:
    spec = parse_model("pvt_v2[dims=[8,16],linear=true,qkv_bias=false,drop_path_rate=0.1]")
    assert spec.name == "pvt_v2"
    assert spec.settings == {"dims": [8, 16], "linear": True, "qkv_bias": False, "drop_path_rate": 0.1}


@pytest.mark.parametrize("text", ["", "a b", "swin[", "swin[depths=[1]", "[depths=[1]]", "swin]"])
def test_what_is_no_model(text: str) -> None:
    with pytest.raises(ValueError, match="is not a model: write NAME"):
        parse_model(text)


def test_lists_part_at_commas_outside_of_brackets() -> None:
    assert split_models("a,b[c=1,d=[2,3]], e,,") == ["a", "b[c=1,d=[2,3]]", "e"]


def test_common_settings_reach_those_that_have_the_field() -> None:
    common = {"window_size": 4, "drop_path_rate": 0.1}
    assert parse_model("swin_tiny").config(common) == common
    assert parse_model("pvt_v2_b0").config(common) == {"drop_path_rate": 0.1}
    assert parse_model("swin_tiny[window_size=8]").config(common) == {"window_size": 8, "drop_path_rate": 0.1}


def test_folders_differ_where_settings_do() -> None:
    words = ("swin_tiny", "swin_tiny[window_size=4]", "swin_tiny[window_size=8]")
    assert len({parse_model(word).folder for word in words}) == 3
