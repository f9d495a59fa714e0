"""ommatid: choose, train and trust a vision model.

Models and weights are here at once; the verbs (`train`, `evaluate`, `predict`, `compare`, `bench`, `verify`) are
imported on first use, because training libraries take seconds to load and `create_model` should not wait for them.
"""

from importlib import import_module
from typing import Any

from ommatid.models import create_model, list_models, load, load_reference

__version__ = "0.1.0"

_VERBS = {
    "train": "train",
    "evaluate": "evaluate",
    "predict": "predict",
    "compare": "compare",
    "bench": "benchmark",
    "verify": "verify",
}

__all__ = ["create_model", "list_models", "load", "load_reference", *_VERBS]


def __getattr__(name: str) -> Any:
    if name in _VERBS:
        return getattr(import_module(f"ommatid.workflows.{_VERBS[name]}"), name)
    raise AttributeError(f"module 'ommatid' has no attribute {name!r}")
