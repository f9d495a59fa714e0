"""A sketch says what the built model then is."""

import pytest
import torch

from ommatid.measuring.influence import class_influence, receptive_field
from ommatid.measuring.macs import count_macs
from ommatid.models import create_model
from ommatid.training.model_spec import parse_model
from ommatid.workshop.compose_page import fields_of
from ommatid.workshop.drawing import drawing
from ommatid.workshop.sketch import sketch

CONTROLS = (64, 10, 4, "overlap_conv", "patch_merging", "layer", "conditional")
STAGES = ("window", "mlp", 32, 1, "attention", "conv_glu", 64, 2, "large_kernel", "mlp", 64, 0)


def test_sketched_numbers_are_those_of_the_model() -> None:
    fields, size = fields_of(*CONTROLS, *STAGES)
    found = sketch(fields, size)
    model = create_model("pyramid", **fields)
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert found.macs == count_macs(model.eval(), torch.rand(1, 3, size, size))
    maps = model.features(torch.rand(1, 3, size, size))
    assert [row.shape for row in found.rows[1:-1]] == [(*one.shape[2:], one.shape[1]) for one in maps]
    assert str(drawing(found.rows)).count("<g>") == len(found.rows)


def test_the_file_is_one_that_compare_takes(tmp_path) -> None:
    fields, size = fields_of(*CONTROLS, *STAGES)
    (tmp_path / "mine.yaml").write_text(sketch(fields, size).yaml)
    spec = parse_model(str(tmp_path / "mine.yaml"))
    assert create_model(spec.name, **spec.settings).config.dims == (32, 64)


@pytest.mark.parametrize(
    ("change", "told"),
    [({0: 0}, "image side"), ({10: 0, 14: 0}, "at least one block"), ({7: "windw"}, "did you mean 'window'")],
)
def test_impossible_choices_are_refused_in_words(change: dict, told: str) -> None:
    values = [*CONTROLS, *STAGES]
    for index, value in change.items():
        values[index] = value
    with pytest.raises(ValueError, match=told):
        sketch(*fields_of(*values))


def test_influence_is_where_the_answer_comes_from() -> None:
    torch.manual_seed(0)
    model = create_model("convnext", dims=(8, 8), depths=(1, 1), num_classes=2)
    field = receptive_field(model, torch.randn(2, 3, 128, 128))
    assert field.shape == (128, 128)
    assert field.max() == 1
    assert field[:16].max() < 1e-6, "the middle of a convolutional map does not see the edge"
    assert class_influence(model, torch.randn(1, 3, 40, 50), 1).shape == (40, 50)
