"""A training in which each process holds some of the experts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ommatid.nn.moe.parallel import (
    Layout,
    ParallelExperts,
    everywhere,
    ignored_by_ddp,
    make_layout,
    own_part,
    set_layouts,
    spread_experts,
)
from ommatid.tasks.training import Batch, Training

TRIALS = 3


class Spread(Training):
    """The training of a model whose experts are spread; its checkpoints have all of them in one place.

    sharing: among how many processes tokens travel; 0 to measure.
    """

    def __init__(self, training: Training, sharing: int) -> None:
        super().__init__(
            training.model,
            training.objective,
            val_samples=training.val_samples,
            make_optimizer=training.make_optimizer,
            average=training.average,
        )
        self.sharing = sharing
        self.layouts: list[Layout] = []

    def configure_model(self) -> None:
        if self.layouts:
            return
        processes = dist.get_world_size()
        divisors = [number for number in range(1, processes + 1) if processes % number == 0]
        self.layouts = [make_layout(number) for number in ([self.sharing] if self.sharing else divisors)]
        for model in (self.model, self.averaged):
            if model is not None:
                spread_experts(model, self.layouts[0])
        self._ddp_params_and_buffers_to_ignore = ignored_by_ddp(self)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Before the first step, chooses for each layer what travels."""
        if len(self.layouts) > 1:
            chosen = fastest_layouts(self.model, lambda: self.objective.loss(self.model, batch), self.layouts)
            for model in (self.model, self.averaged):
                if model is not None:
                    set_layouts(model, chosen)
            self.layouts = self.layouts[:1]

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """By the norm over all processes: each sees the gradients of its own experts only."""
        if not gradient_clip_val:
            return
        own = set(ignored_by_ddp(self))
        named = [(name, value) for name, value in self.named_parameters() if value.grad is not None]
        spread = squared_norm([value.grad for name, value in named if name in own]).to(self.device)
        dist.all_reduce(spread)
        shared = squared_norm([value.grad for name, value in named if name not in own]).to(self.device)
        factor = (gradient_clip_val / ((spread + shared).sqrt() + 1e-6)).clamp(max=1.0)
        for _, value in named:
            assert value.grad is not None
            value.grad.mul_(factor)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._change_experts(checkpoint, everywhere)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._change_experts(checkpoint, own_part)

    def _change_experts(self, checkpoint: dict[str, Any], change: Callable[[Tensor], Tensor]) -> None:
        """Changes all tensors of a checkpoint that belong to experts: weights, averages, the optimiser's moments."""
        own = set(ignored_by_ddp(self))
        weights = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: change(value) if name in own else value for name, value in weights.items()}
        names = self._optimised()
        for state in checkpoint["optimizer_states"]:
            for index, moments in state["state"].items():
                if names[index] in own:
                    state["state"][index] = {
                        name: change(value) if value.dim() else value for name, value in moments.items()
                    }

    def _optimised(self) -> list[str]:
        """The names of the parameters in the order in which an optimiser numbers them."""
        names = {parameter: f"model.{name}" for name, parameter in self.model.named_parameters()}
        optimizer, _ = self.make_optimizer(self.model)
        return [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]


def squared_norm(gradients: list[Tensor | None]) -> Tensor:
    return torch.stack(
        [gradient.square().sum() for gradient in gradients if gradient is not None] or [torch.zeros(())]
    ).sum()


def fastest_layouts(model: nn.Module, loss: Callable[[], Tensor], layouts: list[Layout]) -> dict[str, Layout]:
    """For each layer of spread experts, by name, the layout in which the slowest process is done with it first.

    Timed forward and backward on what the layer is given when `loss` is computed. The model is left as it was. Each
    process must call it.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, ParallelExperts)}
    chosen = {}
    for name, (rows, ends) in _given(model, layers, loss).items():
        layer = layers[name]
        before = layer.layout
        seconds = [_seconds(layer, rows, ends, layout) for layout in layouts]
        layer.layout = before
        chosen[name] = layouts[min(range(len(layouts)), key=seconds.__getitem__)]
    return chosen


def _given(
    model: nn.Module, layers: Mapping[str, ParallelExperts], loss: Callable[[], Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    """What each layer is given, rows and ends, when the loss is computed."""
    given: dict[str, tuple[Tensor, Tensor]] = {}

    def note(name: str, rows: Tensor, ends: Tensor) -> None:
        given[name] = rows.detach(), ends

    hooks = [
        layer.register_forward_pre_hook(lambda layer, inputs, name=name: note(name, *inputs))
        for name, layer in layers.items()
    ]
    training = model.training
    model.eval()  # statistics stay as they are
    with torch.random.fork_rng(), torch.no_grad():
        loss()
    model.train(training)
    for hook in hooks:
        hook.remove()
    return given


def _seconds(layer: ParallelExperts, rows: Tensor, ends: Tensor, layout: Layout) -> float:
    layer.layout = layout
    leaves = [rows.requires_grad_(), *(value for value in layer.parameters() if value.requires_grad)]
    best = float("inf")
    for _ in range(TRIALS):
        dist.barrier()
        started = time.perf_counter()
        torch.autograd.grad(layer(rows, ends).sum(), leaves)
        best = min(best, time.perf_counter() - started)
    slowest = torch.tensor(best, device=rows.device)
    dist.all_reduce(slowest, dist.ReduceOp.MAX)
    return float(slowest)
