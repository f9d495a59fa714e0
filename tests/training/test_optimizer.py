from typing import Any

import pytest
import torch
from torch import nn

from ommatid.models import create_model, families
from ommatid.models.registry import is_classifier
from ommatid.training.optimizer import make_optimizer, parameter_groups, scaled_groups, warmup_cosine
from ommatid.training.recipes import Recipe
from ommatid.training.settings import Settings
from ommatid.training.tasks import TASKS


def test_the_rate_rises_in_a_line_and_falls_as_a_cosine() -> None:
    rates = [warmup_cosine(step, warmup=4, steps=104) for step in range(105)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[54] == pytest.approx(0.5)
    assert rates[104] == pytest.approx(0.0)
    assert rates[4:] == sorted(rates[4:], reverse=True)


class WithTable(nn.Module):
    no_decay = ("position",)

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(1, 4, 8))
        self.norm = nn.LayerNorm(8)
        self.linear = nn.Linear(8, 2)


@pytest.mark.parametrize("nested", [False, True])
def test_vectors_and_exempt_tables_do_not_decay(nested: bool) -> None:
    model = nn.Sequential(WithTable()) if nested else WithTable()
    model.no_decay = WithTable.no_decay
    decayed, free = parameter_groups(model, 0.05)
    names = {parameter: name.removeprefix("0.") for name, parameter in model.named_parameters()}
    assert {names[parameter] for parameter in decayed["params"]} == {"linear.weight"}
    assert {names[parameter] for parameter in free["params"]} == {
        "position",
        "norm.weight",
        "norm.bias",
        "linear.bias",
    }
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.05, 0.0)


def test_what_has_no_exemptions_decays_in_its_matrices() -> None:
    decayed, _ = parameter_groups(nn.Linear(3, 3), 0.1)
    assert len(decayed["params"]) == 1


def test_the_schedule_is_per_step_and_ends_at_zero() -> None:
    recipe = Recipe(name="r", epochs=5, batch=2, lr=0.5, warmup_epochs=1)
    optimizer, schedule = make_optimizer(nn.Linear(2, 2), recipe=recipe, steps=50)
    rates = []
    for _ in range(50):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert max(rates) == rates[10] == 0.5
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0)
    assert torch.tensor(rates[:11]).diff().gt(0).all()


def rates_of(model: nn.Module, **rates: float) -> dict[int, float]:
    recipe = Recipe(name="mine", epochs=1, batch=1, lr=1.0, **rates)
    return {id(parameter): group["lr"] for group in scaled_groups(model, recipe) for parameter in group["params"]}


CLASSIFIERS = [id for id, family in families().items() if is_classifier(family, family.config())]


@pytest.mark.parametrize("family", CLASSIFIERS)
def test_a_classifier_has_the_full_rate_at_its_head_and_less_towards_its_stem(family: str) -> None:
    with torch.device("meta"):
        model: Any = create_model(family, num_classes=3)
    rates = rates_of(model, layer_decay=0.5)
    assert set(rates) == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert len(model.body) >= 1
    for place, part in enumerate(model.body):
        found = {rates[id(parameter)] for parameter in part.parameters() if parameter.requires_grad}
        assert found <= {0.5 ** (len(model.body) - 1 - place)}
    assert {rates[id(parameter)] for parameter in model.head.parameters()} <= {1}
    assert min(rates.values()) < 1 or len(model.body) == 1


def test_norms_behind_the_last_block_learn_as_it_does() -> None:
    model: Any = create_model("vit", dim=8, depth=3, heads=2, num_classes=3, image_size=32)
    rates = rates_of(model, layer_decay=0.5, backbone_lr=0.1)
    assert rates[id(model.head.weight)] == 1
    assert rates[id(model.token_norm.weight)] == rates[id(model.blocks[2].token.norm.weight)] == pytest.approx(0.1)
    assert rates[id(model.stem.proj.weight)] == pytest.approx(0.1 * 0.5**3)


def test_rates_that_a_model_has_no_parts_for_are_refused() -> None:
    with pytest.raises(ValueError, match="not possible for Linear: it has no backbone"):
        rates_of(nn.Linear(2, 2), layer_decay=0.5)


@pytest.mark.parametrize(
    ("task", "rates", "message"),
    [
        ("restoration", {"layer_decay": 0.5}, "layer_decay = 0.5 is not possible: allowed is 1 for restoration"),
        ("classification", {"class_balance": 0.5}, "class_balance = 0.5 is not possible: allowed is 0 for classif"),
        ("detection", {"class_balance": 0.5}, "class_balance = 0.5 is not possible: allowed is 0 for detection"),
        ("classification", {"backbone_lr": 0.0}, "backbone_lr = 0.0 is not possible: allowed is above 0 for classif"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(task: str, rates: dict[str, float], message: str) -> None:
    recipe = Recipe(name="mine", epochs=1, batch=1, lr=1.0, **rates)
    kind = TASKS[task]
    model, fields = kind.composed(kind.model, kind.model_fields, None)
    with pytest.raises(ValueError, match=message) as caught:
        Settings(data="x", model=model, set=fields, recipe=recipe, task=task)
    assert "\n" not in str(caught.value)


def test_a_backbone_has_rates_of_its_own_stage_by_stage() -> None:
    small = {"dims": [4, 4, 4, 4], "depths": [1, 1, 1, 1], "heads": [1, 1, 1, 1]}
    model: Any = create_model("segmenter", backbone="pvt_v2", backbone_fields=small, decoder_dim=8, num_classes=2)
    rates = rates_of(model, backbone_lr=0.5, layer_decay=0.1)
    assert len(rates) == len(list(model.parameters()))
    for number, stage in enumerate(model.backbone.stages):
        for parameter in stage.parameters():
            assert rates[id(parameter)] == pytest.approx(0.5 * 0.1 ** (3 - number))
    assert rates[id(model.classifier.weight)] == 1.0
