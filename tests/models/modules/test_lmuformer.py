"""LMUFormer: frame after frame it answers as on the whole sequence, and other lengths are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ommatid.models import create_model
from ommatid.nn.spiking import firing_rates
from ommatid.ops.legendre import impulse_response, legendre_system, remembered, remembered_reference

SHAPE: dict[str, Any] = {"in_channels": 5, "dim": 12, "depth": 2, "mlp_ratio": 2, "num_classes": 3, "threshold": 0.1}


def network(variant: str) -> Any:
    torch.manual_seed(0)
    model = create_model("lmuformer", variant=variant, sequence_length=17, theta=9, **SHAPE)
    for _ in range(20):  # batch norms that have seen something
        model(torch.randn(4, 17, 5))
    return model.eval()


@pytest.mark.parametrize("variant", ["lmu", "spiking_lmu"])
def test_a_stream_answers_as_the_whole_sequence(variant: str) -> None:
    model, sequence = network(variant).double(), torch.randn(2, 17, 5, dtype=torch.float64)
    answers = list(model.stream(iter(sequence.unbind(1))))
    with torch.no_grad():
        expected = model.logits_sequence(sequence)
        torch.testing.assert_close(model(sequence), expected[:, -1])
    torch.testing.assert_close(torch.stack(answers, 1), expected)


def test_a_stream_is_five_frames_late() -> None:
    taken = 0

    def frames() -> Any:
        nonlocal taken
        for frame in torch.randn(17, 2, 5):
            taken += 1
            yield frame

    answers = network("spiking_lmu").stream(frames())
    next(answers)
    assert taken == 6
    next(answers)
    assert taken == 7


def test_attention_has_no_stream() -> None:
    with pytest.raises(ValueError, match=r"variant = 'spiking_attention'.*allowed is 'lmu' or 'spiking_lmu'"):
        next(create_model("lmuformer", variant="spiking_attention", heads=2, **SHAPE).stream([]))


def test_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="length of the sequence = 16 is not possible: allowed is 17"):
        network("lmu")(torch.randn(2, 16, 5))


def test_neurons_fire_less_where_the_threshold_is_higher() -> None:
    model = network("spiking_lmu")
    rates = [firing_rates(_with_threshold(model, threshold), [torch.randn(2, 17, 5)]) for threshold in (0.1, 0.8)]
    assert set(rates[0].neurons) == set(rates[1].neurons)
    assert 0 < rates[1].overall < rates[0].overall < 1


def _with_threshold(model: Any, threshold: float) -> Any:
    raised = create_model("lmuformer", **model.config.to_dict() | {"threshold": threshold}).eval()
    raised.load_state_dict(model.state_dict())
    return raised


def test_the_memory_is_its_recurrence() -> None:
    transition, entry = legendre_system(6, 11.0)
    signal = torch.randn(2, 3, 40, dtype=torch.float64)
    expected = remembered_reference(signal, transition, entry)
    torch.testing.assert_close(remembered(signal, impulse_response(transition, entry, 40)), expected)
