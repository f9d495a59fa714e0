import pytest
import torch

from ommatid.ops.sliding_window import sliding_window_attention, sliding_window_attention_reference


@pytest.mark.parametrize("reach", [0, 1, 5, 33, 200])
@pytest.mark.parametrize("length", [1, 40, 97, 130])
def test_blocks_agree_with_the_definition_in_answer_and_gradients(length: int, reach: int) -> None:
    generator = torch.Generator().manual_seed(length)
    inputs = [torch.randn(2, length, 3, 4, generator=generator, dtype=torch.float64) for _ in range(3)]
    inputs = [x.requires_grad_() for x in inputs]
    answers = [
        attend(*inputs, reach=reach) for attend in (sliding_window_attention, sliding_window_attention_reference)
    ]
    torch.testing.assert_close(*answers)
    gradients = [torch.autograd.grad(answer.square().sum(), inputs) for answer in answers]
    torch.testing.assert_close(*gradients)
