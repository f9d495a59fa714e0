"""How a model is said in one word: `swin_tiny`, or `swin[dims=[8,16],depths=[1,1]]` with fields of its config."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import yaml

from ommatid.models.registry import find


@dataclass(frozen=True)
class ModelSpec:
    """A registered name and what is changed in its config; `text` is how it was written."""

    text: str
    name: str
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """A name for files, different for different settings."""
        if not self.settings:
            return self.name
        return f"{self.name}-{hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:6]}"

    def config(self, common: Mapping[str, Any]) -> dict[str, Any]:
        """Its own settings, and those of `common` that its family has a field for. Raises ValueError: unknown name."""
        known = {field.name for field in fields(find(self.name)[0].config)}
        return {name: value for name, value in common.items() if name in known} | self.settings


def parse_model(text: str) -> ModelSpec:
    """Raises ValueError where the text is neither NAME nor NAME[FIELD=VALUE,...]."""
    match = re.fullmatch(r"\s*([^\[\]\s]+)\s*(?:\[(.*)\])?\s*", text)
    try:
        settings = yaml.safe_load("{" + (match[2] or "").replace("=", ": ") + "}") if match else None
    except yaml.YAMLError:
        settings = None
    if match is None or settings is None:
        raise ValueError(f"{text!r} is not a model: write NAME, or NAME[FIELD=VALUE,...] as in swin[depths=[1,1,1,1]]")
    return ModelSpec(text.strip(), match[1], settings)


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
