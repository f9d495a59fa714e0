"""reduce: a trained model with fewer tokens, at several settings, judged and measured, with the one to take."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ommatid.data import Samples, eval_transform, make_loader, open_data, open_evaluation
from ommatid.data.augment import Augmentation, train_transform
from ommatid.measuring.machine import describe_machine
from ommatid.measuring.macs import count_macs
from ommatid.measuring.measure import check_settings, forward_memory, image_for, prepared
from ommatid.measuring.timing import alternate, quartiles, thread_count
from ommatid.methods.early_exit import exit_early
from ommatid.methods.reduced import Reduced, trunk_of
from ommatid.methods.tokens import cluster_tokens, drop_tokens, merge_tokens, sparsify_attention
from ommatid.methods.tokens.groups import token_groups
from ommatid.methods.tokens.interpreter_training import train_interpreters
from ommatid.methods.tokens.predictor_training import train_predictors
from ommatid.models import save
from ommatid.models.config import suggest
from ommatid.models.sizes import pair
from ommatid.report.formats import percent, significant
from ommatid.report.pictures import png_uri
from ommatid.report.reduce import reduce_page
from ommatid.report.token_picture import grouped_picture
from ommatid.runs.data_place import data_place
from ommatid.runs.evaluation import own_run
from ommatid.runs.files import replacing, write_json, write_text
from ommatid.runs.inference import probabilities
from ommatid.runs.trained import Trained, WeightFacts, open_trained
from ommatid.workflows.train import train

Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]

CPU = torch.device("cpu")
PICTURES, PICTURE_SIDE = 4, 160


@dataclass(frozen=True)
class Method:
    """What one method is made of, for a model, a setting, and images to learn from where it has something to learn.

    settings: tried where none are given, mildest first. told: what the number of a setting means. epochs: of learning
    beforehand, by default. note: what is worth knowing. batch: at which accuracy is taken, None for any.
    """

    make: Callable[[nn.Module, float, Batches, int], Reduced]
    settings: tuple[float, ...]
    told: str
    epochs: int = 0
    note: str = ""
    batch: int | None = None


def _interpreted(model: nn.Module, setting: float, batches: Batches, epochs: int) -> Reduced:
    # What a mistake costs decides how many tokens stay.
    return train_interpreters(drop_tokens(model), batches, epochs=epochs, error_penalty=setting)


def _sparse(model: nn.Module, setting: float, batches: Batches, epochs: int) -> Reduced:
    return train_predictors(sparsify_attention(model, keep=setting), batches, epochs=epochs)


METHODS = {
    "tome": Method(
        lambda model, keep, *_: merge_tokens(model, keep=keep), (0.9, 0.7, 0.5, 0.3), "patches left at the end"
    ),
    "expedite": Method(
        lambda model, keep, *_: cluster_tokens(model, keep=keep),
        (0.75, 0.5, 0.35, 0.25),
        "centres for each patch",
        note="Clustering keeps the map's resolution: it is meant for dense prediction.",
    ),
    "ia_red2": Method(
        _interpreted,
        (8.0, 5.0, 3.0, 1.0),
        "penalty of a mistake",
        epochs=1,
        note="Each image keeps as many tokens as it needs: latency is that of the images of the validation part.",
    ),
    "sparsifiner": Method(
        _sparse,
        (0.75, 0.5, 0.25),
        "keys that each query keeps",
        epochs=1,
        note="PyTorch has no kernel for such attention: multiply-adds count all pairs, and no time is saved.",
    ),
    "early_exit": Method(
        lambda model, threshold, *_: exit_early(model, threshold=threshold),
        (0.995, 0.98, 0.95, 0.9),
        "similarity at which it stops",
        note="How many blocks run is decided for each image: it cannot be exported.",
        batch=1,
    ),
}


def reduce(
    run_or_weights: str | Path,
    data: str | Path | None = None,
    *,
    method: str = "tome",
    keep: Sequence[float] = (),
    tolerance: float = 1.0,
    epochs: int | None = None,
    finetune: int = 0,
    batch: int = 64,
    threads: int | None = None,
    rounds: int = 30,
    out: str | Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Reduces a trained plain transformer at several settings, and judges and measures each, images one at a time.

    Args:
        run_or_weights: a run folder, or a weights file of one.
        data: to judge on; the run's own validation part where not given.
        method: "tome", "expedite", "ia_red2", "sparsifiner" or "early_exit".
        keep: the settings: shares for the first two and "sparsifiner", otherwise what METHODS says.
        tolerance: points of accuracy that may be lost.
        epochs: of what the method has to learn beforehand, if anything, on the run's training part.
        finetune: epochs of training, by the recipe of that name, for each setting.
        batch: images at a time, for judging and learning.
        threads: of the CPU, for the latency.
        rounds: timed calls for each setting, in turn.
        out: folder of weights and report; RUN/reduced-METHOD where not given.
        say: is told about each setting.

    Returns:
        Also written as reduction.json, and as a page: settings (the first is the model as it was), recommended (a
        sentence), weights (of the recommended one; None for the model itself), report.

    Raises:
        ValueError: the run, the data, the method or a setting is impossible.
    """
    if method not in METHODS:
        raise ValueError(
            f"method = {method!r} is not possible: allowed is {', '.join(METHODS)}{suggest(method, METHODS)}"
        )
    check_settings(batch, batch, threads, "float32", rounds)
    plan, trained = METHODS[method], open_trained(run_or_weights)
    trunk_of(trained.model)
    samples, learning, source = _open(trained, data, batch)
    folder = Path(out).expanduser() if out else trained.path.parent / f"reduced-{method}"
    folder.mkdir(parents=True, exist_ok=True)
    learned = plan.epochs if epochs is None else epochs
    models: dict[str, nn.Module] = {"as it was": trained.model}
    files: dict[str, Path] = {}
    for setting in keep or plan.settings:
        name = f"{method} {setting:g}"
        smaller = plan.make(trained.model, setting, learning, learned).eval()
        files[name] = folder / f"{method}-{setting:g}.safetensors"
        models[name] = _written(smaller, files[name], trained.facts)
        if finetune:
            models[name] = _finetuned(files[name], trained, finetune, say)
    rows = _measured(models, trained.facts.size, samples, threads, rounds)
    for row, (name, model) in zip(rows, models.items(), strict=True):
        row["accuracy"] = _accuracy(model, samples, trained.facts.size, plan.batch or batch)
        row["weights"] = str(files.get(name, trained.path))
        row["speedup"] = rows[0]["latency_ms"] / row["latency_ms"]
        say(f"{name}: {percent(row['accuracy'])} at {significant(row['latency_ms'])} ms")
    taken = _recommended(rows, tolerance)
    result = {
        "model": trained.facts.name,
        "method": method,
        "data": source,
        "settings": rows,
        "recommended": _sentence(rows, taken, tolerance),
        "weights": None if taken == 0 else rows[taken]["weights"],
        "command": f"ommatid predict {rows[taken]['weights']} IMAGES",
        "notes": [note for note in (plan.note, f"A setting is a number of {plan.told}.") if note],
        "pictures": [picture for name, model in models.items() for picture in _pictures(name, model, samples, trained)],
        "machine": describe_machine(),
        "measured": {
            "threads": threads or torch.get_num_threads(),
            "rounds": rounds,
            "images": len(samples),
            "latency": "median over rounds in which all settings come in turn, one image of the validation part each",
        },
    }
    write_json(folder / "reduction.json", {key: value for key, value in result.items() if key != "pictures"})
    write_text(folder / "report.html", reduce_page(result))
    return result | {"report": str(folder / "report.html")}


