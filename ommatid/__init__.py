"""ommatid: choose, train and trust a vision model.

Every name here is imported on first use: torch takes seconds to load, and `ommatid --help` should not wait for it.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "create_model": "models",
    "list_models": "models",
    "load": "models",
    "load_reference": "models",
    "train": "workflows.train",
    "evaluate": "workflows.evaluate",
    "experts": "workflows.experts",
    "predict": "workflows.predict",
    "restore": "workflows.restore",
    "reduce": "workflows.reduce",
    "compare": "workflows.compare",
    "explore": "workflows.explore",
    "compress": "workflows.compress",
    "export": "workflows.export",
    "optimize": "deployment.optimize",
    "quantize": "workflows.quantize",
    "bench": "workflows.bench",
    "serve": "workflows.serve",
    "verify": "workflows.verify",
    "upcycle": "methods.upcycling",
    "unify_norms": "methods.unified_norms",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"ommatid.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'ommatid' has no attribute {name!r}")
