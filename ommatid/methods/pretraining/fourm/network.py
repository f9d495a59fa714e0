"""The transformer: an encoder of what is shown of all modalities, and a decoder of what is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.methods.pretraining.fourm.embeddings import Modality, ModalityEmbedding, ModalityTarget
from ommatid.methods.pretraining.fourm.samples import Sample
from ommatid.nn.block import Block
from ommatid.nn.cross_block import CrossBlock
from ommatid.nn.feedforward import MLP, SwiGLU
from ommatid.nn.init import init_joint_, init_xavier_uniform_
from ommatid.nn.token_attention import TokenAttention, TokenCrossAttention

NOBODY = -1
"""Modality of padding and of registers."""


class Asked(NamedTuple):
    """What the decoder guesses: contents and places (B, T, D); which are no padding, of which modality, the tokens that
    are right, and their reaches (see `Sample`), (B, T) each.
    """

    content: Tensor
    place: Tensor
    used: Tensor
    modality: Tensor
    target: Tensor
    reach: Tensor


class Encoded(NamedTuple):
    """tokens (B, M, D); their places (B, M, D); which are no padding, and of which modality, (B, M) both."""

    tokens: Tensor
    place: Tensor
    used: Tensor
    modality: Tensor


class FourM(nn.Module):
    """Samples of modalities by name -> logits of what is asked for.

    Args:
        modalities: that it knows.
        dim, heads, mlp_ratio: of both transformers.
        encoder_depth, decoder_depth: blocks of each.
        grid, patch_size: rows and columns of the patches of an image, and their side.
        bias: of linear layers and norms.
        gated: MLPs are gated, of two thirds of the width.
        norm_heads: queries and keys are normed by head.
        registers: learned tokens beside those of the modalities.
        causal: tokens of the decoder see those before them only, whatever their reach.
        separate: they see those of their own modality only.
        shared: see `ModalityTarget`.
    """

    def __init__(
        self,
        modalities: Sequence[Modality],
        *,
        dim: int,
        heads: int,
        encoder_depth: int,
        decoder_depth: int,
        grid: tuple[int, int],
        patch_size: int,
        mlp_ratio: float = 4.0,
        bias: bool = False,
        gated: bool = True,
        norm_heads: bool = False,
        registers: int = 0,
        causal: bool = False,
        separate: bool = True,
        shared: bool = True,
    ) -> None:
        super().__init__()
        self.ids = {modality.name: modality.id for modality in modalities}
        self.sequences = {modality.name for modality in modalities if modality.type == "sequence"}
        self.causal, self.separate = causal, separate
        norm = partial(nn.LayerNorm, eps=1e-6, bias=bias)
        head_norm = norm if norm_heads else None
        self.embeddings = nn.ModuleDict(
            {modality.name: ModalityEmbedding(modality, dim, grid, patch_size) for modality in modalities}
        )
        self.targets = nn.ModuleDict(
            {m.name: ModalityTarget(m, dim, shared=shared) for m in modalities if m.type != "pixels"}
        )
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.registers = nn.Parameter(torch.zeros(1, registers, dim)) if registers else None

        def mlp() -> nn.Module:
            hidden = int(dim * mlp_ratio)
            return SwiGLU(dim, int(2 * hidden / 3), bias=bias) if gated else MLP(dim, hidden, bias=bias)

        self.encoder = nn.ModuleList(
            Block(dim, TokenAttention(dim, heads, bias=bias, norm=head_norm), mlp(), norm=norm)
            for _ in range(encoder_depth)
        )
        self.encoder_norm = norm(dim)
        self.context = nn.Linear(dim, dim)
        self.decoder = nn.ModuleList(
            CrossBlock(dim, heads, mlp(), norm=norm, bias=bias, head_norm=head_norm) for _ in range(decoder_depth)
        )
        self.decoder_norm = norm(dim)
        init_(self)

    def forward(
        self,
        samples: Mapping[str, Sample],
        input_tokens: int,
        target_tokens: int,
        order: Sequence[str] | None = None,
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Logits (n, V) and targets (n,) of every modality that is not pixels; n, over the whole batch, may be 0.

        Args:
            samples: by the modality's name.
            input_tokens, target_tokens: room for tokens that are shown, and for those that are asked for.
            order: of the modalities in the decoder, drawn anew at each step of training; as in `samples` where None.
        """
        asked = self.asked(samples, target_tokens, order)
        decoded = self.decode(asked, self.encode(samples, input_tokens))
        return self.answers(decoded, asked)

    def encode(self, samples: Mapping[str, Sample], count: int) -> Encoded:
        """What is shown, behind the registers."""
        content, place, used, modality = first_used([self._shown(*sample) for sample in samples.items()], count)
        modality = modality.masked_fill(~used, NOBODY)
        if self.registers is not None:
            ahead = self.registers.shape[1]
            content = torch.cat([self.registers.expand(content.shape[0], -1, -1), content], dim=1)
            place, used = F.pad(place, (0, 0, ahead, 0)), F.pad(used, (ahead, 0), value=True)
            modality = F.pad(modality, (ahead, 0), value=NOBODY)
        encoded, bias = content + place, as_bias(~used[:, None, None], content)
        for block in self.encoder:
            encoded = block(encoded, None, bias)
        return Encoded(self.encoder_norm(encoded), place, used, modality)

    def asked(self, samples: Mapping[str, Sample], count: int, order: Sequence[str] | None = None) -> Asked:
        """What is asked for, as the decoder starts from it."""
        names = [name for name in order or samples if name in self.targets]
        asked = Asked(*first_used([self._asked(name, samples[name]) for name in names], count))
        return asked._replace(target=asked.target * asked.used)

    def decode(self, asked: Asked, encoded: Encoded) -> Tensor:
        """(B, T, D) behind the last norm."""
        memory = self.context(encoded.tokens) + encoded.place
        tokens = asked.content + asked.place
        bias = as_bias(self.blocked(asked)[:, None], tokens)
        memory_bias = as_bias(~encoded.used[:, None, None], tokens)
        for block in self.decoder:
            tokens = block(tokens, memory, None, bias, memory_bias)
        return self.decoder_norm(tokens)

    def blocked(self, asked: Asked) -> Tensor:
        """Which pairs of the decoder's tokens may not meet: booleans (B, T, T)."""
        place = torch.arange(asked.reach.shape[1], device=asked.reach.device)
        seen = (place + 1).expand_as(asked.reach) if self.causal else asked.reach.cumsum(1)
        blocked = place >= seen.unsqueeze(-1)
        return blocked | (asked.modality[:, :, None] != asked.modality[:, None]) if self.separate else blocked

    def answers(self, decoded: Tensor, asked: Asked) -> dict[str, tuple[Tensor, Tensor]]:
        """As `forward`."""
        places = {name: asked.used & (asked.modality == self.ids[name]) for name in self.targets}
        return {
            name: (target(decoded[places[name]]), asked.target[places[name]]) for name, target in self.targets.items()
        }

    def _shown(self, name: str, sample: Sample) -> tuple[Tensor, ...]:
        embedding = self.embeddings[name]
        assert isinstance(embedding, ModalityEmbedding)
        modality = torch.full_like(sample.reach, self.ids[name])
        return embedding(sample.values), embedding.where(sample.shown), sample.shown, modality

    def _asked(self, name: str, sample: Sample) -> Asked:
        embedding, target = self.embeddings[name], self.targets[name]
        assert isinstance(embedding, ModalityEmbedding)
        assert isinstance(target, ModalityTarget)
        place, modality = embedding.where(sample.asked), torch.full_like(sample.reach, self.ids[name])
        if name not in self.sequences:
            content = self.mask_token.expand_as(place)
            return Asked(content, place, sample.asked, modality, sample.values, sample.reach)
        # Every token says the next one.
        used, content = sample.asked[:, 1:] & sample.asked[:, :-1], target.embed(sample.values[:, :-1])
        return Asked(content, place[:, :-1], used, modality[:, :-1], sample.values[:, 1:], sample.reach[:, :-1])


