import pytest
import torch

from ommatid.nn.lstm import LSTM
from ommatid.nn.pointer_network import PointerNetwork


def made(*, masked: bool) -> PointerNetwork:
    torch.manual_seed(0)
    network = PointerNetwork(2, 8, masked=masked)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    return network


@pytest.mark.parametrize("count", [1, 5, 9])
def test_masked_pointers_are_a_permutation(count):
    pointers, answer = made(masked=True).decode(torch.randn(3, count, 2))
    assert (pointers.sort(dim=1).values == torch.arange(count)).all()
    torch.testing.assert_close(answer.exp().sum(-1), torch.ones(3, count))


@pytest.mark.parametrize("masked", [False, True])
def test_told_its_own_pointers_it_answers_the_same(masked):
    network, elements = made(masked=masked), torch.randn(3, 6, 2)
    pointers, answer = network.decode(elements, 4)
    torch.testing.assert_close(network(elements, pointers).exp(), answer.exp())


@pytest.mark.parametrize(("masked", "steps"), [(True, 7), (False, 0)])
def test_refuses_steps_that_have_nothing_to_point_at(masked, steps):
    with pytest.raises(ValueError, match="allowed is"):
        made(masked=masked).decode(torch.randn(1, 6, 2), steps)


def test_lstm_is_that_of_pytorch():
    ours, theirs, inputs = LSTM(3, 5), torch.nn.LSTM(3, 5, batch_first=True), torch.randn(2, 4, 3)
    weights = {"weight_ih_l0": ours.weight_ih, "weight_hh_l0": ours.weight_hh, "bias_ih_l0": ours.bias}
    theirs.load_state_dict(weights | {"bias_hh_l0": torch.zeros(20)})
    hidden, state = ours(inputs)
    expected, (last, cell) = theirs(inputs)
    torch.testing.assert_close((hidden, *state), (expected, last[0], cell[0]))
