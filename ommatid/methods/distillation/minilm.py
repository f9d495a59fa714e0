"""MiniLM: a student learns how the teacher's tokens relate to each other, in one layer.

"MiniLM: Deep Self-Attention Distillation" (arXiv 2002.10957) and "MiniLMv2: Multi-Head Self-Attention Relation
Distillation" (arXiv 2012.15828). All that is compared is tokens by tokens, so that teacher and student may have any
widths and depths as long as they read the same tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.models.config import PartConfig, require, require_divisible, require_positive
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register
from ommatid.nn.mixers import Attention


class Projections(NamedTuple):
    """Queries, keys and values of a layer, (B, N, C) each, with their heads side by side."""

    query: Tensor
    key: Tensor
    value: Tensor


def minilm_losses(
    teacher: Projections, student: Projections, *, heads: int, mask: Tensor | None = None
) -> dict[str, Tensor]:
    """How far the student's attention and the relations of its values are from the teacher's: () each.

    The paper's loss is the sum of both, of the last layer of either.

    Args:
        heads: of both models, whose widths may differ.
        mask: (B, N), true for tokens that count; all where None.

    Returns:
        attention_loss, value_loss: mean KL divergence from the teacher's rows. No gradient reaches the teacher.

    Raises:
        ValueError: a width that the heads do not divide, or different numbers of tokens.
    """
    return {
        "attention_loss": divergence(teacher[:2], student[:2], heads, mask),
        "value_loss": divergence((teacher.value, teacher.value), (student.value, student.value), heads, mask),
    }


def minilm_v2_losses(
    teacher: Projections, student: Projections, *, relation_heads: int, mask: Tensor | None = None
) -> dict[str, Tensor]:
    """The same of queries, keys and values, each with itself: () each.

    Args:
        relation_heads: pieces that every width is cut into, whatever heads the models have.
        mask: (B, N), true for tokens that count; all where None.

    Returns:
        qq_loss, kk_loss, vv_loss: mean KL divergence from the teacher's rows. No gradient reaches the teacher.

    Raises:
        ValueError: a width that cannot be cut so, or different numbers of tokens.
    """
    pairs = zip(("qq_loss", "kk_loss", "vv_loss"), teacher, student, strict=True)
    return {name: divergence((mine, mine), (its, its), relation_heads, mask) for name, mine, its in pairs}


def divergence(teacher: Sequence[Tensor], student: Sequence[Tensor], heads: int, mask: Tensor | None = None) -> Tensor:
    """Mean KL divergence of the student's relations (left, right) from the teacher's, over heads and valid rows: ()."""
    tokens = [pair[0].shape[1] for pair in (teacher, student)]
    require(tokens[0] == tokens[1], "student", tokens[1], f"as many tokens as the teacher's {tokens[0]}")
    with torch.no_grad():
        target = log_relations(*teacher, heads=heads, mask=mask)
    of_rows = F.kl_div(log_relations(*student, heads=heads, mask=mask), target, reduction="none", log_target=True)
    of_rows = of_rows.sum(-1).mean(1)
    return of_rows.mean() if mask is None else of_rows[mask.bool()].mean()


def log_relations(left: Tensor, right: Tensor, *, heads: int, mask: Tensor | None = None) -> Tensor:
    """Logarithms of how much every row of `left` attends to those of `right`: (B, N, C) twice -> (B, heads, N, N).

    Rows that the mask (B, N) leaves out are attended to by none.
    """
    require_divisible(left.shape[-1], heads)
    left, right = (tokens.unflatten(-1, (heads, -1)).transpose(1, 2) for tokens in (left, right))
    scores = left @ right.mT * left.shape[-1] ** -0.5
    if mask is not None:
        # Not minus infinity: two of them have no difference, and here it is multiplied by zero.
        scores = scores.masked_fill(~mask.bool()[:, None, None], torch.finfo(scores.dtype).min)
    return scores.log_softmax(-1)


def last_projections(model: nn.Module, image: Tensor) -> Projections:
    """What the last self-attention of a plain transformer makes of its tokens when the model is given images.

    Raises:
        ValueError: the model has no `Attention`.
    """
    layers = [module for module in model.modules() if isinstance(module, Attention)]
    require(len(layers) > 0, "model", type(model).__name__, "one with global self-attention")
    found: list[Tensor] = []
    hook = layers[-1].qkv.register_forward_hook(lambda _, __, output: found.append(output))
    try:
        model(image)
    finally:
        hook.remove()
    return Projections(*found[-1].chunk(3, dim=-1))


@dataclass(frozen=True, kw_only=True)
class MiniLMConfig(PartConfig):
    """`minilm` reads `heads`, `minilm_v2` the other two."""

    function: Literal["minilm", "minilm_v2"] = "minilm"
    heads: int = 12
    relation_heads: int = 48
    weights: tuple[float, ...] = (1.0, 1.0, 1.0)

    def check(self) -> None:
        require_positive(heads=self.heads, relation_heads=self.relation_heads)
        require(len(self.weights) == 3, "weights", self.weights, "three: of queries, keys and values")


@register("minilm", MiniLMConfig)
class MiniLM(Procedure):
    """teacher_q, teacher_k, teacher_v (B, N, Ct), student_... (B, N, Cs), perhaps a mask (B, N) -> losses ().

    The first token always counts, whatever the mask says.
    """

    config: MiniLMConfig

    def forward(self, mask: Tensor | None = None, **projected: Tensor) -> dict[str, Tensor]:
        config = self.config
        teacher, student = (
            Projections(*(projected[f"{owner}_{name}"] for name in "qkv")) for owner in ("teacher", "student")
        )
        if mask is not None:
            mask = mask.bool().index_fill(1, torch.zeros(1, dtype=torch.long, device=mask.device), True)
        if config.function == "minilm":
            losses = minilm_losses(teacher, student, heads=config.heads, mask=mask)
            return losses | {"loss": torch.stack([*losses.values()]).sum()}
        losses = minilm_v2_losses(teacher, student, relation_heads=config.relation_heads, mask=mask)
        weighted = [weight * loss for weight, loss in zip(config.weights, losses.values(), strict=True)]
        return losses | {"loss": torch.stack(weighted).sum()}
