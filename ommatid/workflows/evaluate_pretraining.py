"""How well a pre-training's learner guesses what is hidden, and what its guesses look like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from ommatid.data import MEAN, STD, Loader, Samples, eval_transform
from ommatid.data.unlabelled import make_noise_loader, open_unlabelled, open_unlabelled_evaluation, with_noise
from ommatid.measuring.machine import describe_machine
from ommatid.methods.pretraining.guessing import Guesser, noise_numbers
from ommatid.methods.pretraining.learner import Errors
from ommatid.methods.pretraining.masking import repeated
from ommatid.models.weights import read_header
from ommatid.report.before_after import jpeg_uri
from ommatid.report.drawing import enlarged
from ommatid.report.evaluate_pretraining import evaluate_pretraining_page
from ommatid.report.metric import AGREEMENT
from ommatid.runs.evaluation import both_ends, evaluation_folder, judged_on, saved_evaluation
from ommatid.runs.run import Run
from ommatid.runs.trained import PRETRAINING, Opened, PretrainedFacts, find_weights
from ommatid.training.methods import find_method
from ommatid.training.settings import Settings
from ommatid.training.tasks import find_task

GREY = 0.5
"""Of what is hidden, on the page."""


def evaluate_pretraining(
    run_or_weights: str | Path,
    data: str | Path | None,
    *,
    batch: int,
    size: int | None,
    device: torch.device,
    out: str | Path | None,
) -> dict[str, Any]:
    """As `evaluate`, for a pre-training, by its learner of the last epoch.

    Returns:
        `agreement` and `loss` over all pictures, and `pictures`, a row for each.
    """
    trained = open_pretraining(run_or_weights)
    samples, source = _open_samples(trained, data)
    size = size or trained.facts.size
    guesser = trained.model.to(device)
    guesser.check_size(size)
    transform, numbers = eval_transform(size), noise_numbers(size)
    loader = make_noise_loader(samples, transform, numbers, fixed=True, batch=batch, shuffle=False, seed=0)
    errors = _errors(guesser, loader, device)
    rows = [
        {"path": path, "agreement": 1 - guessed / max(empty, 1e-12), "loss": guessed}
        for path, guessed, empty in zip(samples.paths, errors.found.tolist(), errors.empty.tolist(), strict=True)
    ]
    order = sorted(range(len(rows)), key=lambda index: rows[index]["agreement"])

    def shown(index: int) -> dict[str, Any]:
        image, noise = with_noise(samples, transform, numbers, True, index)
        told = {"told": AGREEMENT.show(rows[index]["agreement"])}
        return rows[index] | told | _views(guesser, transform.normalize(image), noise, device)

    result = {
        "model": trained.facts.name,
        "method": trained.facts.method,
        "data": source,
        "samples": len(samples),
        "agreement": 1 - (errors.found.sum() / errors.empty.sum().clamp_min(1e-12)).item(),
        "loss": errors.found.mean().item(),
        "pictures": rows,
        "machine": describe_machine(),
        "settings": {"weights": str(trained.path), "batch": batch, "size": size, "device": str(device)},
        **both_ends(order, shown),
    }
    summary = f"agreement {result['agreement']:.2%}, loss {result['loss']:.3f} on {len(samples)} pictures"
    folder = evaluation_folder(trained.path, source, out)
    return saved_evaluation(folder, result, evaluate_pretraining_page(result), summary)


def open_pretraining(run_or_weights: str | Path) -> Opened[Guesser, PretrainedFacts]:
    """Opens the learner of a run, of its last epoch.

    Raises:
        ValueError: the weights, which are the backbone's alone, lie outside of their run.
    """
    weights, run = find_weights(run_or_weights)
    facts = PretrainedFacts.from_header(read_header(weights))
    run = run or (Run.open(weights.parent) if (weights.parent / "config.yaml").is_file() else None)
    if run is None or not run.checkpoint.is_file():
        raise ValueError(f"{weights} holds a backbone alone: name its run, whose checkpoint has what guesses")
    settings = Settings.from_dict(run.config, str(run.path / "config.yaml"))
    guesser = find_method(settings.method).begin(run.load_model(best=False), settings, pretrained=True)
    if not isinstance(guesser, Guesser):
        raise ValueError(f"{run.path} guesses no pictures (method {settings.method}): its metrics.csv has the losses")
    state = torch.load(run.checkpoint, "cpu", weights_only=True)["state_dict"]
    prefix = "averaged." if settings.recipe.ema else "model."
    guesser.load_state_dict({name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)})
    return Opened(guesser.eval(), facts, weights, run)


def _open_samples(trained: Opened[Guesser, PretrainedFacts], data: str | Path | None) -> tuple[Samples, str]:
    """The pictures to judge on, and what to call them."""
    return judged_on(
        trained,
        data,
        find_task(PRETRAINING).embedded,
        lambda run: open_unlabelled(str(run.config["data"]), split=run.split).val,
        open_unlabelled_evaluation,
    )


@torch.inference_mode()
def _errors(guesser: Guesser, loader: Loader, device: torch.device) -> Errors:
    """Of all pictures, in their order."""
    batches = [guesser.errors(images.to(device), noise.to(device)) for images, noise in loader]
    return Errors(*(torch.cat(part).cpu() for part in zip(*batches, strict=True)))


@torch.inference_mode()
def _views(guesser: Guesser, image: Tensor, noise: Tensor, device: torch.device) -> dict[str, str]:
    """What is seen of a picture (3, H, W), the same with the guess in its place, and the whole, as data URIs."""
    image, noise = image[None].to(device), noise[None].to(device)
    hidden = guesser.hidden(image, noise)
    guess = guesser.picture(guesser.guess(image, hidden), image)
    pixels = repeated(hidden, image.shape[-1] // hidden.shape[-1])[:, None]
    original, guessed = _picture(image), _picture(guess)
    pictures = {
        "seen": original.masked_fill(pixels, GREY),
        "prediction": torch.where(pixels, guessed, original),
        "original": original,
    }
    return {name: jpeg_uri(enlarged(to_pil_image(picture[0].cpu()))) for name, picture in pictures.items()}


def _picture(image: Tensor) -> Tensor:
    """(B, 3, H, W) as networks see it -> values from 0 to 1."""
    mean, std = (torch.tensor(values, device=image.device).view(3, 1, 1) for values in (MEAN, STD))
    return (image.float() * std + mean).clamp(0, 1)
