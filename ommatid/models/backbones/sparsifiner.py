"""Sparsifiner: DeiT with attention between the pairs of tokens that a predictor picks for each image.

"Sparsifiner: Learning Sparse Instance-Dependent Attention for Efficient Vision Transformers" (arXiv 2303.13755).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier
from ommatid.models.config import Config, require, require_divisible, require_positive
from ommatid.models.model import Model
from ommatid.models.names import BLOCK_NAMES
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register, register_part
from ommatid.models.sizes import ImageSizes, pair, require_exactly, require_patches, whole_patches
from ommatid.nn.block import Block
from ommatid.nn.embed import PatchEmbed
from ommatid.nn.feedforward import MLP
from ommatid.nn.init import init_linear_
from ommatid.nn.norm import LayerNorm
from ommatid.nn.residual import stochastic_depth
from ommatid.nn.sparse_attention import Connections, ConnectivityPredictor, Mode, SparseAttention
from ommatid.nn.tokens import TokenSequence


@dataclass(frozen=True, kw_only=True)
class SparsifinerConfig(Config):
    """`token_keep_rates` has an entry for each block, or none for all 1; those at `prune_tokens_at` count.

    The function "predictor" reads `tokens` beside the numbers of the predictor; "loss" reads nothing.
    """

    function: Literal["backbone", "predictor", "loss"] = "backbone"
    mode: Mode = "sparse"
    image_size: int | tuple[int, int] = 224
    patch_size: int = 16
    dim: int = 384
    depth: int = 12
    heads: int = 6
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    token_keep_rates: tuple[float, ...] = ()
    prune_tokens_at: tuple[int, ...] = ()
    tokens: int = 197
    layers: int = 12
    attn_keep_rate: float = 0.25
    reduce_tokens: int = 6
    reduce_channels: int = 2
    basis_threshold: float = 0.02
    coef_topk: int = 8
    coef_threshold: float = 0.0
    score_threshold: float = 0.0
    prune_rows: bool = False

    def check(self) -> None:
        require_positive(depth=self.depth, reduce_tokens=self.reduce_tokens, reduce_channels=self.reduce_channels)
        require_divisible(self.dim, self.heads)
        require_patches(self.image_size, self.patch_size)
        require(0 < self.attn_keep_rate <= 1, "attn_keep_rate", self.attn_keep_rate, "above 0, up to 1")
        rates = self.token_keep_rates
        require(len(rates) in (0, self.depth), "token_keep_rates", rates, f"one for each of the {self.depth} blocks")
        known = all(0 <= block < self.depth for block in self.prune_tokens_at)
        require(known, "prune_tokens_at", self.prune_tokens_at, f"blocks from 0 to {self.depth - 1}")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of whole patches."""
        return whole_patches(self.image_size, self.patch_size)

    def predictor(self, tokens: int) -> ConnectivityPredictor:
        return ConnectivityPredictor(
            self.dim // self.heads,
            tokens,
            keep_rate=self.attn_keep_rate,
            reduce_tokens=self.reduce_tokens,
            reduce_channels=self.reduce_channels,
            basis_threshold=self.basis_threshold,
            coef_topk=self.coef_topk,
            coef_threshold=self.coef_threshold,
            score_threshold=self.score_threshold,
            prune_rows=self.prune_rows,
        )


class Step(NamedTuple):
    """What one block made: tokens (B, N, C), the patches still active (B, N - 1), and what was predicted."""

    tokens: Tensor
    active: Tensor | None
    connections: Connections


@register("sparsifiner", SparsifinerConfig)
class Sparsifiner(Backbone):
    """DeiT with sparse attention, for images of one size.

    The predictors are frozen: they learn from `reconstruction_loss` alone, in mode "reconstruct".
    """

    config: SparsifinerConfig
    no_decay = ("position", "class_token.token")

    def __init__(self, config: SparsifinerConfig) -> None:
        super().__init__(config)
        self.image_sizes = ImageSizes(fixed=pair(config.image_size))
        self.channels, self.strides = (config.dim,), (config.patch_size,)
        (rates,) = stochastic_depth(config.drop_path_rate, [config.depth])
        tokens = 1 + config.grid[0] * config.grid[1]
        self.stem = PatchEmbed(config.in_channels, config.dim, config.patch_size)
        self.sequence = TokenSequence(config.grid, config.dim)
        self.blocks = nn.ModuleList(
            Block(
                config.dim,
                SparseAttention(
                    config.dim,
                    config.heads,
                    config.predictor(tokens),
                    qkv_bias=config.qkv_bias,
                    mode=config.mode,
                ),
                MLP(config.dim, int(config.dim * config.mlp_ratio)),
                norm=LayerNorm,
                drop_path=rate,
            )
            for rate in rates
        )
        self.norm = LayerNorm(config.dim)
        self.head = classifier(config.dim, config.num_classes)
        self.apply(init_linear_)

    def embed(self, image: Tensor) -> Tensor:
        return self.norm(self.tokens(image)[:, 0])

    def tokens(self, image: Tensor) -> Tensor:
        *_, last = self.steps(image)
        return last.tokens

    def maps(self, image: Tensor) -> list[Tensor]:
        return [self.tokens(image)[:, 1:].unflatten(1, self.config.grid)]

    def steps(self, image: Tensor) -> Iterator[Step]:
        """One block after another."""
        require_exactly(image, self.config.image_size)
        tokens, active = self.sequence(self.stem(channels_last(image))), None
        for i, block in enumerate(self.blocks):
            prunes = i in self.config.prune_tokens_at and self.config.mode == "sparse"
            assert isinstance(block, Block)
            assert isinstance(block.token.inner, SparseAttention)
            attended = block.token.inner.attended(block.token.norm(tokens), active, weigh=prunes)
            tokens = block.channel(block.token.add(tokens, attended.tokens))
            if attended.class_weights is not None:
                active = self._active(attended.class_weights, active, i)
                tokens = torch.cat([tokens[:, :1], tokens[:, 1:] * active[..., None]], dim=1)
            yield Step(tokens, active, attended.connections)

    def _active(self, weights: Tensor, active: Tensor | None, block: int) -> Tensor:
        """(B, N - 1): 1 for the patches that the class token looked at most, of those that are active."""
        count = math.ceil(self.config.token_keep_rates[block] * weights.shape[1]) if self.config.token_keep_rates else 0
        weights = weights.detach() if active is None else weights.detach().masked_fill(active == 0, -torch.inf)
        kept = weights.topk(count or weights.shape[1], dim=-1).indices
        return torch.zeros_like(weights).scatter(-1, kept, 1.0)


