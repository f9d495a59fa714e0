"""Arguments and options that several verbs share, and `name=value` settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

DATA = (
    "digits, an image folder, a CSV of path,label, or torchvision:NAME; for pretraining, any folder of pictures too; "
    "for restoration photographs, or a folder of pictures or pairs; for segmentation, detection, instances and "
    "panoptic scenes, a folder with images/ and masks/, with COCO's JSON, or of Pascal VOC."
)

Data = Annotated[str, typer.Argument(help=DATA)]
Trained = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a .safetensors file of one.")]
TrainedOrExported = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run folder, a .safetensors file of one, or what export wrote.")
]
Recipe = Annotated[
    str | None,
    typer.Option(
        help="default, quick, cifar, finetune, pretrain, restore, segment, detect, or a YAML file; else the usual one."
    ),
]
Task = Annotated[
    str | None,
    typer.Option(
        help="classification (by default), restoration, segmentation, detection, instances, panoptic or pretraining."
    ),
]
Decoder = Annotated[
    str | None,
    typer.Option(
        help="For segmentation, detection, instances and panoptic, what is on the backbone that --model names."
    ),
]
Degrade = Annotated[
    str | None,
    typer.Option(
        metavar="WORDS", help='For restoration, what to undo: "bicubic x2", "noise 25", "defocus 1-2 + jpeg 60-95".'
    ),
]
Epochs = Annotated[int | None, typer.Option(help="Instead of the recipe's.")]
Minutes = Annotated[
    float | None, typer.Option(help="As many epochs as about fill this time here, by the pace of the first steps.")
]
Size = Annotated[int | None, typer.Option(help="Image side in pixels; of training patches for restoration.")]
Batch = Annotated[int | None, typer.Option(help="Images per step.")]
LearningRate = Annotated[float | None, typer.Option(help="Peak learning rate, instead of the recipe's.")]
Precision = Annotated[str | None, typer.Option(help="float32, bfloat16, or auto: the faster one here.")]
Devices = Annotated[int | None, typer.Option(help="How many accelerators, or processes on CPU.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, or cuda:INDEX.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads; as PyTorch chooses where not given.")]
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS", help="Spread the trainings over this Ray cluster; local: over this machine's cores."
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A field of the model's config, value as YAML; repeatable."),
]


def parse_settings(pairs: Sequence[str] | None) -> dict[str, Any]:
    """`["dims=[8, 16]", "linear=true"]` -> `{"dims": [8, 16], "linear": True}`. Raises ValueError naming a bad pair."""
    settings = {}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if not name.strip() or not equals:
            raise ValueError(f"--set {pair!r} is not NAME=VALUE, as in --set drop_path_rate=0.1")
        try:
            settings[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ValueError(f"--set {pair!r}: {value!r} is not a YAML value, as 3, true or [8, 16] are") from None
    return settings


def parse_seeds(text: str) -> int | list[int]:
    """`"3"` -> 3 trainings; `"4,7"` -> these seeds. Raises ValueError for anything else."""
    try:
        return [int(part) for part in text.split(",") if part.strip()] if "," in text else int(text)
    except ValueError:
        raise ValueError(f"--seeds {text!r} is neither a number of trainings nor seeds with commas, as 4,7") from None


def whole_numbers(option: str, text: str) -> list[int]:
    """`"1,16"` -> [1, 16]. Raises ValueError for anything else."""
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise ValueError(f"{option} {text!r} is not whole numbers with commas, as 1,16") from None
