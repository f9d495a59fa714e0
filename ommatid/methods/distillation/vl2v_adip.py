"""VL2V-ADiP: an image model takes over a vision-language model's embedding space, and its text for a classifier.

"Leveraging Vision-Language Models for Improving Domain Generalization in Image Classification" (arXiv 2310.08255). Only
the teacher's embeddings are asked for. Align: train the student's projection (`train_part`). Distil: train its
backbone. Predict: `student(image) @ text_classifier(text).T`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.models.config import PartConfig, require, require_positive
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register, register_part

CLIP_LOGIT_SCALE = 4.6052
"""The logarithm of 100."""


class ProjectedStudent(nn.Module):
    """A backbone and a linear layer into the teacher's space: image -> embeddings (B, E) of length 1.

    Args:
        backbone: image -> (B, feature_dim).
        embed_dim: E.
    """

    def __init__(self, backbone: nn.Module, feature_dim: int, embed_dim: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.proj = nn.Linear(feature_dim, embed_dim)

    def forward(self, image: Tensor) -> Tensor:
        return F.normalize(self.proj(self.backbone(image)), dim=-1)

    def train_part(self, stage: Literal["align", "distill"]) -> Self:
        """Leaves only the projection to be trained, or only the backbone."""
        self.proj.requires_grad_(stage == "align")
        self.backbone.requires_grad_(stage == "distill")
        return self


def prompts(classes: Sequence[str]) -> list[str]:
    """What the teacher's text encoder reads of each class in the published setting."""
    return [f"a photo of a {name.replace('_', ' ')}" for name in classes]


def text_classifier(text: Tensor, *, logit_scale: float = CLIP_LOGIT_SCALE) -> Tensor:
    """Embeddings of T prompts for each class (K, T, E) -> the weights of a classifier (K, E), exp(logit_scale) long."""
    mean = F.normalize(text, dim=-1).mean(1)
    return F.normalize(mean, dim=-1) * torch.as_tensor(logit_scale, dtype=text.dtype, device=text.device).exp()


def embedding_loss(embedding: Tensor, teacher_image: Tensor, text: Tensor, *, image_weight: float = 0.5) -> Tensor:
    """Minus the cosines with the teacher's embeddings of the images and of their classes, averaged: (), from -1 to 1.

    Args:
        embedding: the student's (B, E); teacher_image: (B, E); text: (B, E), rows of `text_classifier` for the labels.
            Their lengths do not matter.
        image_weight: of the images; the classes have the rest. The paper's lambda.
    """
    require(0 <= image_weight <= 1, "image_weight", image_weight, "from 0 to 1")
    image = F.cosine_similarity(embedding, F.normalize(teacher_image, dim=-1), dim=-1).mean()
    return -image_weight * image - (1 - image_weight) * F.cosine_similarity(embedding, text, dim=-1).mean()


