"""The model that a training starts from: fresh, or with weights from a file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ommatid.models import create_model, load_reference
from ommatid.models.dense import DenseModel
from ommatid.models.registry import Family, families, family_of, find
from ommatid.models.weights import fit_to_, keep_sparse_, read_header, read_state

WRAPPERS = ("model_ema", "model", "state_dict", "model_state_dict")
"""Keys under which published checkpoints keep the state dict."""


def fresh_model(name: str, settings: Mapping[str, Any], *, size: int, **fitted: int) -> nn.Module:
    """A registered model for images of `size` pixels a side; `settings` are fields of its config.

    fitted: further fields, which follow from the data, such as num_classes; those that the family lacks are left out.

    Raises ValueError: unknown model or field, or an impossible value.
    """
    family, _ = find(name)
    return create_model(name, **(family.config.fields_for(size) | _known(family, fitted) | dict(settings)))


def model_from_weights(
    weights: Path,
    name: str,
    settings: Mapping[str, Any],
    *,
    size: int,
    say: Callable[[str], None],
    **fitted: int,
) -> nn.Module:
    """A model with weights from our own file, or from the checkpoint of the named model's reference implementation.

    The head, which is whatever has its shape from the `fitted` fields of the config, is left fresh where the file's is
    for other values of them; `say` is told.

    Raises:
        ValueError: the file is missing, not weights, or those of another model.
    """
    fitted = _known(find(name)[0], fitted)
    if weights_header(weights) is not None:
        state = read_state(weights)
        model = _model_in_file(weights, name, settings, fitted)
        header, head = read_header(weights), _head_names(family_of(model), model.config, fitted)
        fit_to_(model, header, state, classes_of=head)
        misfits = _place(model, state)
        keep_sparse_(model, header)
    else:
        model = fresh_model(name, settings, size=size, **fitted)
        report = load_reference(model, read_reference(weights))
        misfits = report.missing + [line.split(" ")[0] for line in report.mismatched]
        if report.unexpected:
            say(f"{len(report.unexpected)} tensors of {weights} have no place: {', '.join(report.unexpected[:5])}")
    _check_only_head(misfits, model, weights, fitted)
    if misfits:
        placed = len(model.state_dict()) - len(misfits)
        say(
            f"{weights} is for another {' or '.join(fitted)}: the head ({', '.join(misfits)}) starts fresh, "
            f"the other {placed} tensors are placed"
        )
    return model


def backbone_from_weights(model: DenseModel, weights: Path, *, say: Callable[[str], None]) -> None:
    """Loads the weights of a classifier, our file or the checkpoint of its reference, into a dense model's backbone.

    Its head is left out. Raises ValueError: as `model_from_weights` does, or the model has no backbone of its own.
    """
    backbone = model.backbone
    if backbone is None:
        raise ValueError(f"{weights} does not fit {type(model).__name__}: it has no backbone of its own")
    family = family_of(backbone)
    header = weights_header(weights)
    if header is None:
        report = load_reference(backbone, read_reference(weights))
        misfits, left = report.missing + [line.split(" ")[0] for line in report.mismatched], report.unexpected
    else:
        if header["family"] != family.id:
            raise ValueError(f"{weights} holds a {header['family']}, not a {family.id}")
        state = load_file(weights)
        misfits, left = _place(backbone, state), [name for name in state if name not in backbone.state_dict()]
    if misfits:
        raise ValueError(
            f"{weights} does not fit {family.id}: it has no {misfits[0]} of that shape ({len(misfits)} such)"
        )
    say(f"the backbone starts from {weights}" + (f"; of no use here: {', '.join(left[:5])}" if left else ""))


def _known(family: Family, fields: Mapping[str, int]) -> dict[str, int]:
    """Those that the family's config has."""
    known = {field.name for field in dataclasses.fields(family.config)}
    return {name: value for name, value in fields.items() if name in known}


