import pytest
import torch

import ommatid
from ommatid.ops.residual_expansion import residual_expansion, residual_stack


def both(*, depth=3, act="tanh", scale=1.0):
    """The two forms, with the same weights, in double precision."""
    torch.manual_seed(0)
    forms = [
        ommatid.create_model(
            "shallow_parallel", form=form, dim=6, depth=depth, act=act, kernel_size=3, num_classes=4
        ).double()
        for form in ("sequential", "parallel")
    ]
    for parameter in forms[0].residual.parameters():
        parameter.detach().mul_(scale)
    forms[1].load_state_dict(forms[0].state_dict())
    return forms


def difference(scale, **settings):
    torch.manual_seed(1)
    image = torch.randn(2, 3, 9, 7, dtype=torch.float64)
    sequential, parallel = (form(image) for form in both(scale=scale, **settings))
    return (sequential - parallel).abs().max().item()


def test_one_layer_is_both_forms():
    assert difference(1.0, depth=1) < 1e-12
    assert difference(1.0, depth=2) > 1e-3


@pytest.mark.parametrize("act", ["relu", "tanh", "none"])
def test_layers_of_zeros_leave_the_stem(act):
    image = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    for form in both(act=act, scale=0.0):
        stem = form.act(form.stem(image.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        torch.testing.assert_close(form.features(image)[0], stem)


def test_forms_differ_in_second_order():
    assert difference(1e-3) / difference(1e-4) == pytest.approx(100, rel=0.05)


def test_parallel_layers_have_no_order():
    _, model = both()
    image = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    before = model(image)
    model.residual.layers = torch.nn.ModuleList(reversed(model.residual.layers))
    torch.testing.assert_close(model(image), before)


def test_whole_expansion_is_the_stack():
    torch.manual_seed(0)
    x, weights = torch.randn(2, 5, dtype=torch.float64), list(torch.randn(4, 5, 5, dtype=torch.float64))
    terms = residual_expansion(x, weights)
    torch.testing.assert_close(terms.sum(1), residual_stack(x, weights))
    torch.testing.assert_close(terms[:, 1], sum(x @ weight.T for weight in weights))
