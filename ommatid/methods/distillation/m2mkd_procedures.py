"""Module-to-module distillation, as its reference cases ask for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ommatid.methods.distillation.m2mkd import (
    ModulePair,
    Position,
    StudentModule,
    distillation_loss,
    stitch_residual,
)
from ommatid.models.backbones.vit import ViT, ViTConfig
from ommatid.models.config import PartConfig, require, require_divisible, require_positive
from ommatid.models.names import BLOCK_NAMES
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register, register_part
from ommatid.models.sizes import require_patches

LOGIT_SCALE = 4.0
"""Of the cases' logits, which are drawn between -1 and 1."""


@dataclass(frozen=True, kw_only=True)
class TeacherConfig(PartConfig):
    dim: int = 1024
    heads: int = 16
    mlp_ratio: float = 4.0
    divided_depths: tuple[int, ...] = (6, 6, 6, 6)

    def check(self) -> None:
        require_divisible(self.dim, self.heads)
        require_positive(mlp_ratio=self.mlp_ratio, divided_depths=self.divided_depths)


@dataclass(frozen=True, kw_only=True)
class StudentConfig(PartConfig):
    dim: int = 768
    heads: int = 12
    mlp_ratio: float = 4.0
    depth: int = 3

    def check(self) -> None:
        require_divisible(self.dim, self.heads)
        require_positive(mlp_ratio=self.mlp_ratio, depth=self.depth)


@dataclass(frozen=True, kw_only=True)
class M2MKDConfig(PartConfig):
    """`kd` reads `type`, `weight` and `temperature`, `stitch_residual` the last two, `distill` all the others."""

    function: Literal["distill", "kd", "stitch_residual"] = "distill"
    image_size: int = 224
    patch_size: int = 16
    num_classes: int = 1000
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    meta_depths: tuple[int, ...] = (1, 1, 1, 1)
    student: StudentConfig = field(default_factory=StudentConfig)
    index: int = 0
    type: Literal["soft", "hard"] = "soft"
    weight: float = 0.5
    temperature: float = 1.0
    dim: int = 256
    stitch_dim: int = 1024

    def check(self) -> None:
        require_patches(self.image_size, self.patch_size)
        require_positive(
            num_classes=self.num_classes,
            meta_depths=self.meta_depths,
            temperature=self.temperature,
            dim=self.dim,
            stitch_dim=self.stitch_dim,
        )
        require(0 <= self.weight <= 1, "weight", self.weight, "from 0 to 1")

    def network(self, dim: int, heads: int, mlp_ratio: float, depth: int) -> ViTConfig:
        return ViTConfig(
            image_size=self.image_size,
            patch_size=self.patch_size,
            num_classes=self.num_classes,
            dim=dim,
            heads=heads,
            mlp_ratio=mlp_ratio,
            depth=depth,
        )

    @property
    def position(self) -> Position:
        if self.index == 0:
            return "first"
        return "last" if self.index in (-1, len(self.meta_depths) - 1) else "middle"


@register("m2mkd", M2MKDConfig)
class Distill(Procedure):
    """image, label (B,) -> logits of teacher and student, the loss, its gradient, and the tokens both were given."""

    config: M2MKDConfig

    def __init__(self, config: M2MKDConfig) -> None:
        super().__init__(config)
        teacher, student = config.teacher, config.student
        sizes = teacher.dim, teacher.heads, teacher.mlp_ratio
        self.pair = ModulePair(
            ViT(config.network(*sizes, sum(teacher.divided_depths))),
            teacher.divided_depths,
            ViT(config.network(*sizes, sum(config.meta_depths))),
            config.meta_depths,
            StudentModule(
                config.network(student.dim, student.heads, student.mlp_ratio, student.depth),
                teacher.dim,
                config.position,
            ),
            config.index,
        )

    def forward(self, image: Tensor, label: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        config, answers = self.config, self.pair(image)
        loss = distillation_loss(
            F.cross_entropy(answers.student, label),
            answers.student,
            answers.teacher,
            kind=config.type,
            weight=config.weight,
            temperature=config.temperature,
        )
        weight = self.pair.student.get_parameter("blocks.0.token.inner.qkv.weight")
        (grad,) = torch.autograd.grad(loss, weight, retain_graph=True)
        found = {
            "teacher_logits": answers.teacher,
            "student_logits": answers.student,
            "loss": loss,
            "student_grad": grad,
        }
        return found if answers.shared is None else found | {"meta_features": answers.shared}


@register_part("m2mkd", "kd")
class Loss(Procedure):
    """student and teacher (B, K), label (B,) -> loss ()."""

    config: M2MKDConfig

    def forward(self, student: Tensor, teacher: Tensor, label: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        student, teacher, config = LOGIT_SCALE * student, LOGIT_SCALE * teacher, self.config
        base = F.cross_entropy(student, label)
        loss = distillation_loss(
            base, student, teacher, kind=config.type, weight=config.weight, temperature=config.temperature
        )
        return {"loss": loss}


@register_part("m2mkd", "stitch_residual")
class StitchResidual(Procedure):
    """x (B, N, dim) -> y of the same shape."""

    config: M2MKDConfig

    def __init__(self, config: M2MKDConfig) -> None:
        super().__init__(config)
        self.residual = stitch_residual(config.dim, config.stitch_dim)

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"y": self.residual(x)}


REFERENCE_NAMES = [
    (r"^student\.blocks\.\d+\.pre_stitch\.ln\.", "student.entry.0."),
    (r"^student\.blocks\.\d+\.pre_stitch\.fc\.", "student.entry.1."),
    (r"^student\.blocks\.\d+\.post_stitch\.ln\.", "student.exit.0."),
    (r"^student\.blocks\.\d+\.post_stitch\.fc\.", "student.exit.1."),
    (r"^student\.(cls_token|pos_embed|patch_embed)", r"student.entry.\1"),
    (r"^student\.(norm|head)\.", r"student.exit.\1."),
    (r"^(teacher|meta)\.norm\.", r"\1.token_norm."),
    (r"\.cls_token$", ".sequence.class_token.token"),
    (r"\.pos_embed$", ".sequence.position"),
    (r"\.patch_embed\.", ".stem."),
    *BLOCK_NAMES,
    (r"^(teacher|meta|student)\.", r"pair.\1."),
    (r"^stitch_norm\.", "residual.norm."),
    (r"^stitch_pairs\.0\.0\.", "residual.inner.fc1."),
    (r"^stitch_pairs\.0\.1\.", "residual.inner.fc2."),
]
