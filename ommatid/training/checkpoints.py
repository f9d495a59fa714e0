"""Checkpoints to resume from: the last epoch's, replaced as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from ommatid.runs.files import replacing


def last_checkpoint(path: Path) -> ModelCheckpoint:
    """Writes `path` at the end of every epoch."""
    return ModelCheckpoint(
        dirpath=path.parent, filename=path.stem, save_on_train_epoch_end=True, enable_version_counter=False
    )


class WholeFiles(TorchCheckpointIO):
    """Writes beside the checkpoint and then replaces it. Lightning's own writes elsewhere, and may move by copying."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        with replacing(Path(path)) as draft:
            torch.save(checkpoint, draft)