def _open(trained: Trained, data: str | Path | None, batch: int) -> tuple[Samples, Batches, str]:
    """Images to judge on, batches to learn from (the run's training part), and what the data is called."""
    run, size = own_run(trained), trained.facts.size
    if run is None:
        if data is None:
            raise ValueError(f"{trained.path} lies outside of its run folder: name the data to judge on")
        samples = open_evaluation(data, trained.facts.classes)
        return samples, _batches(samples, eval_transform(size), batch), str(data)
    own = open_data(str(run.config["data"]), split=run.split)
    learning = _batches(own.train, train_transform(Augmentation(), size), batch)
    if data is None or data_place(data) == data_place(run.config["data"]):
        return own.val, learning, str(run.config["data"])
    return open_evaluation(data, trained.facts.classes), learning, str(data)


def _batches(samples: Samples, transform: Any, batch: int) -> Batches:
    return lambda: make_loader(samples, transform, batch=min(batch, len(samples)), shuffle=True, seed=0)


def _written(model: Reduced, path: Path, facts: WeightFacts) -> nn.Module:
    header = facts.to_header() | {"name": "reduced"}
    with replacing(path) as draft:
        save(model, draft, extra=header)
    return model


def _finetuned(weights: Path, trained: Trained, epochs: int, say: Callable[[str], None]) -> nn.Module:
    """Trains the reduced model on the run's data; its file then holds what came out."""
    run = own_run(trained)
    if run is None:
        raise ValueError(f"{trained.path} lies outside of its run folder: there is no data to fine-tune on")
    say(f"fine-tuning {weights.stem}")
    folder = weights.with_suffix("")
    result = train(
        run.config["data"],
        weights=weights,
        recipe="finetune",
        epochs=epochs,
        size=trained.facts.size,
        seed=run.config.get("seed"),
        out=folder,
        progress=False,
    )
    tuned = open_trained(result.run)
    model = tuned.model
    assert isinstance(model, Reduced)
    return _written(model, weights, trained.facts)


