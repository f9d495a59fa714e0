"""What a recipe says, and where recipes are found."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from ommatid.data import Augmentation, ImageData
from ommatid.data.dense import SceneAugmentation
from ommatid.models.config import require, suggest
from ommatid.runs.run import read_yaml

PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed", "float16": "16-mixed"}
"""Our names for arithmetic, and Lightning's. Weights stay float32 in each."""

AUTO = "auto"
"""The precision that a machine trains fastest in, chosen when a training begins."""

FOLDER = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained: AdamW, a linear warm-up and a cosine to zero, per step.

    name: the file it came from. lr: at the peak. weight_decay: decoupled, on matrices alone. warmup_epochs: may be a
    part of one. ema: decay per step of the averaged weights (0: none). clip: largest gradient norm (0: no limit).
    drop_path: stochastic depth of the last block (arXiv 1603.09382), for models that have it. loss: by its task's name
    for it; the task's usual one where None. label_smoothing and augmentation are for classification alone, `scenes` is
    the augmentation of annotated pictures. backbone_lr: the backbone's rate as a share of the head's, or of all that is
    on it in a dense model, in which 0 freezes it. layer_decay: by what the rate of a backbone's stage (block, in plain
    ones) falls from each to the one before it. Neither is for restoration.
    class_balance: in segmentation, classes weigh their share of pixels to the minus this power; 0: all alike.

    Raises:
        ValueError: a number is impossible; names field, value and what is allowed.
    """

    name: str
    epochs: int
    batch: int
    lr: float
    weight_decay: float = 0.05
    warmup_epochs: float = 0.0
    label_smoothing: float = 0.0
    ema: float = 0.0
    clip: float = 0.0
    drop_path: float = 0.0
    loss: str | None = None
    precision: str = "float32"
    augmentation: Augmentation = field(default_factory=Augmentation)
    backbone_lr: float = 1.0
    layer_decay: float = 1.0
    class_balance: float = 0.0
    scenes: SceneAugmentation = field(default_factory=SceneAugmentation)

    def __post_init__(self) -> None:
        for name in ("epochs", "batch"):
            require(
                _is_integer(getattr(self, name)) and getattr(self, name) >= 1, name, getattr(self, name), "1 or more"
            )
        require(_is_number(self.lr) and self.lr > 0, "lr", self.lr, "a number above 0")
        for name in ("weight_decay", "warmup_epochs", "clip"):
            require(
                _is_number(getattr(self, name)) and getattr(self, name) >= 0, name, getattr(self, name), "0 or more"
            )
        for name in ("label_smoothing", "ema", "drop_path"):
            value = getattr(self, name)
            require(_is_number(value) and 0 <= value < 1, name, value, "from 0 up to, not including, 1")
        for name in ("backbone_lr", "layer_decay", "class_balance"):
            value = getattr(self, name)
            require(_is_number(value) and 0 <= value <= 1, name, value, "from 0 to 1")
        allowed = (*PRECISIONS, AUTO)
        require(self.precision in allowed, "precision", self.precision, ", ".join(allowed))

    def changed(self, *, epochs: int | None, batch: int | None, lr: float | None, precision: str | None) -> Self:
        """A copy with what is not None replaced. Without a rate of its own, another batch scales the rate.

        By the square root of the ratio, which suits Adam (arXiv 2205.10287).
        """
        if batch is not None and lr is None and _is_integer(batch) and batch > 0:
            lr = self.lr * math.sqrt(batch / self.batch)
        asked: dict[str, Any] = {"epochs": epochs, "batch": batch, "lr": lr, "precision": precision}
        return replace(self, **{name: value for name, value in asked.items() if value is not None})

    def suited_to(self, data: ImageData) -> Self:
        """The same without mirror images where those are of another class, or none."""
        return self if data.may_flip else replace(self, augmentation=replace(self.augmentation, flip=0.0))

    def to_dict(self) -> dict[str, Any]:
        """JSON-like; `from_dict` takes it back."""
        values = asdict(self)
        values["augmentation"]["crop_scale"] = list(self.augmentation.crop_scale)
        values["scenes"]["zoom"] = list(self.scenes.zoom)
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str) -> Self:
        """Raises ValueError, naming `where`, for unknown, missing or impossible values."""
        try:
            _check_names(cls, values, required={"name", "epochs", "batch", "lr"})
            augmentation = values.get("augmentation") or {}
            _check_names(Augmentation, augmentation)
            if "crop_scale" in augmentation:
                augmentation = augmentation | {"crop_scale": tuple(augmentation["crop_scale"])}
            scenes = values.get("scenes") or {}
            _check_names(SceneAugmentation, scenes)
            if "zoom" in scenes:
                scenes = scenes | {"zoom": tuple(scenes["zoom"])}
            parts = {"augmentation": Augmentation(**augmentation), "scenes": SceneAugmentation(**scenes)}
            return cls(**(_with_numbers(values) | parts))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: {error}") from None


def list_recipes() -> list[str]:
    """Names of the recipes that come with ommatid."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_recipe(name: str | Path) -> Recipe:
    """A recipe by name, or from a YAML file (`.yaml`, `.yml`). Raises ValueError: unknown, or bad."""
    path = Path(name).expanduser() if str(name).endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if path.parent == FOLDER and path.stem not in list_recipes():
        known = list_recipes()
        raise ValueError(
            f"no recipe is called {str(name)!r}{suggest(str(name), known)}; there are {', '.join(known)}, "
            "and any YAML file of yours"
        )
    return Recipe.from_dict({"name": path.stem} | _mapping(read_yaml(path), str(path)), f"recipe {name}")


def _mapping(values: Any, where: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise ValueError(f"{where} is not a recipe: expected lines such as 'epochs: 30'")
    return values


def _check_names(described: type, values: Any, required: frozenset[str] | set[str] = frozenset()) -> None:
    known = [field.name for field in fields(described)]
    for name in _mapping(values, described.__name__.lower()):
        if name not in known:
            raise ValueError(f"no setting {name!r}{suggest(str(name), known)}; there are {', '.join(known)}")
    if missing := sorted(required - set(values)):
        raise ValueError(f"{missing[0]} is missing")


def _with_numbers(values: dict[str, Any]) -> dict[str, Any]:
    """YAML reads 1e-3 as text, for want of a point; what a person means by it is a number."""
    return {
        name: _number(value) if name not in ("name", "loss", "precision") else value for name, value in values.items()
    }


def _number(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
