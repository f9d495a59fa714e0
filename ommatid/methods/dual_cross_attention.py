"""DCAL: a ViT that looks again at the patches that counted, and learns beside a distracting second image.

"Dual Cross-Attention Learning for Fine-Grained Visual Categorization and Object Re-Identification" (arXiv 2205.02151).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.models.backbone import channels_last
from ommatid.models.backbones.vit import ViT, ViTConfig
from ommatid.models.config import PartConfig, require, require_divisible, require_positive
from ommatid.models.names import BLOCK_NAMES
from ommatid.models.procedure import Procedure
from ommatid.models.reference import join_layers
from ommatid.models.registry import register, register_part
from ommatid.models.sizes import require_patches
from ommatid.nn.block import Block
from ommatid.nn.feedforward import MLP
from ommatid.nn.init import init_linear_
from ommatid.nn.mixers import Attention
from ommatid.nn.norm import LayerNorm
from ommatid.nn.residual import Residual
from ommatid.ops.attention import attend, attend_weighing_pairs
from ommatid.ops.attention_rollout import attention_rollout, first_token_rollout


def paired_attention(attention: Attention, tokens: Tensor, partner: Tensor) -> Tensor:
    """Queries of tokens (B, N, C) at keys of these and of the partner's (B, M, C) at once: (B, N, C). PWCA."""
    query, key, value = attention.project(tokens)
    _, partner_key, partner_value = attention.project(partner)
    return attention.proj(attend(query, torch.cat([key, partner_key], 1), torch.cat([value, partner_value], 1)))


def local_attention(attention: Attention, tokens: Tensor, selected: Tensor) -> Tensor:
    """Queries of some of the tokens (B, N, C), by their numbers (B, R), at keys of all: (B, R, C). GLCA."""
    query, key, value = attention.project(tokens)
    return attention.proj(attend(_taken(query, selected), key, value))


def _taken(tokens: Tensor, selected: Tensor) -> Tensor:
    """(B, N, ...) and (B, R) -> (B, R, ...)."""
    return tokens[torch.arange(len(tokens), device=tokens.device)[:, None], selected]


def select_patches(response: Tensor, ratio: float) -> Tensor:
    """The patches that responded most, by decreasing response and then by number: (B, N) -> (B, max(1, int(r N)))."""
    count = max(1, int(ratio * response.shape[1]))
    return response.sort(dim=1, descending=True, stable=True).indices[:, :count]


def random_partners(count: int) -> Tensor:
    """Another image of a batch for each: (count,), new ones at every step of a training.

    A single image is its own partner.
    """
    order = torch.randperm(count)
    partners = torch.empty_like(order)
    partners[order] = order.roll(1)
    return partners


def uncertainty_weighted(losses: Tensor, log_variances: Tensor) -> Tensor:
    """1/2 sum(exp(-w) L + w), of losses L and learned numbers w of as many: ()."""
    return ((-log_variances).exp() * losses + log_variances).sum() / 2


class Looks(NamedTuple):
    """rollout: (B, 1 + N), of the class token. selected: (B, R), patches from 0. whole, local: (B, C), class tokens."""

    rollout: Tensor
    selected: Tensor
    whole: Tensor
    local: Tensor


