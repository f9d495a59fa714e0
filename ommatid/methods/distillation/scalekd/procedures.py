"""ScaleKD's projector and losses, as their reference cases ask for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.methods.distillation.scalekd.losses import direct_loss, frequency_loss, logit_loss
from ommatid.methods.distillation.scalekd.projector import CrossAttentionProjector
from ommatid.methods.distillation.scalekd.teaching import ALPHA, ScaleKD, TeacherStage
from ommatid.models.config import PartConfig, require, require_divisible, require_positive
from ommatid.models.procedure import Procedure
from ommatid.models.reference import changed
from ommatid.models.registry import register, register_part
from ommatid.nn.conv import Conv2d

LOGIT_SCALE = 4.0
"""Of the logits in `kd`, which are drawn between -1 and 1."""


@dataclass(frozen=True, kw_only=True)
class ProjectorConfig(PartConfig):
    """Of a stage, `softmax_scale` may have a value for each of its two projectors."""

    student_dim: int = 1024
    teacher_dim: int = 768
    query_dim: int | None = None
    query_size: tuple[int, int] = (14, 14)
    student_size: tuple[int, int] = (14, 14)
    windows: tuple[int, int] = (1, 1)
    softmax_scale: float | tuple[float, float] = 5.0
    heads: int = 16
    learned_query: bool = True
    alpha: tuple[float, float] = ALPHA

    def check(self) -> None:
        require_positive(student_dim=self.student_dim, query_size=self.query_size, student_size=self.student_size)
        require_divisible(self.teacher_dim, self.heads)
        same = self.query_dim in (None, self.teacher_dim)
        require(same, "query_dim", self.query_dim, f"that of the teacher ({self.teacher_dim})")

    def projectors(self) -> list[CrossAttentionProjector]:
        """One for each view."""
        scales = self.softmax_scale if isinstance(self.softmax_scale, tuple) else (self.softmax_scale,) * 2
        return [
            CrossAttentionProjector(
                self.student_dim,
                self.teacher_dim,
                student_size=self.student_size,
                query_size=self.query_size,
                heads=self.heads,
                windows=self.windows,
                softmax_scale=scale,
                learned_query=self.learned_query,
            )
            for scale in scales
        ]


@dataclass(frozen=True, kw_only=True)
class LastStageConfig(ProjectorConfig):
    student_dim: int = 2048
    teacher_dim: int = 1536
    query_size: tuple[int, int] = (7, 7)
    student_size: tuple[int, int] = (7, 7)
    heads: int = 24
    learned_query: bool = False


@dataclass(frozen=True, kw_only=True)
class ScaleKDConfig(ProjectorConfig):
    """`pipeline` reads the fields below, `projector` those above, `dual_view` reads `alpha`, `kd` the first two."""

    function: Literal["pipeline", "projector", "dual_view", "kd"] = "pipeline"
    temperature: float = 1.0
    kd_weight: float = 0.5
    stage3: ProjectorConfig = field(default_factory=ProjectorConfig)
    stage4: LastStageConfig = field(default_factory=LastStageConfig)

    def check(self) -> None:
        super().check()
        require_positive(temperature=self.temperature)
        require(0 <= self.kd_weight <= 1, "kd_weight", self.kd_weight, "from 0 to 1")


class StandIn(nn.Module):
    """What stands for a teacher's last stage in the cases: (B, H, W, C) -> (B, H / 2, W / 2, C')."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.reduce = Conv2d(in_dim, dim, 2, stride=2)

    def forward(self, features: Tensor) -> Tensor:
        return F.gelu(self.reduce(features))


@register("scalekd", ScaleKDConfig)
class Pipeline(Procedure):
    """student3, student4 and teacher4 (B, C, H, W), logits of both (B, K), label (B,) -> all losses and their sum."""

    config: ScaleKDConfig

    def __init__(self, config: ScaleKDConfig) -> None:
        super().__init__(config)
        stage3, stage4 = config.stage3, config.stage4
        self.teaching = ScaleKD(
            stage3.projectors(),
            stage4.projectors(),
            TeacherStage(StandIn(stage3.teacher_dim, stage4.teacher_dim), nn.Identity(), stage3.query_size),
            alpha3=stage3.alpha,
            alpha4=stage4.alpha,
        )

    def forward(  # type: ignore[override]
        self,
        student3: Tensor,
        student4: Tensor,
        teacher4: Tensor,
        logits_student: Tensor,
        logits_teacher: Tensor,
        label: Tensor,
    ) -> dict[str, Tensor]:
        config = self.config
        losses = self.teaching(student3, student4, teacher4)
        taught = logit_loss(logits_student, logits_teacher, temperature=config.temperature)
        losses["kd"] = config.kd_weight * taught
        losses["ce"] = (1 - config.kd_weight) * F.cross_entropy(logits_student, label)
        return losses | {"loss": torch.stack([*losses.values()]).sum()}


@register_part("scalekd", "projector")
class Projector(Procedure):
    """x (B, Cs, h, w), perhaps query (B, H W, Ct) -> y (B, H W, Ct)."""

    config: ScaleKDConfig

    def __init__(self, config: ScaleKDConfig) -> None:
        super().__init__(config)
        self.projector = config.projectors()[0]

    def forward(self, x: Tensor, query: Tensor | None = None) -> dict[str, Tensor]:  # type: ignore[override]
        return {"y": self.projector(x, query)}


@register_part("scalekd", "dual_view")
class DualView(Procedure):
    """student and teacher (B, C, H, W) -> spatial () and frequency ()."""

    config: ScaleKDConfig

    def forward(self, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        tokens = student.flatten(2).transpose(1, 2), teacher.flatten(2).transpose(1, 2)
        direct, frequency = self.config.alpha
        return {"spatial": direct * direct_loss(*tokens), "frequency": frequency * frequency_loss(*tokens)}


@register_part("scalekd", "kd")
class Logits(Procedure):
    """student and teacher (B, K) -> loss (), and the weight that is left for the labels ()."""

    config: ScaleKDConfig

    def forward(self, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        weight, temperature = self.config.kd_weight, self.config.temperature
        loss = logit_loss(LOGIT_SCALE * student, LOGIT_SCALE * teacher, temperature=temperature)
        return {"loss": weight * loss, "ce_weight": torch.tensor(1 - weight)}


VARIANTS = {
    "swin_l_to_resnet50": ScaleKDConfig(),
    "swin_l_to_vit_b16": ScaleKDConfig(
        stage3=ProjectorConfig(student_dim=768),
        stage4=LastStageConfig(student_dim=768, student_size=(14, 14)),
    ),
}

REFERENCE_NAMES = [
    (r"^p\.", "projector."),
    (r"^loss_s([34])\.projector_([01])\.", r"teaching.stage\1.\2."),
    (r"^teacher_stage4\.", "teaching.teacher_stage.stage."),
    (r"\.query\.weight$", ".learned_query"),
    (r"\.pos_embed$", ".position"),
    (r"\.proj_pos\.0\.", ".query_proj.0."),
    (r"\.proj_student\.", ".source."),
    (r"\.pos_attention\.q\.", ".query."),
    (r"\.pos_attention\.k\.", ".key."),
    (r"\.pos_attention\.v\.", ".value."),
    (r"\.pos_attention\.proj\.", ".proj."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
]


def convert_reference(state: dict[str, Tensor], model: Procedure) -> dict[str, Tensor]:
    """Positions, which the reference stores channels-first, are channels-last here."""
    return changed(state, r"\.pos_embed$", lambda table: table.permute(0, 2, 3, 1))
