"""ONNX files of what PyTorch's own exporter does not know."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.export import Dim

from ommatid.deployment.onnx import open_onnx, write_onnx
from ommatid.nn.moe import Capacity, MoE, StackedMLP, linear_router

for package in ("onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason="the extra `export` is not installed")


def mixture(capacity: float | None) -> MoE:
    dispatch = None if capacity is None else Capacity(capacity)
    return MoE(linear_router(8, 4, 2), StackedMLP(4, 8, 16), dispatch=dispatch).eval()


def test_experts_for_any_number_of_tokens(tmp_path: Path) -> None:
    moe = mixture(None)
    program = torch.export.export(moe, (torch.randn(6, 8),), dynamic_shapes=({0: Dim("tokens", min=2)},))
    write_onnx(program, tmp_path / "moe.onnx", ["answer"])
    run = open_onnx(tmp_path / "moe.onnx")
    for tokens in (torch.randn(6, 8), torch.randn(2, 8), torch.randn(1, 8).expand(11, 8)):
        torch.testing.assert_close(run(tokens), moe(tokens), rtol=1e-4, atol=1e-5)


def test_experts_that_drop_tokens(tmp_path: Path) -> None:
    moe = mixture(0.5)
    tokens = torch.randn(12, 8)
    write_onnx(torch.export.export(moe, (tokens,)), tmp_path / "moe.onnx", ["answer"])
    run = open_onnx(tmp_path / "moe.onnx")
    for other in (tokens, tokens.flip(0), tokens[:1].expand(12, 8)):
        torch.testing.assert_close(run(other), moe(other), rtol=1e-4, atol=1e-5)
