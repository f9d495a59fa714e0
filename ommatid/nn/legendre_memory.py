"""The Legendre memory as a layer without parameters."""

from __future__ import annotations

from torch import Tensor, nn

from ommatid.nn.streaming import Step
from ommatid.ops.legendre import impulse_response, legendre_system, remembered


class LegendreMemory(nn.Module):
    """The last steps of one signal, as coefficients of Legendre polynomials: (B, 1, N, 1) -> (B, 1, N, order).

    "Legendre Memory Units: Continuous-Time Representation in Recurrent Neural Networks" (NeurIPS 2019). Cost: of the
    Fourier transforms, 2 N order log N. One step after another (`step`): order^2 multiply-adds each.

    Args:
        order: number of coefficients.
        window: steps that they describe.
        length: N.
    """

    transition: Tensor
    entry: Tensor
    response: Tensor

    def __init__(self, order: int, window: float, length: int) -> None:
        super().__init__()
        transition, entry = legendre_system(order, window)
        derived = {"transition": transition, "entry": entry, "response": impulse_response(transition, entry, length)}
        for name, value in derived.items():
            self.register_buffer(name, value.float(), persistent=False)

    def forward(self, signal: Tensor) -> Tensor:
        return remembered(signal.squeeze(-1), self.response)

    def step(self) -> Step:
        """The same for one step after another: (B, 1, 1, 1) -> (B, 1, 1, order). Their number is free."""
        memory: Tensor | None = None

        def run(signal: Tensor) -> Tensor:
            nonlocal memory
            entering = signal * self.entry
            memory = entering if memory is None else memory @ self.transition.T + entering
            return memory

        return run

    def extra_repr(self) -> str:
        length, order = self.response.shape
        return f"order={order}, length={length}"
