"""The counts that `ommatid models` lists are those of the models that are built."""

import pytest

from ommatid.catalog.variants import counted_parameters
from ommatid.models import families
from ommatid.workflows.models import count_parameters

OWN = [id for id, family in families().items() if family.model.__module__.startswith("ommatid.")]


@pytest.mark.parametrize("id", OWN)
def test_counts_are_real(id: str) -> None:
    counted = counted_parameters()
    for name in families()[id].variants:
        assert counted.get(name) == count_parameters(name), f"{name}: run `python docs/variant_counts.py`"


def test_no_count_is_left_over() -> None:
    assert set(counted_parameters()) <= {name for family in families().values() for name in family.variants}
