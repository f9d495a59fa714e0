"""reduce: a trained model with fewer tokens, at several settings, judged and measured, with the one to take."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn

from ommatid.measuring.machine import describe_machine
from ommatid.measuring.macs import count_macs
from ommatid.measuring.measure import check_settings, forward_memory, prepared
from ommatid.measuring.timing import alternate, quartiles, thread_count
from ommatid.models import save
from ommatid.models.config import require, suggest
from ommatid.models.weights import read_header
from ommatid.report.formats import significant
from ommatid.report.metric import Metric
from ommatid.report.pictures import png_uri
from ommatid.report.reduce import reduce_page
from ommatid.report.token_picture import grouped_picture
from ommatid.runs.evaluation import own_run
from ommatid.runs.files import replacing, write_json, write_text
from ommatid.runs.run import Run
from ommatid.runs.trained import CLASSIFICATION, SEGMENTATION, find_weights, task_of
from ommatid.workflows.reduce_classifier import ClassifierSubject
from ommatid.workflows.reduce_segmenter import SegmenterSubject
from ommatid.workflows.reduce_subject import Subject
from ommatid.workflows.train import train

CPU = torch.device("cpu")
PICTURES, PICTURE_SIDE = 4, 160

SUBJECTS: dict[str, Callable[..., Subject]] = {
    CLASSIFICATION: ClassifierSubject.open,
    SEGMENTATION: SegmenterSubject.open,
}
"""What is reduced, by the task that it was trained for."""


def reduce(
    run_or_weights: str | Path,
    data: str | Path | None = None,
    *,
    method: str | None = None,
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
        run_or_weights: a run folder, or a weights file of one: of a classifier, or of a segmentation network.
        data: to judge on; the run's own validation part where not given.
        method: for a classifier "tome" (where not given), "expedite", "ia_red2", "sparsifiner" or "early_exit"; for a
            segmentation network on such a backbone "expedite", for a trained `dtop` "dtop".
        keep: the settings: shares for the first two and "sparsifiner", otherwise what the method's table says.
        tolerance: points of accuracy, or of mIoU, that may be lost.
        epochs: of what the method has to learn beforehand, if anything, on the run's training part.
        finetune: epochs of training for each setting, on the run's data.
        batch: images at a time, for judging a classifier, and for learning.
        threads: of the CPU, for the latency.
        rounds: timed calls for each setting, in turn; as many images are looked at for multiply-adds.
        out: folder of weights and report; RUN/reduced-METHOD where not given.
        say: is told about each setting.

    Returns:
        Also written as reduction.json, and as a page: settings (the first is the model as it was), recommended (a
        sentence), weights (of the recommended one; None for the model itself), report.

    Raises:
        ValueError: the run, the data, the method or a setting is impossible.
    """
    check_settings(batch, batch, threads, "float32", rounds)
    task = task_of(read_header(find_weights(run_or_weights)[0]))
    require(task in SUBJECTS, "task", task, f"{' or '.join(SUBJECTS)}, in {run_or_weights}")
    subject = SUBJECTS[task](run_or_weights, data)
    plans, trained, metric = subject.methods, subject.trained, subject.metric
    method = method or next(iter(plans))
    require(method in plans, "method", method, f"{', '.join(plans)} for {subject.name}{suggest(method, plans)}")
    plan = plans[method]
    folder = Path(out).expanduser() if out else trained.path.parent / f"reduced-{method}"
    folder.mkdir(parents=True, exist_ok=True)
    learned = plan.epochs if epochs is None else epochs
    models: dict[str, nn.Module] = {"as it was": trained.model}
    files: dict[str, Path] = {}
    for setting in keep or plan.settings:
        name = f"{method} {setting:g}"
        smaller = subject.reduced(plan, setting, epochs=learned, batch=batch).eval()
        files[name] = folder / f"{method}-{setting:g}.safetensors"
        models[name] = _written(smaller, files[name], subject)
        if finetune:
            models[name] = _finetuned(files[name], subject, finetune, say)
    rows = _measured(models, subject, threads, rounds)
    for row, (name, model) in zip(rows, models.items(), strict=True):
        row[metric.key] = subject.judge(model, plan.batch or batch)
        row["weights"] = str(files.get(name, trained.path))
        row["speedup"] = rows[0]["latency_ms"] / row["latency_ms"]
        say(f"{name}: {metric.show(row[metric.key])} at {significant(row['latency_ms'])} ms")
    taken = _recommended(rows, metric, tolerance)
    result = {
        "model": subject.name,
        "method": method,
        "data": subject.source,
        "judged_by": metric.key,
        "settings": rows,
        "recommended": _sentence(rows, taken, metric, tolerance),
        "weights": None if taken == 0 else rows[taken]["weights"],
        "command": f"ommatid predict {rows[taken]['weights']} IMAGES",
        "notes": [note for note in (plan.note, f"A setting is a number of {plan.told}.") if note],
        "pictures": [picture for name, model in models.items() for picture in _pictures(name, model, subject)],
        "machine": describe_machine(),
        "measured": {
            "threads": threads or torch.get_num_threads(),
            "rounds": rounds,
            "images": len(subject.samples),
            "latency": "median over rounds in which all settings come in turn, one image of the validation part each",
            "multiply-adds": "mean over the same images",
        },
    }
    write_json(folder / "reduction.json", {key: value for key, value in result.items() if key != "pictures"})
    write_text(folder / "report.html", reduce_page(result, metric))
    return result | {"report": str(folder / "report.html")}