def reconstruction_loss(approximation: Tensor, attention: Tensor) -> Tensor:
    """What the predictors learn from: squared errors, summed over images and heads, averaged over layers.

    Args:
        approximation: (layers, B, heads, N - 1, N).
        attention: (layers, B, heads, N, N), of the dense teacher.
    """
    return (approximation - attention[..., 1:, :]).square().flatten(1).sum(1).mean()


def distillation_loss(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """What the teacher's classes would cost: sum over classes of p_t (log p_t - log p_s), averaged over images."""
    return F.kl_div(logits.log_softmax(-1), teacher_logits.log_softmax(-1), reduction="batchmean", log_target=True)


@register_part("sparsifiner", "predictor")
class PredictorAlone(Model):
    """q and k (B, heads, N, d) -> coefficients, approximation and mask."""

    config: SparsifinerConfig

    def __init__(self, config: SparsifinerConfig) -> None:
        super().__init__(config)
        self.predictor = config.predictor(config.tokens)

    def forward(self, q: Tensor, k: Tensor) -> dict[str, Tensor]:
        found = self.predictor(q, k, self.config.mode)
        return {
            "coefficients": found.coefficients,
            "approximation": found.approximation,
            "mask": found.mask.to(q.dtype),
        }


@register_part("sparsifiner", "loss")
class Losses(Procedure):
    """Answers and patch tokens (B, N - 1, C) of student and teacher -> the four terms, weighted, and their sum.

    The teacher's attention comes as logits.
    """

    def forward(  # type: ignore[override]
        self,
        logits: Tensor,
        tokens: Tensor,
        teacher_logits: Tensor,
        teacher_tokens: Tensor,
        label: Tensor,
        approximation: Tensor,
        teacher_attention: Tensor,
    ) -> dict[str, Tensor]:
        terms = {
            "cls_loss": F.cross_entropy(logits, label),
            "cls_distill_loss": 0.5 * distillation_loss(logits, teacher_logits),
            "token_distill_loss": 0.5 * F.mse_loss(tokens, teacher_tokens),
            "attn_recon_loss": 0.01 * reconstruction_loss(approximation, teacher_attention.softmax(-1)),
        }
        terms["total"] = torch.stack([*terms.values()]).sum()
        return {name: term[None] for name, term in terms.items()}


def reference_outputs(model: nn.Module, **inputs: Tensor) -> dict[str, Tensor]:
    """What every block predicted, and which patches were active behind those that pruned some."""
    if not isinstance(model, Sparsifiner):
        return {}
    outputs: dict[str, Tensor] = {}
    before: Tensor | None = None
    for i, step in enumerate(model.steps(inputs["image"])):
        found = step.connections
        shown = found.approximation if before is None else found.approximation * before[:, None, :, None]
        outputs |= {f"approximation{i}": shown, f"mask{i}": found.mask.float(), f"tokens{i}": step.tokens}
        before = step.active
        if before is not None:
            outputs[f"tokens_kept{i}"] = before
    return outputs


VARIANTS = {"sparsifiner_s": SparsifinerConfig(), "sparsifiner_b": SparsifinerConfig(dim=768, heads=12)}

REFERENCE_NAMES = [
    (r"^cls_token$", "sequence.class_token.token"),
    (r"^pos_embed$", "sequence.position"),
    (r"^patch_embed\.", "stem."),
    (r"\.mask_predictor\.", ".predictor."),
    (r"^(?=proj_)", "predictor."),
    (r"\.proj_c_q\.", ".query."),
    (r"\.proj_c_k\.", ".key."),
    (r"\.proj_n$", ".reduce"),
    (r"\.proj_back_n$", ".basis"),
    *BLOCK_NAMES,
]
