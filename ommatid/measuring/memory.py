"""The most memory that a call holds at once, beyond what was there before it."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ommatid.measuring.timing import Call


def peak_memory(call: Call, device: torch.device, existing: Iterable[Tensor]) -> int:
    """Bytes of tensors that `call` holds at its worst moment, `existing` ones (weights, inputs) not counted.

    On CUDA the allocator's own count; elsewhere every tensor that an operator returns is followed until it is freed,
    which gives the same number on every machine. Scratch space inside a single operator and what the system's allocator
    wastes are not in it: a process grows by more.
    """
    if device.type == "cuda":
        return _cuda_peak(call, device)
    with torch.no_grad(), TensorMemory(existing) as memory:
        call()
    return memory.peak


def _cuda_peak(call: Call, device: torch.device) -> int:
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


class TensorMemory(TorchDispatchMode):
    """Follows the storages of all tensors made inside the `with`; `peak` is the most bytes that lived at once."""

    def __init__(self, existing: Iterable[Tensor]) -> None:
        super().__init__()
        self.current = self.peak = 0
        self._known = {tensor.untyped_storage().data_ptr() for tensor in existing}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor):
                self._follow(tensor.untyped_storage())
        return output

    def _follow(self, storage: torch.UntypedStorage) -> None:
        address, size = storage.data_ptr(), storage.nbytes()
        if address in self._known:
            return
        self._known.add(address)
        self.current += size
        self.peak = max(self.peak, self.current)
        weakref.finalize(storage, self._forget, address, size)

    def _forget(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.current -= size
