"""Module-to-module distillation: each part of a student learns from the same part of a teacher, in one shallow network.

"m2mKD: Module-to-Module Knowledge Distillation for Modular Transformers" (arXiv 2402.16918). The shallow network, the
meta model, has one block for each part and the teacher's width. A teacher's part takes the place of a block, the
student's part takes it too, and their answers are compared: all pairs can be trained at once, each by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.models.backbone import channels_last
from ommatid.models.backbones.vit import ViT, ViTConfig
from ommatid.models.config import require
from ommatid.nn.block import Block
from ommatid.nn.embed import PatchEmbed
from ommatid.nn.feedforward import MLP
from ommatid.nn.mixers import Attention
from ommatid.nn.norm import LayerNorm
from ommatid.nn.residual import Residual
from ommatid.nn.tokens import TokenSequence

Position = Literal["first", "middle", "last"]


class Entry(nn.Module):
    """Where a transformer begins: image -> class token and patches (B, 1 + N, C)."""

    def __init__(self, grid: tuple[int, int], patch_size: int, dim: int, in_channels: int) -> None:
        super().__init__()
        self.stem = PatchEmbed(in_channels, dim, patch_size)
        self.sequence = TokenSequence(grid, dim)

    def forward(self, image: Tensor) -> Tensor:
        return self.sequence(self.stem(channels_last(image)))


class Exit(nn.Module):
    """Where it ends: tokens (B, 1 + N, C) -> logits (B, num_classes) of the class token."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.norm = LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(tokens[:, 0]))


def stitch(in_dim: int, dim: int, *, norm: bool = True) -> nn.Module:
    """What leads from one width to another at a cut: (..., in_dim) -> (..., dim). NAC has no norm there."""
    return nn.Sequential(nn.LayerNorm(in_dim) if norm else nn.Identity(), nn.Linear(in_dim, dim))


def stitch_residual(dim: int, stitch_dim: int, *, drop_path: float = 0.0) -> nn.Module:
    """What may stay of the stitches at a cut when parts are joined: x + W_pre GELU(W_post norm(x)), (..., dim).

    `inner.fc1` is the stitch behind the part before, `inner.fc2` the one in front of the part after.
    """
    return Residual(dim, MLP(dim, stitch_dim), drop_path=drop_path)


class StudentModule(nn.Module):
    """One part of a student, of any width, stitched into a network of the meta model's width.

    The first takes images, the last gives logits, all others take and give tokens (B, 1 + N, meta_dim).

    Args:
        config: of the whole student; `depth` is that of this part.
        meta_dim: the meta model's width.
        position: of the part.
        stitch_norm: whether stitches begin with a norm.
    """

    def __init__(self, config: ViTConfig, meta_dim: int, position: Position, *, stitch_norm: bool = True) -> None:
        super().__init__()
        dim, hidden = config.dim, int(config.dim * config.mlp_ratio)
        first, last = position == "first", position == "last"
        entry = Entry(config.grid, config.patch_size, dim, config.in_channels)
        self.entry = entry if first else stitch(meta_dim, dim, norm=stitch_norm)
        self.blocks = nn.Sequential(
            *(
                Block(
                    dim,
                    Attention(dim, config.heads, qkv_bias=config.qkv_bias),
                    MLP(dim, hidden),
                    norm=LayerNorm,
                    drop_path=config.drop_path_rate,
                )
                for _ in range(config.depth)
            )
        )
        self.exit = Exit(dim, config.num_classes) if last else stitch(dim, meta_dim, norm=stitch_norm)

    def forward(self, x: Tensor) -> Tensor:
        return self.exit(self.blocks(self.entry(x)))


class PairAnswers(NamedTuple):
    """What a pair of parts leads to: logits (B, num_classes) of both, and the tokens that both were given.

    `shared` is None for the first pair, which is given images.
    """

    teacher: Tensor
    student: Tensor
    shared: Tensor | None


