"""doctor: what this machine offers, what works on it, and what would make it better."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from ommatid.measuring.machine import describe_machine, instruction_sets

EXTRAS = {
    "export": ("onnx", "onnxruntime", "onnxscript", "openvino"),
    "quantize": ("openvino", "nncf"),
    "serve": ("gradio",),
    "search": ("optuna", "scikit-learn"),
    "data": ("datasets", "webdataset"),
    "scale": ("ray",),
}
"""Optional dependencies by the name of the extra that installs them, as in pyproject.toml."""

COMPILERS = ("c++", "g++", "clang++", "cl")
FAST_FLOAT32 = {"avx2", "avx512", "neon", "sve"}
FAST_BFLOAT16 = {"bf16", "amx"}
LOW_DISK_GB = 5


@dataclass(frozen=True)
class Finding:
    """One thing looked at: what was found, whether all is well with it, and what to do where it is not."""

    topic: str
    found: str
    ok: bool
    advice: str | None = None


def check(topic: str, found: str, ok: bool, advice: str) -> Finding:
    return Finding(topic, found, ok, None if ok else advice)


def doctor() -> list[Finding]:
    """Looks at processor, memory, GPU, number formats, compiler, folders and optional packages. Changes nothing."""
    return [*_hardware(), *_abilities(), *_folders(), *_packages()]


def _hardware() -> Iterator[Finding]:
    machine = describe_machine()
    yield Finding("processor", str(machine["processor"]), True)
    cores, threads = int(machine["cores"]), int(machine["threads"])
    yield check(
        "threads",
        f"{threads} of {cores} cores",
        threads >= cores,
        "PyTorch uses fewer threads than there are cores: unset OMP_NUM_THREADS, or pass --threads",
    )
    sets = instruction_sets()
    yield check(
        "instruction sets",
        ", ".join(sets) or "none known",
        bool(FAST_FLOAT32.intersection(sets)),
        "no vector instructions were found: everything will be slow here",
    )
    if "memory_gb" in machine:
        yield Finding("memory", f"{machine['memory_gb']} GB", True)
    gpu = machine.get("gpu")
    yield check("GPU", str(gpu or "none"), gpu is not None, "models train and run on the processor: choose small ones")


def _abilities() -> Iterator[Finding]:
    yield Finding("torch", torch.__version__, True)
    yield _bfloat16()
    compiler = find_compiler()
    yield check(
        "compile",
        compiler or "no C++ compiler",
        compiler is not None,
        "torch.compile needs a C++ compiler: install g++ or clang",
    )


def _bfloat16() -> Finding:
    if torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        return check("bfloat16", "fast on the GPU" if fast else "slow on this GPU", fast, "use float32 or float16")
    fast = bool(FAST_BFLOAT16.intersection(instruction_sets()))
    return check(
        "bfloat16",
        "in hardware" if fast else "works, emulated",
        fast,
        "bfloat16 is slower than float32 on this processor",
    )


def find_compiler() -> str | None:
    """Path of the C++ compiler that $CXX names, or else of the first usual one."""
    chosen = os.environ.get("CXX")
    return next(filter(None, map(shutil.which, (chosen,) if chosen else COMPILERS)), None)


def _folders() -> Iterator[Finding]:
    cache = Path(torch.hub.get_dir()).parent
    yield check("cache", str(cache), writable(cache), f"{cache} can't be written: set TORCH_HOME to a folder that can")
    here = Path.cwd()
    yield check("this folder", str(here), writable(here), "runs can't be written here: pass --out, or change folder")
    free = shutil.disk_usage(here).free / 2**30
    yield check("free disk", f"{free:.0f} GB", free >= LOW_DISK_GB, "checkpoints and reports may not fit")


def writable(folder: Path) -> bool:
    """Whether the folder, or the nearest one above it that exists, takes new files."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def _packages() -> Iterator[Finding]:
    for extra, packages in EXTRAS.items():
        for package in packages:
            installed = installed_version(package)
            yield check(
                f"{package} [{extra}]",
                installed or "not installed",
                installed is not None,
                f'optional: pip install "ommatid[{extra}]"',
            )


def installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