def _written(smaller: nn.Module, path: Path, subject: Subject) -> nn.Module:
    with replacing(path) as draft:
        save(smaller, draft, extra=subject.header)
    return smaller


def _finetuned(weights: Path, subject: Subject, epochs: int, say: Callable[[str], None]) -> nn.Module:
    """Trains the reduced model on the run's data; its file then holds what came out."""
    run = own_run(subject.trained)
    if run is None:
        raise ValueError(f"{subject.trained.path} lies outside of its run folder: there is no data to fine-tune on")
    say(f"fine-tuning {weights.stem}")
    result = train(
        run.config["data"],
        weights=weights,
        epochs=epochs,
        seed=run.config.get("seed"),
        out=weights.with_suffix(""),
        progress=False,
        **subject.finetuning,
    )
    return _written(Run.open(result.run).load_model(), weights, subject)


def _measured(models: dict[str, nn.Module], subject: Subject, threads: int | None, rounds: int) -> list[dict[str, Any]]:
    """Latency in turns on real images, memory and multiply-adds of each."""
    images = subject.images(rounds)
    ready = [prepared(subject.timed(model), CPU, "float32") for model in models.values()]
    with thread_count(threads), torch.inference_mode():
        calls = [_on_each(model, images) for model in ready]
        taken = list(zip(*alternate(calls, CPU, rounds=rounds, seconds=math.inf), strict=True))
    rows = []
    for name, model, seconds in zip(models, ready, taken, strict=True):
        middle = quartiles(list(seconds))
        rows.append(
            {
                "setting": name,
                "latency_ms": 1e3 * middle.median,
                "quartiles": f"{significant(1e3 * middle.p25)}–{significant(1e3 * middle.p75)}",
                "memory_mb": forward_memory(model, images[0]) / 2**20,
                "macs_m": mean(count_macs(model, image) for image in images) / 1e6,
            }
        )
    return rows


def _on_each(model: nn.Module, images: Sequence[Tensor]) -> Callable[[], object]:
    """A call that takes the next image every time."""
    turn = iter(range(1 << 30))
    return lambda: model(images[next(turn) % len(images)])


def _recommended(rows: Sequence[dict[str, Any]], metric: Metric, tolerance: float) -> int:
    """The fastest setting that is near enough to the model as it was."""
    least = rows[0][metric.key] - tolerance / 100 - 1e-9
    near = [i for i, row in enumerate(rows) if row[metric.key] >= least]
    return min(near, key=lambda i: rows[i]["latency_ms"])


def _sentence(rows: Sequence[dict[str, Any]], taken: int, metric: Metric, tolerance: float) -> str:
    first, row = metric.show(rows[0][metric.key]), rows[taken]
    if taken == 0:
        return f"The model as it was: no faster setting is within {tolerance:g} points of its {first}."
    return (
        f"{row['setting']}: {metric.show(row[metric.key])} at {significant(row['latency_ms'])} ms, "
        f"{significant(row['speedup'])} times as fast as the model as it was ({first})."
    )


def _pictures(name: str, model: nn.Module, subject: Subject) -> list[dict[str, Any]]:
    """What became of the patches of a few images."""
    return [
        {
            "image": png_uri(grouped_picture(image, shown.numpy(), PICTURE_SIDE), PICTURE_SIDE * 2),
            "setting": name,
            "tokens": len(shown[shown >= 0].unique()),
            "patches": shown.numel(),
        }
        for image, shown in subject.pictures(model, PICTURES)
    ]
