"""Slices must change when the work happens, never what comes out."""

import pytest
import torch
from torch import Tensor, nn

from ommatid.ops.slices import FEWEST, NUMBERS_PER_THREAD, TOKENS_PER_THREAD, in_slices

WIDE = NUMBERS_PER_THREAD // TOKENS_PER_THREAD


class Recorder(nn.Module):
    """Remembers how many entries each call was given."""

    def __init__(self) -> None:
        super().__init__()
        self.lengths: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.lengths.append(len(x))
        return x.exp()


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    return Recorder()


@pytest.mark.parametrize(
    ("shape", "lengths"),
    [
        ((FEWEST * TOKENS_PER_THREAD - 1, WIDE), [FEWEST * TOKENS_PER_THREAD - 1]),
        ((FEWEST * TOKENS_PER_THREAD, WIDE), [TOKENS_PER_THREAD] * FEWEST),
        ((FEWEST * TOKENS_PER_THREAD + 2, WIDE), [TOKENS_PER_THREAD + 1] * (FEWEST - 1) + [TOKENS_PER_THREAD - 1]),
        ((3, 32, 32, WIDE), [1, 1, 1]),
        ((11, 16, 16, WIDE), [3, 3, 3, 2]),
        ((3, 4, 4, WIDE), [3]),
        ((FEWEST * TOKENS_PER_THREAD, 2 * WIDE), [TOKENS_PER_THREAD] * FEWEST),
        ((FEWEST * TOKENS_PER_THREAD, WIDE // 4), [FEWEST * TOKENS_PER_THREAD]),
        ((4 * FEWEST * TOKENS_PER_THREAD, WIDE // 4), [4 * TOKENS_PER_THREAD] * FEWEST),
    ],
)
def test_slices_hold_enough_tokens_and_give_the_whole(
    recorder: Recorder, shape: tuple[int, ...], lengths: list[int]
) -> None:
    x = torch.randn(shape)
    with torch.no_grad():
        sliced = in_slices(recorder, x)
    assert recorder.lengths == lengths
    torch.testing.assert_close(sliced, x.exp(), rtol=0, atol=0)


def test_all_at_once_where_gradients_are_recorded(recorder: Recorder) -> None:
    in_slices(recorder, torch.randn(4 * TOKENS_PER_THREAD, WIDE))
    assert recorder.lengths == [4 * TOKENS_PER_THREAD]


def test_an_empty_batch_stays_empty(recorder: Recorder) -> None:
    with torch.no_grad():
        assert in_slices(recorder, torch.empty(0, 7, WIDE)).shape == (0, 7, WIDE)


def test_exported_programs_hold_no_slices() -> None:
    class Sliced(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return in_slices(torch.exp, x)

    with torch.no_grad():
        program = torch.export.export(Sliced(), (torch.randn(4 * TOKENS_PER_THREAD, WIDE),))
    called = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert called == ["aten.exp.default"]
