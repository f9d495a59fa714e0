"""What is made of mixtures of experts: an expert for all tokens beside those chosen, and more experts with depth."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ommatid.nn.feedforward import MLP
from ommatid.nn.moe.layer import MoE, mixture_of_mlps


class SharedExpertMoE(nn.Module):
    """A mixture of experts, plus a channel mixer that works on every token: (..., C) -> (..., C).

    DeepSeekMoE (arXiv 2401.06066): what all tokens need is learned once. Cost: that of both.
    """

    def __init__(self, moe: MoE, shared: nn.Module) -> None:
        super().__init__()
        self.moe = moe
        self.shared = shared

    def forward(self, x: Tensor) -> Tensor:
        return self.moe(x) + self.shared(x)


class ResidualMoE(nn.Module):
    """A fixed MLP and a mixture of experts that corrects it, by two learned shares: (..., C) -> (..., C).

    "DeepSpeed-MoE" (arXiv 2201.05596): the quality of two experts a token, of which one is known beforehand. Cost: that
    of both, and 2 C multiply-adds a token.

    Args:
        dim: C.
        moe: the mixture.
        mlp: the fixed one.
    """

    def __init__(self, dim: int, moe: MoE, mlp: nn.Module) -> None:
        super().__init__()
        self.moe = moe
        self.mlp = mlp
        self.coefficient = nn.Linear(dim, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.blend(x, self.moe(x))

    def blend(self, x: Tensor, corrected: Tensor) -> Tensor:
        """The input and what the experts make of it -> the answer."""
        of_moe, of_mlp = self.coefficient(x).softmax(-1).split(1, dim=-1)
        return of_moe * corrected + of_mlp * self.mlp(x)


def pyramid_moe(
    dims: Sequence[int], experts: Sequence[int], *, mlp_ratio: float = 4.0, top_k: int = 1
) -> list[ResidualMoE]:
    """The layers of a PR-MoE (arXiv 2201.05596): residual mixtures with more experts the deeper they are.

    Args:
        dims: C of each layer.
        experts: E of each layer; published 32 in ten and 64 in the last two of twelve.
        mlp_ratio: hidden width over C, of experts and the fixed MLP.
        top_k: experts of a token, beside the fixed one.

    Raises:
        ValueError: not one number of experts for each layer.
    """
    if len(dims) != len(experts):
        raise ValueError(
            f"experts = {list(experts)} is not possible: allowed is one number for each of {len(dims)} layers"
        )
    return [
        ResidualMoE(
            dim,
            mixture_of_mlps(dim, int(mlp_ratio * dim), experts=count, top_k=top_k),
            MLP(dim, int(mlp_ratio * dim)),
        )
        for dim, count in zip(dims, experts, strict=True)
    ]