def weights_header(weights: Path) -> dict[str, str] | None:
    """The header of our own weights file; None for a reference checkpoint. Raises ValueError where there is no file."""
    if not weights.is_file():
        raise ValueError(f"no weights file at {weights}")
    try:
        return read_header(weights)
    except ValueError:
        return None


def read_reference(weights: Path) -> dict[str, Tensor]:
    """The state dict in a reference checkpoint, safetensors or pickle. Raises ValueError where it is neither.

    Pickles are read as plain tensors only, so that a file can't run code.
    """
    try:
        content = (
            load_file(weights) if weights.suffix == ".safetensors" else torch.load(weights, "cpu", weights_only=True)
        )
    except Exception:  # bytes that are no pickle make the unpickler fail in any way
        raise ValueError(
            f"{weights} can't be read as weights: it is no safetensors file, nor a pickle of plain tensors"
        ) from None
    for key in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{weights} holds no state dict: expected tensors by name, or such a table under 'model'")
    return content


def check_size(model: nn.Module, size: int, num_classes: int) -> None:
    """Tries one image. Raises ValueError where the model does not take its size, or does not answer with logits."""
    if _answer_shape(model, size) != (1, num_classes):
        raise ValueError(f"{type(model).__name__} is not a classifier: it does not give one number per class")


def check_patch(model: nn.Module, size: int, scale: int) -> None:
    """Tries one patch. Raises ValueError where the model does not take its size, or does not enlarge it by `scale`."""
    shape = _answer_shape(model, size)
    if shape != (1, 3, scale * size, scale * size):
        raise ValueError(
            f"{type(model).__name__} makes {shape} of a patch (1, 3, {size}, {size}), not {scale} times its sides as "
            "the data ask for"
        )


def answer_of(model: nn.Module, sides: tuple[int, int]) -> Any:
    """What the model says of one image. Raises ValueError where it does not take such."""
    try:
        with torch.no_grad():
            return model.eval()(torch.zeros(1, 3, *sides))
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"size = {sides[0]} is not possible for {type(model).__name__}: {reason}") from None
    finally:
        model.train()


def _answer_shape(model: nn.Module, size: int) -> tuple[int, ...] | None:
    """Of one image; None where the answer is no tensor."""
    answer = answer_of(model, (size, size))
    return tuple(answer.shape) if isinstance(answer, Tensor) else None


def _model_in_file(weights: Path, name: str, settings: Mapping[str, Any], fitted: Mapping[str, int]) -> nn.Module:
    """Built for the image size of its own tables, whatever the training's: models resample those as they run."""
    header = read_header(weights)
    if header["family"] not in families():
        raise ValueError(f"{weights} holds a {header['family']!r}, which is not registered here")
    family = families()[header["family"]]
    if find(name)[0] is not family:
        raise ValueError(f"{weights} holds a {family.id}, not a {name}")
    config = family.config.from_dict(json.loads(header["config"]))
    return family.build(config.replace(**(dict(settings) | dict(fitted))))


def _place(model: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Loads every tensor that fits; the names of the model's that got none."""
    targets = model.state_dict()
    fitting = {name: state[name] for name in targets if name in state and state[name].shape == targets[name].shape}
    model.load_state_dict(fitting, strict=False)
    return [name for name in targets if name not in fitting]


def _check_only_head(misfits: Iterable[str], model: nn.Module, weights: Path, fitted: Mapping[str, int]) -> None:
    family = family_of(model)
    head = _head_names(family, model.config, fitted)
    wrong = [name for name in misfits if name not in head]
    if wrong:
        raise ValueError(f"{weights} does not fit {family.id}: it has no {wrong[0]} of that shape ({len(wrong)} such)")


def _head_names(family: Family, config: Any, fitted: Mapping[str, int]) -> set[str]:
    """The tensors that are there, or have their shapes, because of the fitted fields."""
    others = {name: 3 if value == 2 else 2 for name, value in fitted.items()}
    with torch.device("meta"):
        ours, theirs = (family.build(config.replace(**values)).state_dict() for values in (fitted, others))
    return {name for name, tensor in ours.items() if name not in theirs or tensor.shape != theirs[name].shape}