def _measured(
    models: dict[str, nn.Module], size: int, samples: Samples, threads: int | None, rounds: int
) -> list[dict[str, Any]]:
    """Latency in turns on real images, memory and multiply-adds of each."""
    transform = eval_transform(size)
    images = [transform(samples[index][0])[None] for index in range(min(rounds, len(samples)))]
    ready = [prepared(model, CPU, "float32") for model in models.values()]
    with thread_count(threads), torch.inference_mode():
        calls = [_on_each(model, images) for model in ready]
        taken = list(zip(*alternate(calls, CPU, rounds=rounds, seconds=math.inf), strict=True))
    rows = []
    for name, model, seconds in zip(models, ready, taken, strict=True):
        middle = quartiles(list(seconds))
        image = image_for(model, 1, pair(size))
        rows.append(
            {
                "setting": name,
                "latency_ms": 1e3 * middle.median,
                "quartiles": f"{significant(1e3 * middle.p25)}–{significant(1e3 * middle.p75)}",
                "memory_mb": forward_memory(model, image) / 2**20,
                "macs_m": count_macs(model, images[0]) / 1e6,
            }
        )
    return rows


def _on_each(model: nn.Module, images: Sequence[Tensor]) -> Callable[[], object]:
    """A call that takes the next image every time."""
    turn = iter(range(1 << 30))
    return lambda: model(images[next(turn) % len(images)])


def _accuracy(model: nn.Module, samples: Samples, size: int, batch: int) -> float:
    loader = make_loader(samples, eval_transform(size), batch=batch, shuffle=False, seed=0)
    right = [probabilities(model.eval(), images, CPU).argmax(1).eq(labels).sum() for images, labels in loader]
    return int(torch.stack(right).sum()) / len(samples)


def _recommended(rows: Sequence[dict[str, Any]], tolerance: float) -> int:
    """The fastest setting that is near enough to the model as it was."""
    near = [i for i, row in enumerate(rows) if row["accuracy"] >= rows[0]["accuracy"] - tolerance / 100 - 1e-9]
    return min(near, key=lambda i: rows[i]["latency_ms"])


def _sentence(rows: Sequence[dict[str, Any]], taken: int, tolerance: float) -> str:
    first, row = rows[0], rows[taken]
    if taken == 0:
        kept = percent(first["accuracy"])
        return f"The model as it was: no faster setting is within {tolerance:g} points of its {kept}."
    return (
        f"{row['setting']}: {percent(row['accuracy'])} at {significant(row['latency_ms'])} ms, "
        f"{significant(row['speedup'])} times as fast as the model as it was ({percent(first['accuracy'])})."
    )


def _pictures(name: str, model: nn.Module, samples: Samples, trained: Trained) -> list[dict[str, Any]]:
    """What became of the patches of a few images."""
    if not isinstance(model, Reduced):
        return []
    transform, indices = eval_transform(trained.facts.size), range(min(PICTURES, len(samples)))
    groups = token_groups(model, torch.stack([transform(samples[index][0]) for index in indices]))
    if groups is None:
        return []
    return [
        {
            "image": png_uri(grouped_picture(_seen(samples, index), shown.numpy(), PICTURE_SIDE), PICTURE_SIDE * 2),
            "setting": name,
            "tokens": len(shown[shown >= 0].unique()),
            "patches": shown.numel(),
        }
        for index, shown in zip(indices, groups, strict=True)
    ]


def _seen(samples: Samples, index: int) -> Any:
    """The square in the middle of an image, which the model saw."""
    image = samples[index][0]
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))
