"""Weights on disk: safetensors, with the family and its config in the header."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ommatid.models.registry import families, family_of
from ommatid.nn.moe.upcycling import upcycle_
from ommatid.nn.resize import resize_
from ommatid.nn.sparse import hold_zeros_, pack, unpack
from ommatid.nn.unified_norm import replace_layer_norms_


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
        **_changes_header(model),
        **(extra or {}),
    }
    state = pack(model.state_dict(), getattr(model, "sparse", ()))
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in state.items()}
    path = Path(path)
    path.touch()
    permissions = path.stat().st_mode
    save_file(tensors, path, metadata=header)
    path.chmod(permissions)  # safetensors writes for the owner's eyes only


def _changes_header(model: Any) -> dict[str, str]:
    """What a model that got experts or other norms, or has lost units or weights, is rebuilt by, beside its config."""
    resized, sparse = getattr(model, "resized", None), getattr(model, "sparse", ())
    header = {} if resized is None else {"resized": json.dumps(resized)}
    upcycled = getattr(model, "upcycled", None)
    header |= {} if upcycled is None else {"upcycled": json.dumps(upcycled)}
    unified = getattr(model, "unified_norms", None)
    header |= {} if unified is None else {"unified_norms": json.dumps(unified)}
    return header | ({"sparse": json.dumps(sparse)} if sparse else {})


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
    state = read_state(path)
    fit_to_(model, header, state)
    model.load_state_dict(state)
    keep_sparse_(model, header)
    return model.eval()


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a weights file by name, those that are stored sparse as dense ones."""
    return unpack(load_file(path))


def fit_to_(
    model: nn.Module, header: dict[str, str], state: Mapping[str, Tensor], *, classes_of: Collection[str] = ()
) -> None:
    """Gives a model that was built from its config the experts and norms that its state got since (methods/upcycling,
    methods/unified_norms), and the sizes of one that has lost units (methods/pruning).

    classes_of: tensors whose first axis stays the model's own.
    """
    if "upcycled" in header:
        model.upcycled = json.loads(header["upcycled"])
        upcycle_(model, **json.loads(header["upcycled"]))
    if "unified_norms" in header:
        model.unified_norms = json.loads(header["unified_norms"])
        replace_layer_norms_(model, **json.loads(header["unified_norms"]))
    if "resized" in header:
        own = model.state_dict()
        shapes = {
            name: (own[name].shape[:1] + tensor.shape[1:]) if name in classes_of else tensor.shape
            for name, tensor in state.items()
        }
        resize_(model, shapes, json.loads(header["resized"]))
        model.resized = json.loads(header["resized"])


def keep_sparse_(model: nn.Module, header: dict[str, str]) -> None:
    """Lets the zeros of a loaded model that was pruned to be sparse stay zero when it is trained further."""
    if "sparse" in header:
        hold_zeros_(model, json.loads(header["sparse"]))


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
