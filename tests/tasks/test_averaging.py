import torch
from torch import nn

from ommatid.tasks.averaging import move_average


def model(value: float) -> nn.Module:
    module = nn.BatchNorm1d(1)
    for tensor in (*module.parameters(), module.running_mean, module.running_var):
        nn.init.constant_(tensor, value)
    return module


def test_weights_and_statistics_move_by_one_minus_the_decay() -> None:
    averaged = model(0.0)
    move_average(averaged, model(1.0), step=10_000, decay=0.9)
    for tensor in (*averaged.parameters(), averaged.running_mean, averaged.running_var):
        assert tensor.item() == torch.tensor(0.1)


def test_the_decay_is_lower_at_first() -> None:
    averaged = model(0.0)
    move_average(averaged, model(1.0), step=1, decay=0.9)
    torch.testing.assert_close(averaged.weight.detach(), torch.tensor([1 - 2 / 11]))


def test_whole_numbers_are_copied() -> None:
    averaged, current = model(0.0), model(1.0)
    current.num_batches_tracked.fill_(7)
    move_average(averaged, current, step=100, decay=0.99)
    assert averaged.num_batches_tracked == 7


def test_no_gradient_is_recorded() -> None:
    averaged = model(0.0)
    move_average(averaged, model(1.0), step=1, decay=0.9)
    assert averaged.weight.grad_fn is None
