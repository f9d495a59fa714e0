"""experts: what the experts of a trained model do, on images and over its training."""

from __future__ import annotations

import colorsys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from ommatid.data import Samples, eval_transform, make_loader
from ommatid.measuring.machine import describe_machine
from ommatid.measuring.measure import usable_device
from ommatid.measuring.routing import Decision, Tally, observed, readable, routing_layers
from ommatid.models.config import require
from ommatid.report.experts import experts_page
from ommatid.report.pictures import png_uri
from ommatid.runs.evaluation import own_run
from ommatid.runs.files import write_json, write_text
from ommatid.runs.inference import probabilities
from ommatid.runs.run import read_json
from ommatid.runs.trained import Trained, open_trained
from ommatid.workflows.evaluate_classifier import open_samples

SIDE = 224
TINT = 0.55


def experts(
    run_or_weights: str | Path,
    data: str | Path | None = None,
    *,
    images: int = 6,
    batch: int = 64,
    size: int | None = None,
    device: str = "cpu",
    out: str | Path | None = None,
) -> dict[str, Any]:
    """Watches the routers of a trained classifier and writes report.html and experts.json.

    Args:
        data: as for `evaluate`.
        images: how many are drawn with the expert of each of their regions.
        batch, size, device: as for `evaluate`. Where experts have a capacity, what is dropped depends on the batch.
        out: folder for the files; `experts` beside the weights where not given.

    Returns:
        layers: of each, load, balance, entropy, dropped, as `Tally.summary` says. images: drawn. history: of the
        training, layers by epoch, where it was kept. `report`, the path of the page; `summary`, a line.

    Raises:
        ValueError: no trained model, no such data, a model without experts, an impossible value.
    """
    require(batch >= 1, "batch", batch, "1 or more")
    require(images >= 0, "images", images, "0 or more")
    require(size is None or size >= 1, "size", size, "1 or more")
    place = usable_device(device)
    trained = open_trained(run_or_weights)
    if not routing_layers(trained.model):
        raise ValueError(f"{trained.facts.name} has no experts: allowed is a model with routers, as swin_moe or moh")
    samples, source = open_samples(trained, data)
    tallies, drawn = _watch(trained, samples, images, batch=batch, size=size or trained.facts.size, device=place)
    layers: list[dict[str, Any]] = [
        {"name": readable(name), "experts": len(tally.sums) - 4} | tally.summary() for name, tally in tallies.items()
    ]
    result = {
        "model": trained.facts.name,
        "data": source,
        "samples": len(samples),
        "layers": layers,
        "images": drawn,
        "colours": [_hex(colour) for colour in expert_colours(max(layer["experts"] for layer in layers))],
        "history": _history(trained),
        "machine": describe_machine(),
        "settings": {"weights": str(trained.path), "batch": batch, "size": size or trained.facts.size},
    }
    worst = min(layers, key=lambda layer: layer["balance"])
    dropped = sum(layer["dropped"] for layer in layers) / len(layers)
    summary = (
        f"{len(layers)} layers with experts on {len(samples)} images: {dropped:.2%} dropped, balance from "
        f"{worst['balance']:.2f} ({worst['name']}) to {max(layer['balance'] for layer in layers):.2f}"
    )
    folder = Path(out).expanduser() if out else trained.path.parent / "experts"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "experts.json", {name: value for name, value in result.items() if name != "images"})
    write_text(folder / "report.html", experts_page(result))
    return result | {"report": str(folder / "report.html"), "summary": summary}


def _watch(
    trained: Trained, samples: Samples, count: int, *, batch: int, size: int, device: torch.device
) -> tuple[dict[str, Tally], list[dict[str, Any]]]:
    """All layers' tallies, and the first images with their regions by expert."""
    model, facts = trained.model.to(device), trained.facts
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (facts.mean, facts.std))
    tallies = {name: Tally(experts) for name, experts in routing_layers(model).items()}
    maps: dict[str, list[Tensor]] = {name: [] for name in tallies}
    pictures: list[Image.Image] = []

    def see(name: str, decision: Decision) -> None:
        tallies[name].add(decision)
        missing = count - len(maps[name])
        if missing > 0 and decision.grid is not None:
            rows, columns = decision.grid
            maps[name] += decision.first[:missing, -rows * columns :].unflatten(1, decision.grid).cpu().unbind()

    with observed(model, see):
        for images, _ in make_loader(samples, eval_transform(size), batch=batch, shuffle=False, seed=0):
            kept = (images[: count - len(pictures)] * std + mean).clamp(0, 1)
            pictures += [to_pil_image(image).resize((SIDE, SIDE)) for image in kept]
            probabilities(model, images, device)
    drawn = [
        {
            "path": samples.paths[index],
            "image": png_uri(picture.copy(), SIDE),
            "layers": [
                {"name": readable(name), "image": png_uri(tinted(picture, found[index], tallies[name]), SIDE)}
                for name, found in maps.items()
                if index < len(found)
            ],
        }
        for index, picture in enumerate(pictures)
    ]
    return tallies, drawn


def tinted(picture: Image.Image, experts: Tensor, tally: Tally) -> Image.Image:
    """The picture with every region in the colour of its expert (rows, columns); what was dropped stays grey."""
    palette = np.array([*expert_colours(len(tally.sums) - 4), (128, 128, 128)], dtype=np.uint8)
    colours = Image.fromarray(palette[experts.numpy()]).resize(picture.size, Image.Resampling.NEAREST)
    return Image.blend(picture.convert("L").convert("RGB"), colours, TINT)


def expert_colours(count: int) -> list[tuple[int, int, int]]:
    """As many colours, spread over the circle, bright and dark in turns."""
    return [
        (round(255 * red), round(255 * green), round(255 * blue))
        for red, green, blue in (
            colorsys.hsv_to_rgb(index / count, 0.85, 0.95 if index % 2 else 0.7) for index in range(count)
        )
    ]


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _history(trained: Trained) -> list[dict[str, Any]]:
    """The training's experts.json with readable names; empty where it kept none."""
    run = own_run(trained)
    if run is None or not run.routing.is_file():
        return []
    return [
        {"epoch": row["epoch"], "layers": {readable(name): found for name, found in row["layers"].items()}}
        for row in read_json(run.routing)
    ]
