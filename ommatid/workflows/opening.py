"""What the verbs that use a trained model take: a run folder, weights of one, or an exported file."""

from __future__ import annotations

from pathlib import Path

from ommatid.deployment.exported import is_exported, open_exported, read_description
from ommatid.deployment.exported_dense import open_exported_dense, open_exported_restorer
from ommatid.models.weights import read_header
from ommatid.runs.trained import (
    CLASSIFICATION,
    RESTORATION,
    Trained,
    TrainedRestorer,
    TrainedScenes,
    find_weights,
    open_dense,
    open_restorer,
    open_trained,
    task_of,
)


def open_classifier(path: str | Path) -> Trained:
    """Opens what is there. Raises ValueError, in one line, where it is no trained classifier."""
    return open_exported(path) if is_exported(path) else open_trained(path)


def open_scene_network(path: str | Path) -> TrainedScenes:
    """Opens what is there. Raises ValueError, in one line, where it is no trained network for scenes."""
    return open_exported_dense(path) if is_exported(path) else open_dense(path)


def open_picture_restorer(path: str | Path) -> TrainedRestorer:
    """Opens what is there. Raises ValueError, in one line, where it is no trained restoration network."""
    return open_exported_restorer(path) if is_exported(path) else open_restorer(path)


def open_any(path: str | Path) -> Trained | TrainedScenes | TrainedRestorer:
    """Opens what is there, whatever its task. Raises ValueError, in one line, where nothing trained is there."""
    task = trained_for(path)
    if task == CLASSIFICATION:
        return open_classifier(path)
    return open_picture_restorer(path) if task == RESTORATION else open_scene_network(path)


def trained_for(path: str | Path) -> str:
    """The name of the task. Raises ValueError where nothing trained is there."""
    if is_exported(path):
        return str(read_description(Path(path).expanduser())["task"])
    return task_of(read_header(find_weights(path)[0]))
