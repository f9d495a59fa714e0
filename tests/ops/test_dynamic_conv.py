"""The fast dynamic convolution against its definition."""

import pytest
import torch

from ommatid.ops.dynamic_conv import dynamic_conv, dynamic_conv_reference

SIZES = [(1, 1, 3, 1, 1), (2, 5, 7, 16, 2), (3, 8, 4, 24, 3)]


def operands(size: tuple[int, ...], taps: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    batch, height, width, channels, groups = size
    torch.manual_seed(0)
    features = torch.randn(batch, height, width, channels, dtype=dtype, requires_grad=True)
    return features, torch.randn(batch, height, width, taps, groups, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("taps", [1, 9, 25])
def test_agrees_with_the_definition_forward_and_backward(size: tuple[int, ...], taps: int) -> None:
    inputs = operands(size, taps, torch.float32)
    fast, expected = dynamic_conv(*inputs), dynamic_conv_reference(*inputs)
    torch.testing.assert_close(fast, expected)
    probe = torch.randn_like(expected)
    for mine, theirs in zip(
        torch.autograd.grad(fast, inputs, probe), torch.autograd.grad(expected, inputs, probe), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_stays_close_in_bfloat16() -> None:
    inputs = operands((2, 6, 5, 16, 2), 9, torch.float32)
    expected = dynamic_conv_reference(*inputs)
    rounded = dynamic_conv(*(value.bfloat16() for value in inputs))
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - expected).abs().max() < 0.05 * expected.abs().max()


def test_a_channel_reads_the_kernel_of_its_number_modulo_the_groups() -> None:
    features, kernels = torch.ones(1, 1, 1, 6), torch.zeros(1, 1, 1, 9, 3)
    kernels[0, 0, 0, 4] = torch.tensor([1.0, 2.0, 3.0])
    assert dynamic_conv(features, kernels).flatten().tolist() == [1, 2, 3, 1, 2, 3]


def test_one_kernel_for_all_positions_is_a_depthwise_convolution() -> None:
    torch.manual_seed(0)
    features, kernels = torch.randn(2, 5, 4, 6), torch.randn(2, 1, 1, 9, 6)
    mixed = dynamic_conv(features, kernels)
    torch.testing.assert_close(dynamic_conv_reference(features, kernels), mixed)
    for image, kernel, expected in zip(features.permute(0, 3, 1, 2), kernels, mixed, strict=True):
        weight = kernel.view(9, 6).T.reshape(6, 1, 3, 3)
        convolved = torch.nn.functional.conv2d(image, weight, padding=1, groups=6)
        torch.testing.assert_close(convolved.permute(1, 2, 0), expected)


def test_kernels_with_rows_contiguous_give_the_same() -> None:
    features, kernels = operands((2, 5, 7, 16, 2), 9, torch.float32)
    by_rows = kernels.detach().permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2).requires_grad_()
    assert by_rows.stride(2) == 1
    mixed, expected = dynamic_conv(features, by_rows), dynamic_conv(features, kernels)
    torch.testing.assert_close(mixed, expected)
    assert mixed.is_contiguous()
    probe = torch.randn_like(expected)
    mine = torch.autograd.grad(mixed, (features, by_rows), probe)
    theirs = torch.autograd.grad(expected, (features, kernels), probe)
    torch.testing.assert_close(mine, theirs)


def test_features_and_kernels_of_two_types_are_computed_in_the_wider() -> None:
    features, kernels = operands((2, 5, 7, 16, 2), 9, torch.float32)
    rounded = kernels.detach().bfloat16().requires_grad_()
    mixed = dynamic_conv(features, rounded)
    assert mixed.dtype == torch.float32
    mixed.sum().backward()
    assert rounded.grad is not None
    assert rounded.grad.dtype == torch.bfloat16
