"""Pruning one layer by what goes into it: Wanda and SparseGPT, without training.

"A Simple and Effective Pruning Approach for Large Language Models" (Wanda, arXiv 2306.11695) and "SparseGPT: Massive
Language Models Can Be Accurately Pruned in One-Shot" (arXiv 2301.00774), as ECoFLaP (arXiv 2310.02998) runs them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ommatid.methods.pruning.patterns import nm_mask
from ommatid.models.config import require

DAMPING = 0.01


class InputStatistics:
    """What Wanda and SparseGPT want to know of a layer's inputs, batch after batch.

    norm_sq: (in,), squared norm of each input over all tokens, per sample. hessian: (in, in), 2 X^T X per sample.
    """

    def __init__(self, features: int) -> None:
        self.norm_sq = torch.zeros(features)
        self.hessian = torch.zeros(features, features)
        self.samples = 0

    @torch.no_grad()
    def update(self, inputs: Tensor) -> None:
        """inputs: (samples, ..., in)."""
        self.norm_sq, self.hessian = self.norm_sq.to(inputs), self.hessian.to(inputs)
        tokens, kept = inputs.flatten(0, -2), self.samples / (self.samples + len(inputs))
        self.samples += len(inputs)
        self.norm_sq = self.norm_sq * kept + tokens.square().sum(0) / self.samples
        self.hessian = self.hessian * kept + tokens.T @ tokens * (2 / self.samples)


def wanda_metric(weight: Tensor, norm_sq: Tensor) -> Tensor:
    """|W| times the root of each input's squared norm: (out, in)."""
    return weight.detach().abs() * norm_sq.sqrt()


def wanda_mask(metric: Tensor, sparsity: float | tuple[int, int]) -> Tensor:
    """Booleans to keep: in every row all but the int(in * sparsity) smallest, or N of every M columns."""
    if isinstance(sparsity, tuple):
        n, m = sparsity
        require(metric.shape[1] % m == 0, "pattern", [n, m], f"an M that divides the {metric.shape[1]} inputs")
        return nm_mask(metric, n, m).bool()
    count = int(metric.shape[1] * sparsity)
    smallest = metric.argsort(dim=1, stable=True)[:, :count]
    return torch.ones_like(metric, dtype=torch.bool).scatter_(1, smallest, False)


@torch.no_grad()
def sparsegpt(weight: Tensor, hessian: Tensor, sparsity: float, *, block_size: int = 128) -> Tensor:
    """The weight (out, in) with about `sparsity` of zeros; what is kept makes up for what goes, block by block."""
    weight, hessian = weight.detach().clone(), _finite(hessian)
    dead = hessian.diagonal() == 0
    hessian.diagonal()[dead] = 1
    weight[:, dead] = 0
    factor = _upper_factor(hessian)
    for start in range(0, weight.shape[1], block_size):
        stop = min(start + block_size, weight.shape[1])
        block = factor[start:stop, start:stop]
        pruned, errors = _prune_block(weight[:, start:stop], block, sparsity)
        weight[:, start:stop] = pruned
        weight[:, stop:] -= errors @ factor[start:stop, stop:]
    return weight


def _prune_block(weight: Tensor, factor: Tensor, sparsity: float) -> tuple[Tensor, Tensor]:
    """One block of columns: the pruned weights, and the error of each column in units of the factor's diagonal."""
    scale = factor.diagonal()
    metric = weight.square() / scale.square()
    threshold = metric.flatten().sort().values[min(int(metric.numel() * sparsity), metric.numel() - 1)]
    gone = metric <= threshold
    weight, errors = weight.clone(), torch.zeros_like(weight)
    for column in range(weight.shape[1]):
        kept = weight[:, column].masked_fill(gone[:, column], 0)
        errors[:, column] = (weight[:, column] - kept) / scale[column]
        weight[:, column:] -= errors[:, column, None] * factor[column, column:]
        weight[:, column] = kept
    return weight, errors


def _finite(hessian: Tensor) -> Tensor:
    """Without infinities: they become the 0.999 and 0.001 quantiles."""
    hessian = hessian.clone()
    for infinity, quantile in ((torch.inf, 0.999), (-torch.inf, 0.001)):
        found = hessian == infinity
        if found.any():
            hessian[found] = hessian.flatten().quantile(quantile)
    return hessian


def _upper_factor(hessian: Tensor) -> Tensor:
    """U with U^T U = H^-1, upper triangular. The diagonals are damped only where a factorisation fails."""
    inverse = torch.cholesky_inverse(_cholesky(hessian, hessian.diagonal().mean()))
    return _cholesky(inverse, inverse.diagonal().abs().mean()).mT


def _cholesky(matrix: Tensor, level: Tensor) -> Tensor:
    factor, failed = torch.linalg.cholesky_ex(matrix)
    for _ in range(1000):
        if not failed:
            return factor
        matrix = matrix + DAMPING * level * torch.eye(len(matrix)).to(matrix)
        factor, failed = torch.linalg.cholesky_ex(matrix)
    raise ValueError("the layer's inputs are not finite: nothing can be told from them")
