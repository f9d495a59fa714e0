"""Unified norm: nothing of it is left at inference, and outliers do not disturb it in training."""

import torch
from torch import nn

from ommatid.nn.block import Block
from ommatid.nn.deploy import deployed_copy
from ommatid.nn.feedforward import MLP
from ommatid.nn.mixers import Attention
from ommatid.nn.unified_norm import UnifiedNorm


def trained_norm(steps: int, **options: object) -> UnifiedNorm:
    torch.manual_seed(0)
    norm = UnifiedNorm(8, warmup_iters=2, **options).train()
    batch = torch.randn(4, 5, 8)
    for _ in range(steps):
        norm(batch)
    return norm


def test_a_transformer_block_loses_its_norms_when_deployed() -> None:
    torch.manual_seed(0)
    block = Block(8, Attention(8, 2), MLP(8, 16), norm=UnifiedNorm).train()
    for _ in range(3):
        block(torch.randn(4, 6, 8))
    block.eval()
    deployed = deployed_copy(block)
    assert not [part for part in deployed.modules() if isinstance(part, UnifiedNorm)]
    tokens = torch.randn(2, 7, 8)
    assert torch.allclose(deployed(tokens), block(tokens), atol=1e-5)


def test_an_attention_whose_local_branch_reads_the_input_too_keeps_its_norm() -> None:
    torch.manual_seed(0)
    block = Block(8, Attention(8, 2, local=nn.Linear(8, 8)), MLP(8, 16), norm=nn.BatchNorm1d).eval()
    block.token.norm = UnifiedNorm(8).eval()
    nn.init.normal_(block.token.norm.bias)
    block.channel.norm = UnifiedNorm(8).eval()
    tokens = torch.randn(2, 7, 8)
    assert torch.allclose(deployed_copy(block)(tokens), block(tokens), atol=1e-5)


def test_equal_batches_are_no_outliers_and_come_out_with_unit_moment() -> None:
    norm = trained_norm(12, window=(4, 4), outlier_filtration=True)
    before = norm.skip_counter.item()
    torch.manual_seed(0)
    UnifiedNorm(8)
    batch = torch.randn(4, 5, 8)
    answer = norm(batch)
    assert norm.skip_counter.item() == before
    assert torch.allclose(answer.square().mean((0, 1)), torch.ones(8), atol=1e-3)


def test_one_huge_batch_is_counted_and_leaves_the_window_alone() -> None:
    norm = trained_norm(12, outlier_filtration=True)
    before, counted = norm.buffer_x2.max().item(), norm.skip_counter.item()
    norm(30 * torch.randn(4, 5, 8))
    assert norm.skip_counter.item() == counted + 1
    assert norm.buffer_x2.max().item() < 2 * before


def test_padding_does_not_count() -> None:
    tokens = torch.randn(2, 5, 8)
    padding = torch.zeros(2, 5, dtype=torch.bool)
    padding[:, 3:] = True
    spoiled = tokens.masked_fill(padding[..., None], 1e3)
    assert torch.allclose(UnifiedNorm(8)(tokens, padding)[:, :3], UnifiedNorm(8)(spoiled, padding)[:, :3])
