import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from ommatid.ops import selective_scan as module
from ommatid.ops.selective_scan import selective_scan, selective_scan_reference

# (B, K, L, E, N): one step, one chunk, lengths that no chunk divides, several sequences, wide steps.
SHAPES = [(1, 1, 1, 3, 2), (2, 3, 50, 5, 4), (1, 2, 131, 7, 1), (1, 1, 49, 6, 16), (3, 1, 2, 1, 1)]


def random_inputs(shape, dtype=torch.float64, step=2.0) -> list[Tensor]:
    """u, delta, A, B, C, D; `step` is the largest step size."""
    batch, sequences, length, channels, size = shape
    generator = torch.Generator().manual_seed(sum(shape))

    def normal(*of: int) -> Tensor:
        return torch.randn(of, generator=generator, dtype=dtype)

    delta = step * torch.rand(batch, sequences, length, channels, generator=generator, dtype=dtype)
    decay = -4 * torch.rand(sequences, channels, size, generator=generator, dtype=dtype)
    read_and_write = [normal(batch, sequences, length, size) for _ in range(2)]
    return [normal(batch, sequences, length, channels), delta, decay, *read_and_write, normal(sequences, channels)]


def assert_versions_agree(inputs: list[Tensor], **tolerance: float) -> None:
    inputs = [x.requires_grad_() for x in inputs]
    probe = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1), dtype=inputs[0].dtype)
    answers = [version(*inputs) for version in (selective_scan, selective_scan_reference)]
    gradients = [torch.autograd.grad((answer * probe).sum(), inputs) for answer in answers]
    torch.testing.assert_close(*answers, **tolerance)
    torch.testing.assert_close(*gradients, **tolerance)


def test_reference_follows_the_recurrence():
    u, delta, A, B, C, D = random_inputs((1, 1, 6, 2, 3))  # noqa: N806
    for channel in range(2):
        state = torch.zeros(3, dtype=u.dtype)
        for t in range(6):
            step, value = delta[0, 0, t, channel], u[0, 0, t, channel]
            state = torch.exp(step * A[0, channel]) * state + step * B[0, 0, t] * value
            expected = torch.dot(C[0, 0, t], state) + D[0, channel] * value
            torch.testing.assert_close(selective_scan_reference(u, delta, A, B, C, D)[0, 0, t, channel], expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_fast_and_reference_agree_in_answer_and_gradients(shape):
    assert_versions_agree(random_inputs(shape))


@pytest.mark.parametrize("section", [1, 40, 200, 1000])
@pytest.mark.parametrize("step", [1, 30, 300])
def test_cutting_elsewhere_changes_nothing(monkeypatch, section, step):
    monkeypatch.setattr(module, "SECTION_STATES", section)
    monkeypatch.setattr(module, "STEP_STATES", step)
    assert_versions_agree(random_inputs((2, 2, 37, 3, 2)))


@pytest.mark.parametrize("step", [1e-6, 100.0])
def test_slow_and_fast_decays_stay_exact(step):
    inputs = random_inputs((1, 2, 150, 4, 3), torch.float32, step)
    exact = selective_scan_reference(*(x.double() for x in inputs))
    torch.testing.assert_close(selective_scan(*inputs).double(), exact, rtol=1e-5, atol=1e-5 * float(exact.abs().max()))


def test_gradients_match_finite_differences():
    inputs = [x.requires_grad_() for x in random_inputs((1, 2, 7, 2, 2))]
    assert torch.autograd.gradcheck(selective_scan, inputs)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_lower_precision_stays_close_to_double(dtype, tolerance):
    inputs = random_inputs((2, 2, 70, 5, 4), dtype)
    exact = selective_scan_reference(*(x.double() for x in inputs))
    answer = selective_scan(*inputs)
    assert answer.dtype == dtype
    torch.testing.assert_close(answer.double(), exact, rtol=tolerance, atol=tolerance)


def test_autocast_keeps_the_state_in_float32():
    inputs = random_inputs((2, 2, 70, 5, 4), torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        answer = selective_scan(*inputs)
    torch.testing.assert_close(answer, selective_scan(*inputs))


def test_what_is_kept_for_the_backward_pass_grows_with_the_length_alone():
    def kept(length: int, size: int) -> int:
        numbers = []
        inputs = [x.requires_grad_() for x in random_inputs((1, 1, length, 32, size), torch.float32)]
        with torch.autograd.graph.saved_tensors_hooks(lambda x: numbers.append(x.numel()) or x, lambda x: x):
            selective_scan(*inputs)
        return sum(numbers)

    states = 2048 * 32 * 16
    assert kept(2048, 16) < states / 2
    assert kept(2048, 16) < 2.2 * kept(1024, 16)


class Scan(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.A_log = torch.nn.Parameter(torch.rand(2, 5, 4))

    def forward(self, u: Tensor, delta: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:  # noqa: N803
        return selective_scan(u, delta, -self.A_log.exp(), B, C, D)


def test_export_agrees():
    u, delta, _, B, C, D = random_inputs((2, 2, 70, 5, 4), torch.float32)  # noqa: N806
    scan = Scan().eval()
    exported = torch.export.export(scan, (u, delta, B, C, D)).run_decompositions().module()
    torch.testing.assert_close(exported(u, delta, B, C, D), scan(u, delta, B, C, D))


def test_fake_tensors_give_shapes():
    with FakeTensorMode():
        u, state = torch.randn(2, 2, 70, 5), torch.randn(2, 2, 70, 4)
        answer = selective_scan(u, u, torch.randn(2, 5, 4), state, state, torch.randn(2, 5))
    assert answer.shape == u.shape


@pytest.mark.parametrize("version", [selective_scan, selective_scan_reference])
def test_inputs_that_do_not_fit_together_are_refused(version):
    u, delta, A, B, C, D = random_inputs((2, 3, 8, 5, 4))  # noqa: N806
    with pytest.raises(ValueError, match="u and delta must share one shape"):
        version(u, delta[:, :, 1:], A, B, C, D)
    with pytest.raises(ValueError, match="u and delta must share one shape"):
        version(u[:, :, :0], delta[:, :, :0], A, B[:, :, :0], C[:, :, :0], D)
    with pytest.raises(ValueError, match=r"A must have the shape \(3, 5, 'N'\) and D the shape \(3, 5\)"):
        version(u, delta, A, B, C, D[:1])
    with pytest.raises(ValueError, match=r"B and C must have the shape \(2, 3, 8, 4\)"):
        version(u, delta, A, B, C[..., :3], D)
