"""Weights on disk: safetensors, with the family and its config in the header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from ommatid.models.registry import families, family_of


def save(model: Any, path: str | Path, extra: dict[str, str] | None = None) -> None:
    """Writes the model's state and, in the header, its family, its config and any `extra` strings.

    Raises:
        ValueError: the model is a deployed copy.
    """
    if getattr(model, "deployed", False):
        raise ValueError("a deployed copy cannot be saved: save the model it was made from, and deploy after loading")
    header = {
        "format": "pt",
        "family": family_of(model).id,
        "config": json.dumps(model.config.to_dict()),
        **(extra or {}),
    }
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in model.state_dict().items()}
    path = Path(path)
    path.touch()
    permissions = path.stat().st_mode
    save_file(tensors, path, metadata=header)
    path.chmod(permissions)  # safetensors writes for the owner's eyes only


def load(path: str | Path) -> nn.Module:
    """Rebuilds the model that `save` wrote, in evaluation mode.

    Raises:
        ValueError: the file is missing, is not safetensors, or was not written by ommatid.
    """
    header = read_header(path)
    known = families()
    if header["family"] not in known:
        raise ValueError(f"{path} holds a {header['family']!r}, which is not registered here")
    family = known[header["family"]]
    model = family.build(family.config.from_dict(json.loads(header["config"])))
    with safe_open(str(path), framework="pt") as file:
        model.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    return model.eval()


def read_header(path: str | Path) -> dict[str, str]:
    """The strings in the header of a weights file. Raises ValueError as `load` does."""
    if not Path(path).is_file():
        raise ValueError(f"no weights file at {path}")
    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from None
    if "family" not in header or "config" not in header:
        raise ValueError(
            f"{path} has no ommatid header: for a reference checkpoint use load_reference(create_model(...), state)"
        )
    return header
