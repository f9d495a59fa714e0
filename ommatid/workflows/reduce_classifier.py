"""A classifier for `reduce`: the methods that save it tokens, and its accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from PIL import Image
from torch import Tensor, nn

from ommatid.data import Samples, eval_transform, make_loader, open_data
from ommatid.data.augment import Augmentation, train_transform
from ommatid.methods.early_exit import exit_early
from ommatid.methods.reduced import Reduced, trunk_of
from ommatid.methods.tokens import cluster_tokens, drop_tokens, merge_tokens, sparsify_attention
from ommatid.methods.tokens.groups import token_groups
from ommatid.methods.tokens.interpreter_training import train_interpreters
from ommatid.methods.tokens.predictor_training import train_predictors
from ommatid.report.metric import ACCURACY, Metric
from ommatid.runs.evaluation import own_run
from ommatid.runs.trained import Trained, open_trained
from ommatid.workflows.evaluate_classifier import answers, open_samples
from ommatid.workflows.reduce_subject import Method

Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]

CPU = torch.device("cpu")


def _interpreted(model: nn.Module, setting: float, batches: Batches, epochs: int) -> Reduced:
    # What a mistake costs decides how many tokens stay.
    return train_interpreters(drop_tokens(model), batches, epochs=epochs, error_penalty=setting)


def _sparse(model: nn.Module, setting: float, batches: Batches, epochs: int) -> Reduced:
    return train_predictors(sparsify_attention(model, keep=setting), batches, epochs=epochs)


METHODS = {
    "tome": Method(
        lambda model, keep, *_: merge_tokens(model, keep=keep), (0.9, 0.7, 0.5, 0.3), "patches left at the end"
    ),
    "expedite": Method(
        lambda model, keep, *_: cluster_tokens(model, keep=keep),
        (0.75, 0.5, 0.35, 0.25),
        "centres for each patch",
        note="Clustering keeps the map's resolution: it is meant for dense prediction.",
    ),
    "ia_red2": Method(
        _interpreted,
        (8.0, 5.0, 3.0, 1.0),
        "penalty of a mistake",
        epochs=1,
        note="Each image keeps as many tokens as it needs: latency is that of the images of the validation part.",
    ),
    "sparsifiner": Method(
        _sparse,
        (0.75, 0.5, 0.25),
        "keys that each query keeps",
        epochs=1,
        note="PyTorch has no kernel for such attention: multiply-adds count all pairs, and no time is saved.",
    ),
    "early_exit": Method(
        lambda model, threshold, *_: exit_early(model, threshold=threshold),
        (0.995, 0.98, 0.95, 0.9),
        "similarity at which it stops",
        note="How many blocks run is decided for each image: it cannot be exported.",
        batch=1,
    ),
}
"""Each makes, of a model and a setting, batches to learn from and epochs of it, a smaller model."""


@dataclass(frozen=True)
class ClassifierSubject:
    """As `Subject` says."""

    trained: Trained
    samples: Samples
    source: str
    metric: ClassVar[Metric] = ACCURACY

    @classmethod
    def open(cls, run_or_weights: str | Path, data: str | Path | None) -> Self:
        """Raises ValueError, in one line, where it is no trained classifier, or there is nothing to judge on."""
        trained = open_trained(run_or_weights)
        return cls(trained, *open_samples(trained, data))

    @property
    def name(self) -> str:
        return self.trained.facts.name

    @property
    def methods(self) -> Mapping[str, Method]:
        trunk_of(self.trained.model)
        return METHODS

    @property
    def header(self) -> dict[str, str]:
        return self.trained.facts.to_header() | {"name": "reduced"}

    @property
    def finetuning(self) -> dict[str, Any]:
        return {"recipe": "finetune", "size": self.trained.facts.size}

    def reduced(self, method: Method, setting: float, *, epochs: int, batch: int) -> Reduced:
        smaller = method.make(self.trained.model, setting, self._learning(batch), epochs)
        assert isinstance(smaller, Reduced)
        return smaller

    def timed(self, model: nn.Module) -> nn.Module:
        return model

    def images(self, count: int) -> list[Tensor]:
        transform = eval_transform(self.trained.facts.size)
        return [transform(self.samples[index][0])[None] for index in range(min(count, len(self.samples)))]

    def judge(self, model: nn.Module, batch: int) -> float:
        opened, size = replace(self.trained, model=model.eval()), self.trained.facts.size
        likelihoods, labels = answers(opened, self.samples, batch=batch, size=size, device=CPU)
        return likelihoods.argmax(1).eq(labels).double().mean().item()

    def pictures(self, model: nn.Module, count: int) -> list[tuple[Image.Image, Tensor]]:
        if not isinstance(model, Reduced):
            return []
        groups = token_groups(model, torch.cat(self.images(count)))
        return [] if groups is None else [(self._seen(index), shown) for index, shown in enumerate(groups)]

    def _learning(self, batch: int) -> Batches:
        """The run's training part; where there is no run, what is judged on."""
        run, size = own_run(self.trained), self.trained.facts.size
        if run is None:
            samples, transform = self.samples, eval_transform(size)
        else:
            samples = open_data(str(run.config["data"]), split=run.split).train
            transform = train_transform(Augmentation(), size)
        return lambda: make_loader(samples, transform, batch=min(batch, len(samples)), shuffle=True, seed=0)

    def _seen(self, index: int) -> Image.Image:
        """The square in the middle of an image, which the model saw."""
        image = self.samples[index][0]
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        return image.crop((left, top, left + side, top + side))