class ModulePair(nn.Module):
    """A part of the teacher and the student's, each in the meta model's place for it: image -> `PairAnswers`.

    Teacher and meta model are frozen; gradients pass through the meta model's later blocks to the student.

    Args:
        teacher: cut into parts of `depths` blocks.
        meta: of the same width, cut into as many parts of `meta_depths` blocks.
        index: of the pair, from 0; -1 is the last.

    Raises:
        ValueError: depths that do not add up, or no such pair.
    """

    def __init__(
        self,
        teacher: ViT,
        depths: Sequence[int],
        meta: ViT,
        meta_depths: Sequence[int],
        student: StudentModule,
        index: int,
    ) -> None:
        super().__init__()
        count = len(depths)
        require(count > 1, "divided_depths", tuple(depths), "two parts or more")
        require(len(meta_depths) == count, "meta_depths", tuple(meta_depths), f"one depth for each of {count} parts")
        require(-1 <= index < count, "index", index, f"from 0 to {count - 2}, or -1 for the last pair")
        for name, network, parts in (("divided_depths", teacher, depths), ("meta_depths", meta, meta_depths)):
            blocks = network.config.depth
            require(min(parts) > 0 and sum(parts) == blocks, name, tuple(parts), f"positive, {blocks} blocks together")
        self.teacher, self.meta = teacher.requires_grad_(False), meta.requires_grad_(False)
        self.student = student
        self.index = index % count
        self.last = self.index == count - 1
        self.part, self.place = part(depths, self.index), part(meta_depths, self.index)

    def forward(self, image: Tensor) -> PairAnswers:
        with torch.no_grad():
            shared = self._before(image) if self.index else None
            taught = self._taught(tokens_of(self.teacher, image) if shared is None else shared)
        answer = self.student(image if shared is None else shared)
        return PairAnswers(taught, answer if self.last else self._behind(answer), shared)

    def train(self, mode: bool = True) -> Self:
        """The frozen networks stay as they are for inference."""
        super().train(mode)
        self.teacher.eval()
        self.meta.eval()
        return self

    def _before(self, image: Tensor) -> Tensor:
        return through(self.meta, slice(self.place.start), tokens_of(self.meta, image))

    def _behind(self, tokens: Tensor) -> Tensor:
        return logits_of(self.meta, through(self.meta, slice(self.place.stop, None), tokens))

    def _taught(self, tokens: Tensor) -> Tensor:
        tokens = through(self.teacher, self.part, tokens)
        return logits_of(self.teacher, tokens) if self.last else self._behind(tokens)


def part(depths: Sequence[int], index: int) -> slice:
    """The blocks that belong to part `index` of a network cut into parts of these depths."""
    return slice(sum(depths[:index]), sum(depths[: index + 1]))


def tokens_of(network: ViT, image: Tensor) -> Tensor:
    return network.sequence(network.stem(channels_last(image)))


def through(network: ViT, blocks: slice, tokens: Tensor) -> Tensor:
    for block in list(network.blocks)[blocks]:
        tokens = block(tokens)
    return tokens


def logits_of(network: ViT, tokens: Tensor) -> Tensor:
    return network.head(network.token_norm(tokens[:, 0]))


def distillation_loss(
    base: Tensor,
    student: Tensor,
    teacher: Tensor,
    *,
    kind: Literal["soft", "hard"] = "soft",
    weight: float = 0.5,
    temperature: float = 1.0,
) -> Tensor:
    """(1 - weight) of the loss by labels, `weight` of that by the teacher's logits (B, K): ().

    Args:
        base: the loss by labels, ().
        kind: `soft` is the KL divergence of softened answers, averaged over samples and classes alike, which makes it K
            times smaller than the usual mean over samples; `hard` takes the teacher's class for a label.
    """
    require(0 <= weight <= 1, "weight", weight, "from 0 to 1")
    if kind == "hard":
        taught = F.cross_entropy(student, teacher.argmax(-1))
    else:
        soft, target = ((logits / temperature).log_softmax(-1) for logits in (student, teacher))
        taught = F.kl_div(soft, target, reduction="none", log_target=True).mean() * temperature**2
    return (1 - weight) * base + weight * taught


@torch.no_grad()
def assembled(modules: Sequence[StudentModule], config: ViTConfig) -> ViT:
    """The whole student from its distilled parts, without their stitches, to be trained on end to end.

    Raises:
        ValueError: the parts have another depth than the config, or do not begin with the first and end with the last.
    """
    blocks = [block for module in modules for block in module.blocks]
    entry, leave = (modules[0].entry, modules[-1].exit) if modules else (None, None)
    whole = isinstance(entry, Entry) and isinstance(leave, Exit)
    require(whole, "modules", len(modules), "all parts of a student, from the first to the last")
    require(len(blocks) == config.depth, "depth", config.depth, f"that of the parts together, {len(blocks)}")
    assert isinstance(entry, Entry)
    assert isinstance(leave, Exit)
    student = ViT(config)
    student.stem.load_state_dict(entry.stem.state_dict())
    student.sequence.load_state_dict(entry.sequence.state_dict())
    student.token_norm.load_state_dict(leave.norm.state_dict())
    student.head.load_state_dict(leave.head.state_dict())
    for mine, block in zip(student.blocks, blocks, strict=True):
        mine.load_state_dict(block.state_dict())
    return student
