"""Parts by name: all of them, those of other packages too, and what is told of each."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest
import torch
from torch import Tensor, nn

import ommatid.nn.parts.registry as registry
from ommatid.nn import mixers
from ommatid.nn.parts import Place, add_part, build_part, find_part, mixer, parts
from ommatid.nn.parts.table import mixer_names
from ommatid.workflows.parts import parts_table


def test_every_exported_mixer_has_a_name_and_needs_nothing_said() -> None:
    names = mixer_names()
    assert sorted(names.values()) == sorted(mixers.__all__)
    assert set(names) <= set(parts("mixer"))
    for role in ("mixer", "channel_mixer"):
        for part in parts(role).values():
            assert not part.unruled, f"{part.name}: nn/parts/rules.py has no usual value for {part.unruled}"


@pytest.mark.parametrize("role", ["mixer", "channel_mixer"])
def test_every_part_tells_its_cost(role) -> None:
    for row in parts_table(role=role):
        assert row.cost, row.part
        assert row.idea, row.part
        if role == "mixer" and row.part != "none":
            assert "arXiv" in row.paper, row.part


def test_a_mistyped_pattern_or_role_is_told() -> None:
    with pytest.raises(ValueError, match="did you mean 'window'"):
        parts_table("windw")
    with pytest.raises(ValueError, match="role = 'rol' is not possible"):
        parts_table(role="rol")


def test_other_packages_add_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_parts", {role: dict(known) for role, known in registry._parts.items()})
    monkeypatch.setattr(registry, "entry_points", lambda group: [EntryPoint("shift", __name__ + ":add_shift", group)])
    monkeypatch.setattr(EntryPoint, "load", lambda self: add_shift())
    registry._discover.cache_clear()
    try:
        found = find_part("mixer", "test_shift")
    finally:
        registry._discover.cache_clear()
    assert found.unruled == []
    x = torch.rand(1, 3, 4, 8)
    assert torch.equal(build_part("mixer", "test_shift", {}, Place(8)).forward(x), x.roll(2, 1))
    monkeypatch.undo()
    registry._discover.cache_clear()


def add_shift() -> None:
    @mixer("test_shift", step=lambda place, values: 2)
    class Shift(nn.Module):
        """Rolls the rows: (B, H, W, C) -> (B, H, W, C). Cost: 0."""

        def __init__(self, dim: int, step: int) -> None:
            super().__init__()
            self.step = step

        def forward(self, x: Tensor) -> Tensor:
            return x.roll(self.step, 1)


def test_a_name_stands_for_one_part() -> None:
    parts("mixer")
    with pytest.raises(ValueError, match="mixer 'window' is already there"):
        add_part("mixer", "window")(nn.Identity)
