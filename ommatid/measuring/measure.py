"""What one model costs on this machine: time, memory, parameters, operations."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ommatid.measuring.macs import count_macs
from ommatid.measuring.memory import peak_memory
from ommatid.measuring.timing import Quartiles, quartiles, repeat, thread_count
from ommatid.models.sizes import pair

Precision = Literal["float32", "bfloat16"]

DEFAULT_SIZE = 224


@dataclass(frozen=True)
class Measurement:
    """Times in milliseconds; `throughput` in images per second at `throughput_batch`; the rest at `batch`.

    `memory_mb` is the peak of a forward pass, weights and input included, in units of 2^20 bytes.
    `macs` are multiply-adds of one image in matrix products, convolutions and attention, as papers count them.
    Memory, parameters and MACs are None of what is no PyTorch module: they are counted in its operators.
    """

    latency_ms: float
    latency_p25: float
    latency_p75: float
    throughput: float
    memory_mb: float | None
    parameters: int | None
    macs: int | None
    size: tuple[int, int]
    batch: int
    throughput_batch: int
    threads: int
    precision: str
    device: str


def measure(
    model: nn.Module,
    *,
    size: int | tuple[int, int] | None = None,
    batch: int = 1,
    throughput_batch: int = 8,
    threads: int | None = None,
    precision: Precision = "float32",
    device: str | torch.device = "cpu",
    rounds: int = 50,
    seconds: float = 5.0,
) -> Measurement:
    """Measures the forward pass of any module that takes (B, C, H, W) images. The module itself is left as it is.

    Args:
        model: measured in evaluation mode, as a copy on `device`.
        size: side of the image, or (height, width); the model's own `config.image_size`, else 224, where None.
        batch: images in the timed forward pass.
        throughput_batch: images in the forward pass that throughput is taken from.
        threads: CPU threads; PyTorch's present number where None.
        precision: of weights and images.
        device: "cpu", "cuda", "mps".
        rounds: at most so many timed calls for each number ...
        seconds: ... and none begun after so long.

    Raises:
        ValueError: a setting is impossible on this machine.
    """
    check_settings(batch, throughput_batch, threads, precision, rounds)
    counted = next(model.parameters(), None) is not None
    target, size = usable_device(device), pair(size or native_size(model))
    subject = prepared(model, target, precision)
    with thread_count(threads), torch.inference_mode():

        def timed(images: int) -> Quartiles:
            image = image_for(subject, images, size)
            return quartiles(repeat(lambda: subject(image), target, rounds=rounds, seconds=seconds))

        latency = timed(batch)
        slowness = latency if throughput_batch == batch else timed(throughput_batch)
        return Measurement(
            latency_ms=1e3 * latency.median,
            latency_p25=1e3 * latency.p25,
            latency_p75=1e3 * latency.p75,
            throughput=throughput_batch / slowness.median,
            memory_mb=forward_memory(subject, image_for(subject, batch, size)) / 2**20 if counted else None,
            parameters=sum(parameter.numel() for parameter in model.parameters()) if counted else None,
            macs=count_macs(subject, image_for(subject, 1, size)) if counted else None,
            size=size,
            batch=batch,
            throughput_batch=throughput_batch,
            threads=torch.get_num_threads(),
            precision=precision,
            device=str(target),
        )


def check_settings(batch: int, throughput_batch: int, threads: int | None, precision: str, rounds: int) -> None:
    """Raises ValueError for what no machine can do."""
    counts = {"batch": batch, "throughput_batch": throughput_batch, "threads": threads, "rounds": rounds}
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ValueError(f"{name} = {count} is not possible: allowed is 1 or more")
    if precision not in get_args(Precision):
        raise ValueError(f"precision = {precision!r} is not possible: allowed is {' or '.join(get_args(Precision))}")


def usable_device(name: str | torch.device) -> torch.device:
    """Raises ValueError where this machine has no such device."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError):
        raise ValueError(
            f"device = {str(name)!r} is not possible: this machine or this build of torch has none"
        ) from None


def native_size(model: nn.Module) -> int | tuple[int, int]:
    """The image size in the model's config, 224 where it has none."""
    return getattr(getattr(model, "config", None), "image_size", None) or DEFAULT_SIZE


def prepared(model: nn.Module, device: torch.device, precision: str) -> nn.Module:
    """A copy in evaluation mode, on the device, with weights of the precision."""
    return copy.deepcopy(model).eval().requires_grad_(False).to(device, getattr(torch, precision))


def image_for(model: nn.Module, batch: int, size: tuple[int, int]) -> Tensor:
    """Random images on the model's device and in its precision."""
    channels = getattr(getattr(model, "config", None), "in_channels", 3)
    like = next(model.parameters(), torch.empty(0))
    return torch.randn(batch, channels, *size, dtype=like.dtype, device=like.device)


def forward_memory(model: nn.Module, image: Tensor) -> int:
    """Most bytes held at once in one forward pass: weights, image, and all that is made on the way."""
    held = [image, *model.parameters(), *model.buffers()]
    return sum(tensor.nbytes for tensor in held) + peak_memory(lambda: model(image), image.device, held)
