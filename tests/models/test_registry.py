"""What a user types finds the right model, or gets help."""

import re

import pytest

import ommatid
from ommatid.models import Config, families, family_of, register


def test_wildcards() -> None:
    assert "swin_tiny" in ommatid.list_models("swin_*")
    assert ommatid.list_models("no_such_*") == []
    assert ommatid.list_models() == sorted(ommatid.list_models())


def test_variant_names_are_unique() -> None:
    names = [name for family in families().values() for name in family.variants]
    assert len(names) == len(set(names))


def test_variant_with_overrides() -> None:
    model = ommatid.create_model("pvt_v2_b0", num_classes=7, depths=(1, 1, 1, 1))
    assert model.head.out_features == 7
    assert family_of(model).id == "pvt_v2"


def test_family_with_a_config() -> None:
    assert ommatid.create_model("convnext", dims=(8, 16), depths=(1, 1)).channels == (8, 16)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("swin_tinny", {}, "did you mean 'swin_tiny'"),
        ("swin_tiny", {"head": 3}, "did you mean 'heads'"),
        ("swin_tiny", {"heads": (3, 6, 12, 23)}, "a divisor of the width (768)"),
        ("swin_tiny", {"depths": (2, 2)}, "one entry for each of the 4 stages"),
        ("vit_tiny", {"class_token": False}, "global_pool = 'token'"),
        ("vit_tiny", {"image_size": 8}, "at least one patch of 16"),
        ("nat_mini", {"kernel_size": 4}, "an odd integer above 1"),
    ],
)
def test_impossible_requests_say_what_is_allowed(name: str, overrides: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        ommatid.create_model(name, **overrides)


def test_an_id_can_be_taken_once() -> None:
    with pytest.raises(ValueError, match="already registered"):
        register("swin", Config)(type("Impostor", (ommatid.models.Backbone,), {"__module__": "elsewhere"}))


def test_a_part_of_a_family_is_built_saved_and_recognised(tmp_path) -> None:
    sizes = {"dim": 8, "heads": 2, "resolution": (3, 4), "sr_ratio": 1, "shared_head": 1, "routed_head": 1}
    layer = ommatid.create_model("moh", part="module", **sizes)
    assert not isinstance(layer, families()["moh"].model)
    assert family_of(layer).id == "moh"
    ommatid.models.save(layer, tmp_path / "layer.safetensors")
    assert type(ommatid.load(tmp_path / "layer.safetensors")) is type(layer)
