"""Experts spread over two or four processes give the loss and the gradients of one process, whatever travels."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

WORKER = """
import datetime, sys
import torch, torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from ommatid.nn.moe import MoE, StackedMLP, any_choice_balance, balance_of, linear_router, recorded_routings
from ommatid.nn.moe.parallel import ignored_by_ddp, make_layout, set_layouts, spread_experts
from ommatid.training.methods.spreading import fastest_layouts

rank, processes, place = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
dist.init_process_group("gloo", f"file://{place}", rank=rank, world_size=processes, timeout=datetime.timedelta(60))


def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), MoE(linear_router(8, 8, 2), StackedMLP(8, 8, 12)), nn.Linear(8, 3))


def step(model, tokens):
    with recorded_routings(model) as routings:
        loss = model(tokens).square().mean() + 0.1 * balance_of(routings)
    loss.backward()
    return loss.detach()


torch.manual_seed(1)
tokens = torch.randn(10 * processes, 6)
one = make()
expected = step(one, tokens)
shares = [number for number in (1, 2, 4) if processes % number == 0]
layouts = {sharing: make_layout(sharing) for sharing in shares}
spread = spread_experts(make(), layouts[1])
spread._ddp_params_and_buffers_to_ignore = ignored_by_ddp(spread)
ddp = DistributedDataParallel(spread)
# The last: what is chosen for a layer by itself.
chosen = fastest_layouts(spread, lambda: spread(tokens[rank : rank + 5]).sum(), list(layouts.values()))
assert list(chosen) == ["1.experts"], chosen
for sharing, choice in {**{sharing: {"1.experts": layout} for sharing, layout in layouts.items()}, 0: chosen}.items():
    set_layouts(spread, choice)
    spread.zero_grad()
    loss = step(ddp, tokens.chunk(processes)[rank])
    dist.all_reduce(loss)
    torch.testing.assert_close(loss / processes, expected)
    held = slice(rank * 8 // processes, (rank + 1) * 8 // processes)
    for (name, mine), theirs in zip(spread.named_parameters(), one.parameters(), strict=True):
        gradient = theirs.grad[held] if ".experts." in name else theirs.grad
        torch.testing.assert_close(mine.grad, gradient, msg=lambda text: f"{sharing} {name}: {text}")
dist.destroy_process_group()
print("same", shares)
"""


@pytest.mark.parametrize("processes", [2, 4])
def test_loss_and_gradients_are_those_of_one_process(processes: int, tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    workers = [
        subprocess.Popen(
            [sys.executable, script, str(rank), str(processes), str(tmp_path / "meeting")],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    for worker in workers:
        output, errors = worker.communicate(timeout=240)
        assert worker.returncode == 0, errors
        assert output.startswith("same")
