"""Small things that the workflows' tests share: a tiny model, a few real photographs, a run folder made by hand."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from ommatid.data import MEAN, STD, open_data
from ommatid.models import create_model, save
from ommatid.runs.run import Run
from ommatid.runs.trained import WeightFacts

REPOSITORY = Path(__file__).parents[2]
CIFAR = REPOSITORY.parent / "shared" / "data" / "cifar10"
"""Real photographs beside the checkout."""

TINY = {"dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "heads": [1, 1, 2, 2], "mlp_ratios": [2, 2, 2, 2]}
TINY_WORD = "pvt_v2[dims=[8,8,16,16],depths=[1,1,1,1],heads=[1,1,2,2],mlp_ratios=[2,2,2,2]]"
TINIER_WORD = "pvt_v2[dims=[4,4,8,8],depths=[1,1,1,1],heads=[1,1,2,2],mlp_ratios=[2,2,2,2]]"

TINY_SWIN_MOE = {
    "dims": [8, 16],
    "depths": [1, 2],
    "heads": [1, 2],
    "moe_blocks": [[-1], [1]],
    "pretrained_window_sizes": [0, 0],
    "window_size": 4,
    "patch_size": 2,
    "num_experts": 4,
}
"""Four experts in its last block, on images of 16 pixels."""

TINY_SUPERNET = {"width_mult": 0.25, "depths": [1, 2], "kernel_sizes": [3, 5], "expand_ratios": [3, 4]}
"""Of a once_for_all."""


def photographs(
    folder: Path, classes: tuple[str, ...] = ("cat", "ship", "truck"), train: int = 6, val: int = 4
) -> Path:
    """Copies a few CIFAR-10 images per class into `folder`/train and `folder`/val."""
    if not CIFAR.is_dir():
        pytest.skip(f"the real photographs are not here: {CIFAR}")
    for part, source, count in (("train", "train", train), ("val", "test", val)):
        for name in classes:
            (folder / part / name).mkdir(parents=True)
            for image in sorted((CIFAR / source / name).glob("*.jpg"))[:count]:
                shutil.copy(image, folder / part / name / image.name)
    return folder


def save_weights(path: Path, classes: tuple[str, ...], size: int = 32) -> Path:
    """A tiny model with fixed random weights, as a training would have saved it."""
    torch.manual_seed(0)
    model = create_model("pvt_v2", num_classes=len(classes), **TINY)
    torch.nn.init.normal_(model.get_parameter("head.weight"))  # so that it is sure of its answers, right or wrong
    facts = WeightFacts(name="pvt_v2", classes=classes, size=size, mean=MEAN, std=STD)
    save(model, path, extra=facts.to_header())
    return path


def make_run(path: Path, data: Path | str, size: int = 32) -> Run:
    """The folder that a training on `data` would have left, but for its curves."""
    images = open_data(data)
    run = Run.create(
        path,
        {"data": str(data), "model": "pvt_v2", "size": size},
        images.split() | {"classes": list(images.classes)},
        {},
    )
    save_weights(path / "best.safetensors", images.classes, size)
    return run


def environment() -> dict[str, str]:
    """For a command of its own process: it finds the package, takes one thread, and does not wrap its lines."""
    return os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
