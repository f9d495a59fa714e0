"""Coarse step of ECoFLaP: how sparse each group of layers may be, from one score for each.

"ECoFLaP: Efficient Coarse-to-Fine Layer-Wise Pruning for Vision-Language Models" (arXiv 2310.02998).
"""

from __future__ import annotations

from torch import Tensor

from ommatid.models.config import require


def allocate_sparsity(
    scores: Tensor, parameters: Tensor, sparsity: float, max_sparsity: float
) -> tuple[Tensor, int, int]:
    """Shares the weights that are kept among groups, by score, none sparser than `max_sparsity` (but for rounding up).

    The reference means to take an excess back and adds it again instead; so does this. It is at most about twice the
    number of groups.

    Args:
        scores: (groups,), at least 0. parameters: (groups,), integers. sparsity: of all together.

    Returns:
        The sparsity of each group (groups,), the number of weights kept, and the number that were to be kept.
    """
    require(0 <= sparsity <= max_sparsity <= 1, "max_sparsity", max_sparsity, f"from sparsity ({sparsity}) to 1")
    wanted = int(int(parameters.sum()) * (1 - sparsity))
    least = parameters * (1 - max_sparsity)
    kept, scores = least.ceil(), scores.float().clone()
    if kept.sum() >= wanted:
        return (1 - kept / parameters).clamp(0, 1), int(kept.sum()), wanted
    while kept.sum() < wanted:
        added = (scores / scores.sum() * (wanted - kept.sum())).ceil().nan_to_num(0.0)
        kept = kept + added
        scores[kept >= parameters] = 0
        kept = kept.minimum(parameters.to(kept))
        if not added.any():
            kept = _filled(kept, parameters, scores, wanted)
            break
    kept = _with_excess(kept, least, int(kept.sum()) - wanted)
    return (1 - kept / parameters).clamp(0, 1), int(kept.sum()), wanted


def _filled(kept: Tensor, parameters: Tensor, scores: Tensor, wanted: int) -> Tensor:
    """Fills groups to the brim, in order: those with a score first, so that none is left over without one."""
    for group in [*scores.nonzero().flatten().tolist(), *(scores == 0).nonzero().flatten().tolist()]:
        kept[group] += min(wanted - int(kept.sum()), int(parameters[group] - kept[group]))
    return kept


def _with_excess(kept: Tensor, least: Tensor, excess: int) -> Tensor:
    for group in kept.argsort(descending=True, stable=True).tolist():
        amount = min(max(excess, 0), int(kept[group]) - int(least[group]))
        kept[group] += amount
        excess -= amount
    return kept
