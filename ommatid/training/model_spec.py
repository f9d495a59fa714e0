"""How a model is said in one word: `swin_tiny`, `swin[dims=[8,16],depths=[1,1]]`, or a YAML file that holds as much."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from ommatid.models.registry import find
from ommatid.runs.run import read_yaml

COMPOSED = "pyramid"
"""The model of a file that names none: whoever writes one composes."""


@dataclass(frozen=True)
class ModelSpec:
    """A registered name and what is changed in its config; `text` is how it was written. `file`: where it was read."""

    text: str
    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    file: str | None = None

    @property
    def folder(self) -> str:
        """A name for files, different for different settings."""
        if not self.settings:
            return self.name
        stem = Path(self.file).stem if self.file else self.name
        return f"{stem}-{hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:6]}"

    def config(self, common: Mapping[str, Any]) -> dict[str, Any]:
        """Its own settings, and those of `common` that its family has a field for. Raises ValueError: unknown name."""
        known = {field.name for field in fields(find(self.name)[0].config)}
        return {name: value for name, value in common.items() if name in known} | self.settings


def parse_model(text: str) -> ModelSpec:
    """Raises ValueError where the text is neither NAME, nor NAME[FIELD=VALUE,...], nor a readable file."""
    if text.strip().endswith((".yaml", ".yml", ".json")):
        return _from_file(text.strip())
    match = re.fullmatch(r"\s*([^\[\]\s]+)\s*(?:\[(.*)\])?\s*", text)
    try:
        settings = yaml.safe_load("{" + (match[2] or "").replace("=", ": ") + "}") if match else None
    except yaml.YAMLError:
        settings = None
    if match is None or settings is None:
        raise ValueError(f"{text!r} is not a model: write NAME, or NAME[FIELD=VALUE,...] as in swin[depths=[1,1,1,1]]")
    return ModelSpec(text.strip(), match[1], settings)


def _from_file(path: str) -> ModelSpec:
    """Of a file with fields of a config, and `model: NAME` where it is no pyramid; or of a run's config.yaml."""
    values = read_yaml(Path(path).expanduser())  # JSON is YAML
    if not isinstance(values, dict):
        raise ValueError(f"{path} is no model: expected lines such as 'mixer: window'")
    name = values.pop("model", COMPOSED)
    settings = (values["set"] or {}) if "set" in values else values
    if not isinstance(name, str) or not isinstance(settings, dict):
        raise ValueError(f"{path} is no model: expected a name as its model, and fields of that model's config")
    return ModelSpec(path, name, {str(key): value for key, value in settings.items()}, path)


def split_models(text: str) -> list[str]:
    """`"a,b[c=1,d=[2,3]]"` -> `["a", "b[c=1,d=[2,3]]"]`: parted at the commas outside of brackets."""
    depth, parts = 0, [""]
    for letter in text:
        depth += (letter == "[") - (letter == "]")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]
