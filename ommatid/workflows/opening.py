"""What the verbs that use a trained model take: a run folder, weights of one, or an exported file."""

from __future__ import annotations

from pathlib import Path

from ommatid.deployment.exported import is_exported, open_exported, read_description
from ommatid.models.weights import read_header
from ommatid.runs.trained import CLASSIFICATION, Trained, find_weights, open_trained, task_of


def open_classifier(path: str | Path) -> Trained:
    """Opens what is there. Raises ValueError, in one line, where it is no trained classifier."""
    return open_exported(path) if is_exported(path) else open_trained(path)


def trained_for(path: str | Path) -> str:
    """The name of the task. Raises ValueError where nothing trained is there, or a file that only others run."""
    if is_exported(path):
        task = str(read_description(Path(path).expanduser())["task"])
        if task != CLASSIFICATION:
            raise ValueError(f"{path} is the exported file of a {task} network: give its run folder, or its weights")
        return task
    return task_of(read_header(find_weights(path)[0]))
