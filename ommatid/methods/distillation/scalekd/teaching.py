"""What is compared while a student learns: its projected maps, some of them sent through the teacher's last stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from torch import Tensor, nn

from ommatid.methods.distillation.scalekd.losses import direct_loss, frequency_loss
from ommatid.methods.distillation.scalekd.projector import CrossAttentionProjector
from ommatid.models.backbones.vit import ViT
from ommatid.models.config import require

Weights = tuple[float, float]
"""Of the direct view and of the frequencies."""

ALPHA = (0.08, 0.06)


class TeacherStage(nn.Module):
    """The last stage of a pyramid such as Swin, for tokens: (B, H W, C) of the stage above -> (B, H' W', C').

    Args:
        stage: (B, H, W, C) -> (B, H', W', C'), its down-sampling included.
        norm: behind the last stage.
        size: (H, W).
    """

    def __init__(self, stage: nn.Module, norm: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.stage, self.norm, self.size = stage, norm, size

    def forward(self, tokens: Tensor) -> Tensor:
        return self.norm(self.stage(tokens.unflatten(1, self.size))).flatten(1, 2)


def plain_teacher_stages(teacher: ViT) -> tuple[nn.Module, nn.Module]:
    """What stands for the last two stages of a plain transformer: three blocks, and the last one with the norm."""
    *_, first, second, third, last = teacher.blocks
    return nn.Sequential(first, second, third), nn.Sequential(last, teacher.token_norm)


class ScaleKD(nn.Module):
    """Losses of a student's last two maps against the teacher's last one.

    Each map is projected twice: one projection is compared as it is, one without its mean. The third stage's pass
    through the teacher's own last stage first, and are the queries of the fourth stage's.

    Args:
        stage3: two projectors, to the layout of the teacher's stage above the last.
        stage4: two projectors, to that of its last stage.
        teacher_stage: tokens of the stage above -> tokens of the last. Frozen; gradients pass through it.
        teacher_end: what tokens of the fourth stage pass before they are compared, with a plain transformer for a
            teacher; frozen too. Of such, those of the third stage pass it behind `teacher_stage`, by which they are
            not yet normed.
        alpha3, alpha4: weights of both views.
    """

    def __init__(
        self,
        stage3: Sequence[CrossAttentionProjector],
        stage4: Sequence[CrossAttentionProjector],
        teacher_stage: nn.Module,
        *,
        teacher_end: nn.Module | None = None,
        alpha3: Weights = ALPHA,
        alpha4: Weights = ALPHA,
    ) -> None:
        super().__init__()
        for name, projectors in (("stage3", stage3), ("stage4", stage4)):
            require(len(projectors) == 2, name, len(projectors), "two projectors, one for each view")
        self.stage3, self.stage4 = nn.ModuleList(stage3), nn.ModuleList(stage4)
        self.teacher_stage = teacher_stage.requires_grad_(False)
        self.teacher_end = (teacher_end or nn.Identity()).requires_grad_(False)
        self.alpha3, self.alpha4 = alpha3, alpha4

    def train(self, mode: bool = True) -> Self:
        """The teacher's parts stay as they are for inference."""
        super().train(mode)
        self.teacher_stage.eval()
        self.teacher_end.eval()
        return self

    def forward(self, student3: Tensor, student4: Tensor, teacher4: Tensor) -> dict[str, Tensor]:
        """Weighted losses, () each, from maps (B, C, H, W): the student's last two, the teacher's last one, normed."""
        target = teacher4.flatten(2).transpose(1, 2)
        passed = [self.teacher_stage(projector(student3)) for projector in self.stage3]
        direct3, frequency3 = (self.teacher_end(tokens) for tokens in passed)
        direct4, frequency4 = (
            self.teacher_end(projector(student4, tokens if projector.learned_query is None else None))
            for projector, tokens in zip(self.stage4, passed, strict=True)
        )
        return {
            "s3_spatial": self.alpha3[0] * direct_loss(direct3, target),
            "s3_frequency": self.alpha3[1] * frequency_loss(frequency3, target),
            "s4_spatial": self.alpha4[0] * direct_loss(direct4, target),
            "s4_frequency": self.alpha4[1] * frequency_loss(frequency4, target),
        }
