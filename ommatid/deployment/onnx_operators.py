"""What PyTorch's exporter does not know how to say in ONNX, and mixtures of experts need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def translations() -> dict[Any, Callable[..., Any]]:
    """For `torch.onnx.export`: PyTorch's operators and how ONNX says them."""
    from onnxscript import opset18

    op: Any = opset18  # whose own types know nothing of values that are traced

    def grouped_mm(rows: Any, weights: Any, offs: Any = None, bias: Any = None, out_dtype: int = -1) -> Any:
        """(R, K) rows, sorted by group, times each group's matrix of (G, K, N): one product for each group's rows."""
        starts = op.Concat(op.Constant(value_ints=[0]), op.Cast(offs, to=7), axis=0)
        products = []
        for group in range(weights.shape[0]):
            start, end = (op.Constant(value_ints=[place]) for place in (group, group + 1))
            own = op.Slice(rows, op.Gather(starts, start), op.Gather(starts, end), op.Constant(value_ints=[0]))
            products.append(op.MatMul(own, op.Gather(weights, op.Constant(value_int=group), axis=0)))
        return op.Concat(*products, axis=0)

    def searchsorted(
        sequence: Any,
        values: Any,
        out_int32: bool = False,
        right: bool = False,
        side: str | None = None,
        sorter: Any = None,
    ) -> Any:
        """(G,) sorted, (R,) values -> (R,) int64: how many of the sequence are below a value, or not above it."""
        below = op.LessOrEqual if right or side == "right" else op.Less
        pairs = below(sequence, op.Unsqueeze(values, op.Constant(value_ints=[1])))
        return op.ReduceSum(op.Cast(pairs, to=7), op.Constant(value_ints=[1]), keepdims=0)

    def sort(keys: Any, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:
        """(R,) integers, ascending, equal ones in their order: ONNX has no such promise, so that none are equal."""
        count = op.Shape(keys)
        place = op.Range(op.Constant(value_int=0), op.Squeeze(count), op.Constant(value_int=1))
        _, order = op.TopK(op.Add(op.Mul(op.Cast(keys, to=7), count), place), count, axis=0, largest=0, sorted=1)
        return op.Gather(keys, order, axis=0), order

    return {
        torch.ops.aten.sort.stable: sort,
        torch.ops.aten._grouped_mm.default: grouped_mm,
        torch.ops.aten.searchsorted.Tensor: searchsorted,
    }