def first_used(parts: Sequence[Sequence[Tensor]], count: int) -> list[Tensor]:
    """Contents, places, which are used, and what else there is of several modalities, side by side: each (B, T, ...).

    Of each row the first `count` tokens that are used; where there are fewer, others are padding behind them, whose
    contents and places are 0.
    """
    whole = [torch.cat(values, dim=1) for values in zip(*parts, strict=True)]
    chosen = (~whole[2]).int().argsort(dim=1, stable=True)[:, :count]
    wide = chosen.unsqueeze(-1).expand(-1, -1, whole[0].shape[-1])
    content, place, used, *others = (values.gather(1, wide if values.dim() == 3 else chosen) for values in whole)
    return [content * used.unsqueeze(-1), place * used.unsqueeze(-1), used, *others]


def as_bias(blocked: Tensor, like: Tensor) -> Tensor:
    """What is added to scores of pairs that may not meet. Where none may, all count alike, as in the reference."""
    return torch.zeros_like(blocked, dtype=like.dtype).masked_fill(blocked, torch.finfo(like.dtype).min)


def losses(answers: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Cross-entropy of each modality, () each; 0 where nothing was asked."""
    return {
        name: F.cross_entropy(logits, target) if len(target) else logits.sum() * 0
        for name, (logits, target) in answers.items()
    }


def mean_of_modalities(answers: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
    """The loss in which all modalities count alike: ()."""
    return torch.stack(list(losses(answers).values())).mean()


def mean_of_logits(answers: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
    """The loss in which a modality counts by the number of its logits, tokens times vocabulary: ()."""
    counts = torch.tensor([logits.numel() for logits, _ in answers.values()], dtype=torch.float)
    each = torch.stack(list(losses(answers).values()))
    return (each * counts.to(each)).sum() / counts.sum().clamp_min(1)


def init_(model: FourM) -> None:
    """Xavier-uniform linear layers, of queries, keys and values each; embeddings and tokens from N(0, 0.02)."""
    model.apply(init_xavier_uniform_)
    for module in model.modules():
        if isinstance(module, TokenAttention):
            assert isinstance(module.qkv, nn.Linear)
            init_joint_(module.qkv, 3)
        elif isinstance(module, TokenCrossAttention):
            init_joint_(module.key_value, 2)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, ModalityTarget) and module.shared:
            nn.init.normal_(module.logits.weight, std=0.02)
    for token in (model.mask_token, model.registers):
        if token is not None:
            nn.init.normal_(token, std=0.02)
