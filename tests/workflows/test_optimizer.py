import pytest
import torch
from torch import nn

from ommatid.models import create_model
from ommatid.workflows.optimizer import make_optimizer, parameter_groups, warmup_cosine
from ommatid.workflows.recipes import Recipe


def test_the_rate_rises_in_a_line_and_falls_as_a_cosine() -> None:
    rates = [warmup_cosine(step, warmup=4, steps=104) for step in range(105)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[54] == pytest.approx(0.5)
    assert rates[104] == pytest.approx(0.0)
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_vectors_and_exempt_tables_do_not_decay() -> None:
    model = create_model("vit_tiny", image_size=32, depth=1)
    decayed, free = parameter_groups(model, 0.05)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    free_names = {names[id(parameter)] for parameter in free["params"]}
    decayed_names = {names[id(parameter)] for parameter in decayed["params"]}
    assert {"position", "class_token", "head.bias", "token_norm.weight"} <= free_names
    assert {"head.weight", "stem.proj.weight"} <= decayed_names
    assert free_names | decayed_names == set(names.values())
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.05, 0.0)


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
