"""What every registered model can do, whatever it is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from torch import nn

from ommatid.models.config import PartConfig
from ommatid.nn.deploy import deployed_copy


class Model(nn.Module):
    """Base of the contracts `Backbone` and `Restorer`, and of parts of models that have a reference of their own.

    Attributes:
        config: the configuration that the model was built from.
        deployed: whether this is a copy that `deploy` made.
        resized: attributes, by path, that are not as the config says, since units were removed (methods/pruning).
        sparse: names of tensors whose zeros are to stay (nn/sparse.py).
        no_decay: suffixes of the names of parameters that weight decay must leave alone, beyond vectors and scalars.
    """

    config: PartConfig
    deployed: bool = False
    resized: dict[str, Any] | None = None
    sparse: tuple[str, ...] = ()
    no_decay: tuple[str, ...] = ()

    def __init__(self, config: PartConfig) -> None:
        super().__init__()
        self.config = config

    def idle_parameters(self) -> set[str]:
        """Names of parameters that the answers do not depend on as the model is set just now; mostly none."""
        return set()

    def deploy(self) -> Self:
        """An equivalent, faster copy for inference, in evaluation mode: constants folded, branches merged.

        Its parameters are no longer those of the config: save the model itself, and deploy again after loading.
        """
        deployed = deployed_copy(self)
        deployed.deployed = True
        return deployed

    def save(self, path: str | Path) -> None:
        """Writes safetensors with the config in the header; `ommatid.load(path)` rebuilds the model."""
        from ommatid.models.weights import save

        save(self, path)
