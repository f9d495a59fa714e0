"""ScaleKD: strong vision transformers teach students of any kind, by their features and with their own last stage.

"ScaleKD: Strong Vision Transformers Could Be Excellent Teachers" (arXiv 2411.06786). For training only.
"""

from ommatid.methods.distillation.scalekd.losses import (
    direct_loss,
    frequency_loss,
    logit_loss,
)
from ommatid.methods.distillation.scalekd.projector import CrossAttentionProjector
from ommatid.methods.distillation.scalekd.teaching import ScaleKD, TeacherStage, plain_teacher_stages

__all__ = [
    "CrossAttentionProjector",
    "ScaleKD",
    "TeacherStage",
    "direct_loss",
    "frequency_loss",
    "logit_loss",
    "plain_teacher_stages",
]