def cutmix_box(size: tuple[int, int], share: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """What CutMix takes from another image, for n pairs: boxes (n, 4) and the shares (n,) that the first images keep.

    Args:
        size: (H, W) of the images.
        share: (n,), what the first images should keep; less is cut where the box reaches over the edge.
        centre: (n, 2), rows and columns.

    Returns:
        (top, left, bottom, right), integers; and the shares that are kept, in float64.
    """
    sides = torch.tensor(size, device=centre.device)
    half = (sides * (1 - share.double()).sqrt()[:, None]).long() // 2
    start, end = (torch.minimum((centre + step).clamp(min=0), sides) for step in (-half, half))
    return torch.cat([start, end], 1), 1 - (end - start).prod(1) / sides.prod()


def cutmix(image: Tensor, *, beta: float = 1.0) -> tuple[Tensor, Tensor, float]:
    """Images (B, C, H, W) with a box of others, the others' places in the batch (B,), and the share of their own.

    The teacher is asked for the mixed images; the loss is share * loss(labels) + (1 - share) * loss(labels[others]).

    Args:
        beta: both parameters of the distribution that the share is drawn from.
    """
    require_positive(beta=beta)
    size = (image.shape[-2], image.shape[-1])
    share = torch.distributions.Beta(beta, beta).sample((1,)).double()
    centre = torch.stack([torch.randint(side, (1,)) for side in size], 1)
    box, kept = cutmix_box(size, share, centre)
    top, left, bottom, right = box[0].tolist()
    others = torch.randperm(len(image), device=image.device)
    mixed = image.clone()
    mixed[..., top:bottom, left:right] = image[others, :, top:bottom, left:right]
    return mixed, others, kept.item()


@dataclass(frozen=True, kw_only=True)
class VL2VConfig(PartConfig):
    """`text_classifier` reads `logit_scale`, `cutmix_box` reads `size` and `lambdas`, the others the rest.

    In the reference cases `image_weight` is called lambda, which Python keeps for itself; here both are understood.
    """

    function: Literal["align", "distill", "predict", "text_classifier", "cutmix_box"] = "align"
    input_dim: int = 768
    feature_dim: int = 768
    embed_dim: int = 512
    image_weight: float = 0.5
    logit_scale: float = CLIP_LOGIT_SCALE
    mix: float | None = None
    size: tuple[int, int] = (224, 224)
    lambdas: tuple[float, ...] = ()

    def check(self) -> None:
        require_positive(
            input_dim=self.input_dim, feature_dim=self.feature_dim, embed_dim=self.embed_dim, size=self.size
        )
        require(0 <= self.image_weight <= 1, "image_weight", self.image_weight, "from 0 to 1")
        require(self.mix is None or 0 <= self.mix <= 1, "mix", self.mix, "from 0 to 1, or none")
        require(all(0 <= share <= 1 for share in self.lambdas), "lambdas", self.lambdas, "numbers from 0 to 1")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        return super().from_dict(without_keyword(values))

    def replace(self, **overrides: Any) -> Self:
        return super().replace(**without_keyword(overrides))


def without_keyword(values: dict[str, Any]) -> dict[str, Any]:
    return {"image_weight" if name == "lambda" else name: value for name, value in values.items()}


class StudentProcedure(Procedure):
    """Base of what is done with the student of the cases, whose backbone is a linear layer and an activation."""

    config: VL2VConfig

    def __init__(self, config: VL2VConfig) -> None:
        super().__init__(config)
        backbone = nn.Sequential(nn.Linear(config.input_dim, config.feature_dim), nn.GELU())
        self.student = ProjectedStudent(backbone, config.feature_dim, config.embed_dim)


@register("vl2v_adip", VL2VConfig)
class Stage(StudentProcedure):
    """x (B, in), teacher_image (B, E), text (K, T, E), label (B,) -> the loss of a stage, and its gradient's weight.

    With `mix` there are labels label_mix (B,) of the images that are mixed in.
    """

    def __init__(self, config: VL2VConfig) -> None:
        super().__init__(config)
        self.student.train_part("distill" if config.function == "distill" else "align")

    def forward(  # type: ignore[override]
        self, x: Tensor, teacher_image: Tensor, text: Tensor, label: Tensor, label_mix: Tensor | None = None
    ) -> dict[str, Tensor]:
        config, embedding = self.config, self.student(x)
        classes = text_classifier(text, logit_scale=config.logit_scale)

        def loss_of(label: Tensor) -> Tensor:
            return embedding_loss(embedding, teacher_image, classes[label], image_weight=config.image_weight)

        loss = loss_of(label)
        if config.mix is not None and label_mix is not None:
            loss = config.mix * loss + (1 - config.mix) * loss_of(label_mix)
        weight = next(parameter for parameter in self.student.parameters() if parameter.requires_grad)
        (grad,) = torch.autograd.grad(loss, weight, retain_graph=True)
        return {"projected": embedding, "loss": loss, "weight_grad": grad}


@register_part("vl2v_adip", "predict")
class Predict(StudentProcedure):
    """x (B, in), text (K, T, E) -> logits (B, K)."""

    def forward(self, x: Tensor, text: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"logits": self.student(x) @ text_classifier(text, logit_scale=self.config.logit_scale).T}


@register_part("vl2v_adip", "text_classifier")
class TextClassifier(Procedure):
    """text (K, T, E) -> weights (K, E)."""

    config: VL2VConfig

    def forward(self, text: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"weights": text_classifier(text, logit_scale=self.config.logit_scale)}


@register_part("vl2v_adip", "cutmix_box")
class CutmixBox(Procedure):
    """centre (n, 2) -> rows (n, 5) of (top, left, bottom, right, share kept)."""

    config: VL2VConfig

    def forward(self, centre: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        share = torch.tensor(self.config.lambdas, dtype=torch.float64)
        box, kept = cutmix_box(self.config.size, share, centre)
        return {"rows": torch.cat([box.double(), kept[:, None]], 1)}


REFERENCE_NAMES = [(r"^featurizer\.", "student.backbone.0."), (r"^proj_lyr\.", "student.proj.")]
