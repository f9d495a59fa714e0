"""Configs are checked on creation and survive JSON."""

import json
from dataclasses import dataclass

import pytest

from ommatid.models import Config, families
from ommatid.models.config import require_positive


@dataclass(frozen=True, kw_only=True)
class Example(Config):
    dims: tuple[int, ...] = (8, 16)
    ratio: float = 4.0
    scale: float | None = None
    size: int | tuple[int, int] = 224
    deep: tuple[tuple[int, ...], ...] | None = None
    flag: bool = True


@pytest.mark.parametrize("id", families())
def test_every_variant_survives_json(id: str) -> None:
    for config in families()[id].variants.values():
        assert type(config).from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_json_values_take_the_declared_types() -> None:
    config = Example.from_dict({"dims": [4, 8], "ratio": 3, "size": [32, 48], "deep": [[1, 2], [3]]})
    assert config.dims == (4, 8)
    assert isinstance(config.ratio, float)
    assert config.size == (32, 48)
    assert config.deep == ((1, 2), (3,))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dims": 8}, "dims = 8 is not possible: allowed is a list"),
        ({"dims": ["a"]}, "dims = 'a' is not possible: allowed is an integer"),
        ({"flag": 1}, "flag = 1 is not possible: allowed is true or false"),
        ({"ratio": True}, "allowed is a number"),
        ({"size": [1, 2, 3]}, "allowed is an integer or a list of 2"),
        ({"num_classes": -1}, "num_classes = -1"),
        ({"drop_path_rate": 1.0}, "drop_path_rate = 1.0"),
        ({"ratios": 4.0}, "did you mean 'ratio'"),
    ],
)
def test_wrong_values_are_named(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        Example.from_dict(values)


@pytest.mark.parametrize(
    ("fields", "allowed"),
    [
        ({"dim": 0}, "a positive integer"),
        ({"ratio": 0.0}, "a positive number"),
        ({"dims": (4, -1)}, "positive integers"),
    ],
)
def test_numbers_that_must_be_positive(fields: dict, allowed: str) -> None:
    require_positive(dim=1, ratio=0.5, dims=(4, 1))
    with pytest.raises(ValueError, match=f"allowed is {allowed}$"):
        require_positive(**fields)