class DualCrossAttention(nn.Module):
    """A ViT, and one block behind it in which the class token and the most attended patches look at all once more.

    Args:
        vit: has a class token, and classes.
        local_ratio: share of the patches that look again; 0.1 for kinds of things, 0.3 for single ones.
    """

    def __init__(self, vit: ViT, *, local_ratio: float) -> None:
        super().__init__()
        config = vit.config
        self.vit = vit
        self.local_ratio = local_ratio
        self.local_block = Block(
            config.dim,
            Attention(config.dim, config.heads, qkv_bias=config.qkv_bias),
            MLP(config.dim, int(config.dim * config.mlp_ratio)),
            norm=LayerNorm,
        )
        self.local_norm = LayerNorm(config.dim)
        self.local_head = nn.Linear(config.dim, config.num_classes)
        self.loss_weights = nn.Parameter(torch.zeros(3))
        for part in (self.local_block, self.local_head):
            part.apply(init_linear_)

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, num_classes): the sum of both probabilities, from 0 to 2."""
        return sum_of_probabilities(*self.logits(self.look(image)))

    def embed(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 2 C): both class tokens, to find the same thing in other images."""
        looks = self.look(image)
        return torch.cat([looks.whole, looks.local], dim=-1)

    def look(self, image: Tensor) -> Looks:
        tokens, weights = self._embedded(image), []
        for block in self._blocks():
            residual, attention = _parts(block)
            mixed, seen = attend_weighing_pairs(*attention.project(residual.norm(tokens)))
            weights.append(seen.mean(1).detach())
            tokens = block.channel(residual.add(tokens, attention.proj(mixed)))
        rollout = first_token_rollout(weights)
        selected = select_patches(rollout[:, 1:], self.local_ratio)
        asking = F.pad(selected + 1, (1, 0))
        residual, attention = _parts(self.local_block)
        branch = local_attention(attention, residual.norm(tokens), asking)
        # What the channel mixer makes of the patches, nobody reads.
        local = self.local_block.channel(residual.add(_taken(tokens, asking), branch)[:, :1])[:, 0]
        return Looks(rollout, selected, self.vit.token_norm(tokens[:, 0]), self.local_norm(local))

    def logits(self, looks: Looks) -> tuple[Tensor, Tensor]:
        """Of the whole and of the local class token: (B, num_classes) each."""
        return self.vit.head(looks.whole), self.local_head(looks.local)

    def paired_logits(self, image: Tensor, partners: Tensor) -> Tensor:
        """(B, num_classes), while every image also looks at its partner, by number (B,). For training only."""
        tokens = self._embedded(image)
        for block in self._blocks():
            residual, attention = _parts(block)
            normed = residual.norm(tokens)
            tokens = block.channel(residual.add(tokens, paired_attention(attention, normed, normed[partners])))
        return self.vit.head(self.vit.token_norm(tokens[:, 0]))

    def losses(self, logits: tuple[Tensor, Tensor, Tensor], label: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropies (3,) of the whole, local and paired logits, and their weighted sum ()."""
        losses = torch.stack([F.cross_entropy(answer, label) for answer in logits])
        return losses, uncertainty_weighted(losses, self.loss_weights)

    def _blocks(self) -> list[Block]:
        return cast(list[Block], list(self.vit.blocks))

    def _embedded(self, image: Tensor) -> Tensor:
        return self.vit.sequence(self.vit.stem(channels_last(image)))


def sum_of_probabilities(*logits: Tensor) -> Tensor:
    return torch.stack([answer.softmax(-1) for answer in logits]).sum(0)


def _parts(block: Block) -> tuple[Residual, Attention]:
    """The first residual branch of a block, and the attention in it."""
    attention = block.token.inner
    assert isinstance(attention, Attention)
    return block.token, attention


@dataclass(frozen=True, kw_only=True)
class DCALConfig(PartConfig):
    """`pairs` is the partner of each image of the batch, the one before it where None. "pwca" and "glca" read `dim` and
    `heads` only, "rollout" nothing."""

    function: Literal["dcal", "rollout", "pwca", "glca"] = "dcal"
    image_size: int | tuple[int, int] = 448
    patch_size: int = 16
    dim: int = 192
    depth: int = 12
    heads: int = 3
    mlp_ratio: float = 4.0
    num_classes: int = 200
    local_ratio: float = 0.1
    pairs: tuple[int, ...] | None = None

    def check(self) -> None:
        require_positive(depth=self.depth, num_classes=self.num_classes)
        require_divisible(self.dim, self.heads)
        require_patches(self.image_size, self.patch_size)
        require(0 < self.local_ratio <= 1, "local_ratio", self.local_ratio, "above 0, up to 1")
        if self.pairs is not None:
            inside = all(0 <= partner < len(self.pairs) for partner in self.pairs)
            require(inside, "pairs", self.pairs, f"one number from 0 to {len(self.pairs) - 1} for each image")

    def vit(self) -> ViT:
        return ViT(
            ViTConfig(
                image_size=self.image_size,
                patch_size=self.patch_size,
                dim=self.dim,
                depth=self.depth,
                heads=self.heads,
                mlp_ratio=self.mlp_ratio,
                num_classes=self.num_classes,
            )
        )

    def partners(self, count: int) -> Tensor:
        """(count,)."""
        if self.pairs is None:
            return torch.arange(count).roll(1)
        require(len(self.pairs) == count, "pairs", self.pairs, f"one partner for each of the {count} images")
        return torch.tensor(self.pairs)


@register("dcal", DCALConfig)
class DualCrossAttentionLearning(Procedure):
    """image (B, 3, H, W) and label (B,) -> what both looks and the paired one answer, and what training makes of it."""

    config: DCALConfig

    def __init__(self, config: DCALConfig) -> None:
        super().__init__(config)
        self.network = DualCrossAttention(config.vit(), local_ratio=config.local_ratio)

    def forward(self, image: Tensor, label: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        looks = self.network.look(image)
        whole, local = self.network.logits(looks)
        paired = self.network.paired_logits(image, self.config.partners(len(image)).to(image.device))
        losses, loss = self.network.losses((whole, local, paired), label)
        return {
            "rollout": looks.rollout,
            "selected": looks.selected.sort(1).values,
            "logits_sa": whole,
            "logits_glca": local,
            "logits_pwca": paired,
            "probabilities": sum_of_probabilities(whole, local),
            "losses": losses,
            "loss": loss,
        }


@register_part("dcal", "rollout")
class Rollout(Procedure):
    """attention (L, B, heads, N, N), a third of the scores -> rollout (B, N, N)."""

    def forward(self, attention: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"rollout": attention_rollout((3 * attention).softmax(-1).mean(2).unbind())}


class _AttentionAlone(Procedure):
    config: DCALConfig

    def __init__(self, config: DCALConfig) -> None:
        super().__init__(config)
        self.attention = Attention(config.dim, config.heads)


@register_part("dcal", "pwca")
class PairWise(_AttentionAlone):
    """x1 (B, N, C) and x2 (B, M, C), both normed -> y (B, N, C)."""

    def forward(self, x1: Tensor, x2: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"y": paired_attention(self.attention, x1, x2)}


@register_part("dcal", "glca")
class GlobalLocal(_AttentionAlone):
    """Normed tokens (B, N, C) and integers, (B, R) or (R,), which of them ask, by any names -> y (B, R, C)."""

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        tokens, selected = sorted(inputs.values(), key=lambda value: not value.is_floating_point())
        return {"y": local_attention(self.attention, tokens, selected.expand(len(tokens), -1))}


REFERENCE_NAMES = [
    (r"^attn\.", "attention."),
    (r"^cls_token$", "vit.sequence.class_token.token"),
    (r"^pos_embed$", "vit.sequence.position"),
    (r"^patch_embed\.", "vit.stem.proj."),
    (r"^blocks\.", "vit.blocks."),
    (r"^norm\.", "vit.token_norm."),
    (r"^head\.", "vit.head."),
    (r"^glca_(block|norm|head)\.", r"local_\1."),
    (r"\.(fc[12])\.", r".mlp.\1."),
    (r"^(vit|local|loss)", r"network.\1"),
    *BLOCK_NAMES,
]


def convert_reference(state: dict[str, Tensor], model: Procedure) -> dict[str, Tensor]:
    return join_layers(state, ("q", "k", "v"), "qkv")
