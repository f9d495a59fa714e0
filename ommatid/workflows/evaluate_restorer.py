"""How near to the originals a restoration network comes, and on which pictures it fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from ommatid.data.picture_samples import PictureSamples
from ommatid.data.pictures import open_picture_evaluation, open_pictures
from ommatid.measuring.machine import describe_machine
from ommatid.report.before_after import jpeg_uri
from ommatid.report.evaluate_restoration import evaluate_restoration_page
from ommatid.runs.evaluation import both_ends, evaluation_folder, judged_on, saved_evaluation
from ommatid.runs.run import Run
from ommatid.runs.trained import RESTORATION, TrainedRestorer
from ommatid.tasks.perceptual import Lpips
from ommatid.tasks.restoration_baseline import border, without_network
from ommatid.tasks.restoration_metrics import psnr_y, ssim_y
from ommatid.tasks.tiling import restore_in_tiles
from ommatid.training.initial import read_reference
from ommatid.training.tasks import find_task
from ommatid.workflows.opening import open_picture_restorer

Measure = Callable[[Tensor, Tensor], Tensor]

TILE = 512
"""Side in pixels, before restoration, of what the network sees at once; most test pictures are one tile."""

DETAIL = 256
"""Side in pixels of what is shown of each: its middle, pixel for pixel."""


def evaluate_restorer(
    run_or_weights: str | Path,
    data: str | Path | None,
    *,
    batch: int,
    size: int | None,
    device: torch.device,
    out: str | Path | None,
    lpips: str | Path | None = None,
) -> dict[str, Any]:
    """As `evaluate`, for a restoration network.

    Returns:
        `psnr` and `ssim`, the means over `pictures`, whose rows have the same for each; `baseline_psnr` and
        `baseline_ssim`, those of the degraded picture itself, or of its bicubic enlargement; likewise `lpips`, with
        weights for it.
    """
    trained = open_picture_restorer(run_or_weights)
    samples, source = _open_samples(trained, data)
    if samples.scale != trained.model.scale:
        raise ValueError(
            f"{source} asks for {samples.scale} times the size, the network gives {trained.model.scale} times"
        )
    measures = _measures(trained.model.scale, lpips)
    trained.model.to(device)
    rows = [_judged(trained, samples, index, device, measures) for index in range(len(samples))]
    order = sorted(range(len(rows)), key=lambda index: rows[index]["psnr"])
    result = {
        "model": trained.facts.name,
        "data": source,
        "degrade": trained.facts.degrade,
        "samples": len(samples),
        **{name: sum(row[name] for row in rows) / len(rows) for name in rows[0] if name != "path"},
        "pictures": rows,
        "machine": describe_machine(),
        "settings": {"weights": str(trained.path), "device": str(device)},
        **both_ends(order, lambda index: _shown(trained, samples, index, rows, device)),
    }
    summary = (
        f"PSNR {result['psnr']:.2f} dB ({result['baseline_psnr']:.2f} dB before), SSIM {result['ssim']:.4f} "
        f"({result['baseline_ssim']:.4f} before) on {len(samples)} pictures"
    )
    folder = evaluation_folder(trained.path, source, out)
    return saved_evaluation(folder, result, evaluate_restoration_page(result), summary)


def _open_samples(trained: TrainedRestorer, data: str | Path | None) -> tuple[PictureSamples, str]:
    """The pictures to judge on, and what to call them."""
    degrade = trained.facts.degrade

    def validation(run: Run) -> PictureSamples:
        return open_pictures(str(run.config["data"]), degrade=degrade, seed=run.config["seed"], split=run.split).val

    others = partial(open_picture_evaluation, degrade=degrade)
    return judged_on(trained, data, find_task(RESTORATION).embedded, validation, others)


@torch.inference_mode()
def _restored(trained: TrainedRestorer, degraded: Tensor, device: torch.device) -> Tensor:
    """(3, H, W) -> (3, scale H, scale W), values 0 to 1. Large pictures go through the network in tiles."""
    model = trained.model
    _, height, width = degraded.shape
    restored = torch.empty(3, model.scale * height, model.scale * width)
    blocks = restore_in_tiles(
        lambda tiles: model(tiles.to(device)).float().cpu(),
        lambda rows, columns: degraded[:, rows, columns],
        (height, width),
        scale=model.scale,
        tile=min(TILE, model.longest or TILE),
        multiple=model.multiple,
    )
    for top, left, pixels in blocks:
        restored[:, top : top + pixels.shape[1], left : left + pixels.shape[2]] = pixels
    return restored.clamp(0, 1)


def _measures(scale: int, lpips: str | Path | None) -> dict[str, Measure]:
    """What a restored picture is judged by: functions of it and the clean one, both (1, 3, H, W), by their names."""
    measures: dict[str, Measure] = {
        "psnr": partial(psnr_y, border=border(scale)),
        "ssim": partial(ssim_y, border=border(scale)),
    }
    return measures if lpips is None else measures | {"lpips": Lpips(read_reference(Path(lpips)))}


def _judged(
    trained: TrainedRestorer,
    samples: PictureSamples,
    index: int,
    device: torch.device,
    measures: Mapping[str, Measure],
) -> dict[str, Any]:
    degraded, clean = samples[index]
    row: dict[str, Any] = {"path": samples.paths[index]}
    candidates = {"": _restored(trained, degraded, device), "baseline_": without_network(degraded, trained.model.scale)}
    for prefix, picture in candidates.items():
        for name, measure in measures.items():
            row[f"{prefix}{name}"] = measure(picture[None].clamp(0, 1), clean[None]).item()
    return row


def _shown(
    trained: TrainedRestorer, samples: PictureSamples, index: int, rows: Sequence[dict[str, Any]], device: torch.device
) -> dict[str, Any]:
    """The row of a picture, with the middle of it before, after and as it should be."""
    degraded, clean = samples[index]
    before, after = without_network(degraded, trained.model.scale), _restored(trained, degraded, device)
    images = {"before": before, "after": after, "original": clean}
    return rows[index] | {name: jpeg_uri(_middle(picture)) for name, picture in images.items()}


def _middle(picture: Tensor) -> Image.Image:
    image = to_pil_image(picture.clamp(0, 1))
    left, top = max(0, (image.width - DETAIL) // 2), max(0, (image.height - DETAIL) // 2)
    return image.crop((left, top, min(image.width, left + DETAIL), min(image.height, top + DETAIL)))
