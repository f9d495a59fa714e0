"""The published procedures of this package, as their reference cases name them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ommatid.methods.pretraining.fourm.budgets import room_for_targets, share_out
from ommatid.methods.pretraining.fourm.embeddings import Modality
from ommatid.methods.pretraining.fourm.network import FourM, losses, mean_of_logits, mean_of_modalities
from ommatid.methods.pretraining.fourm.samples import Sample, image_sample, sequence_sample
from ommatid.methods.pretraining.fourm.spans import mask_spans
from ommatid.models.config import PartConfig, require, require_divisible, require_positive, require_stages
from ommatid.models.procedure import Procedure
from ommatid.models.reference import join_layers
from ommatid.models.registry import register, register_part
from ommatid.models.sizes import require_patches, whole_patches


@dataclass(frozen=True, kw_only=True)
class FourMConfig(PartConfig):
    """The network is what is from `image_size` to `modalities`, each of which is a table of `Modality`'s fields.

    input_tokens, target_tokens: room in the encoder and the decoder, and what "budget" shares out. "image_mask" reads
    the budgets, "span_mask" what is from `keep_probability` to `vocab_offset`, "budget" what follows.
    """

    function: Literal["loss", "image_mask", "span_mask", "budget"] = "loss"
    image_size: int | tuple[int, int] = 224
    patch_size: int = 16
    dim: int = 768
    encoder_depth: int = 12
    decoder_depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    bias: bool = False
    gated_mlp: bool = True
    qk_norm: bool = False
    decoder_causal: bool = False
    decoder_separate: bool = True
    registers: int = 0
    share_embedding: bool = True
    loss_type: Literal["mod", "token"] = "mod"
    input_tokens: int = 256
    target_tokens: int = 256
    modalities: tuple[dict[str, Any], ...] = ()
    input_budget: int = 128
    target_budget: int | None = 128
    keep_probability: float = 0.5
    sentinel_start: int = 4
    vocab_offset: int = 0
    min_tokens: tuple[int, ...] = (0,)
    max_tokens: tuple[int, ...] = (256,)
    is_image: tuple[bool, ...] = (True,)

    def check(self) -> None:
        require_positive(dim=self.dim, encoder_depth=self.encoder_depth, decoder_depth=self.decoder_depth)
        require_positive(input_tokens=self.input_tokens, target_tokens=self.target_tokens)
        require_divisible(self.dim, self.heads)
        require(self.dim % 4 == 0, "dim", self.dim, "a multiple of 4")
        require_patches(self.image_size, self.patch_size)
        require(self.registers >= 0, "registers", self.registers, "0 or more")
        require_stages(min_tokens=self.min_tokens, max_tokens=self.max_tokens, is_image=self.is_image)
        kinds = self.kinds
        for field in ("name", "id"):
            values = [getattr(kind, field) for kind in kinds]
            require(len(set(values)) == len(values), "modalities", values, f"a different {field} for each")

    @property
    def kinds(self) -> tuple[Modality, ...]:
        """The modalities. Raises ValueError for what they cannot be."""
        return tuple(Modality.from_dict(modality) for modality in self.modalities)


@register("fourm", FourMConfig)
class Loss(Procedure):
    """NAME, and noise_NAME (B, N) of images, of each modality -> the loss, that of each modality, and what is between.

    encoded (B, M, D) and encoder_modality (B, M) are of what is shown; logits_NAME (B, T, V) of the first modality
    that is asked for, at all places of the decoder.
    """

    config: FourMConfig

    def __init__(self, config: FourMConfig) -> None:
        super().__init__(config)
        self.network = FourM(
            config.kinds,
            dim=config.dim,
            heads=config.heads,
            encoder_depth=config.encoder_depth,
            decoder_depth=config.decoder_depth,
            grid=whole_patches(config.image_size, config.patch_size),
            patch_size=config.patch_size,
            mlp_ratio=config.mlp_ratio,
            bias=config.bias,
            gated=config.gated_mlp,
            norm_heads=config.qk_norm,
            registers=config.registers,
            causal=config.decoder_causal,
            separate=config.decoder_separate,
            shared=config.share_embedding,
        )

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        config, network = self.config, self.network
        samples = {kind.name: sample(kind, inputs) for kind in config.kinds}
        encoded = network.encode(samples, config.input_tokens)
        asked = network.asked(samples, config.target_tokens)
        decoded = network.decode(asked, encoded)
        answers = network.answers(decoded, asked)
        first = next(iter(network.targets))
        loss = mean_of_modalities(answers) if config.loss_type == "mod" else mean_of_logits(answers)
        return {f"loss_{name}": value for name, value in losses(answers).items()} | {
            "loss": loss,
            "encoded": encoded.tokens,
            "encoder_modality": encoded.modality.float(),
            f"logits_{first}": network.targets[first](decoded),
        }


def sample(modality: Modality, inputs: dict[str, Tensor]) -> Sample:
    """What the inputs of a case hold of the modality."""
    values = inputs[modality.name]
    if modality.type == "sequence":
        return sequence_sample(values, modality.input_length, modality.target_length)
    noise = inputs[f"noise_{modality.name}"]
    return image_sample(values, noise, modality.input_budget, modality.target_budget)


@register_part("fourm", "image_mask")
class ImageMask(Procedure):
    """noise (B, N) -> input_mask and target_mask (B, N), 0 for what is used; decoder_attention_mask (B, N)."""

    config: FourMConfig

    def forward(self, noise: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        batch, config = len(noise), self.config
        drawn = image_sample(noise, noise, [config.input_budget] * batch, [config.target_budget] * batch)
        return {
            "input_mask": (~drawn.shown).float(),
            "target_mask": (~drawn.asked).float(),
            "decoder_attention_mask": drawn.reach.float(),
        }


@register_part("fourm", "span_mask")
class SpanMask(Procedure):
    """ids (B, N) and noise (B, N) from -1 to 1 -> input and target (B, 2 (N + 1)), with -1 behind their ends."""

    config: FourMConfig

    def forward(self, ids: Tensor, noise: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        keep = (noise + 1) / 2 <= self.config.keep_probability
        spans = mask_spans(ids + self.config.vocab_offset, keep, self.config.sentinel_start)
        return {"input": spans.shown.float(), "target": spans.asked.float()}


@register_part("fourm", "budget")
class Budget(Procedure):
    """Proportions (B, M) and remainders (B, R, M), as logits, for inputs and targets -> their budgets (B, M)."""

    config: FourMConfig

    def forward(  # type: ignore[override]
        self, proportions: Tensor, remainder: Tensor, target_proportions: Tensor, target_remainder: Tensor
    ) -> dict[str, Tensor]:
        config, most = self.config, torch.tensor(self.config.max_tokens)
        drawn = [(3 * logits).softmax(-1) for logits in (proportions, target_proportions)]
        shown = share_out(drawn[0], remainder, config.input_tokens, most)
        room = room_for_targets(most, shown, torch.tensor(config.is_image))
        asked = share_out(drawn[1], target_remainder, config.target_tokens, room)
        return {"input_budget": shown.float(), "target_budget": asked.float()}


def swiglu_nobias(dim: int, heads: int, depth: int) -> FourMConfig:
    """As many blocks in the encoder as in the decoder. Modalities are to be added."""
    return FourMConfig(dim=dim, heads=heads, encoder_depth=depth, decoder_depth=depth)


VARIANTS = {
    "4m_tiny_6e_6d_swiglu_nobias": swiglu_nobias(384, 6, 6),
    "4m_small_8e_8d_swiglu_nobias": swiglu_nobias(512, 8, 8),
    "4m_base_12e_12d_swiglu_nobias": swiglu_nobias(768, 12, 12),
    "4m_large_24e_24d_swiglu_nobias": swiglu_nobias(1024, 16, 24),
}

REFERENCE_NAMES = [
    (r"^encoder_embeddings\.([^.]+)\.mod_emb$", r"embeddings.\1.kind"),
    (r"^encoder_embeddings\.([^.]+)\.(?:proj|token_emb)\.", r"embeddings.\1.content."),
    (r"^decoder_embeddings\.([^.]+)\.to_logits\.", r"targets.\1.logits."),
    (r"^decoder_embeddings\.([^.]+)\.token_emb\.", r"targets.\1.token."),
    (r"^decoder_proj_context\.", "context."),
    (r"^register_tokens$", "registers"),
    (r"^(encoder|decoder)\.(\d+)\.norm1\.", r"\1.\2.token.norm."),
    (r"^(encoder|decoder)\.(\d+)\.norm2\.", r"\1.\2.channel.norm."),
    (r"^(encoder|decoder)\.(\d+)\.mlp\.", r"\1.\2.channel.inner."),
    (r"^(encoder|decoder)\.(\d+)\.(?:self_)?attn\.", r"\1.\2.token.inner."),
    (r"^decoder\.(\d+)\.query_norm\.", r"decoder.\1.cross.norm."),
    (r"^decoder\.(\d+)\.context_norm\.", r"decoder.\1.memory_norm."),
    (r"^decoder\.(\d+)\.cross_attn\.", r"decoder.\1.cross.inner."),
    (r"\.cross\.inner\.q\.", ".cross.inner.query."),
    (r"\.cross\.inner\.kv\.", ".cross.inner.key_value."),
    (r"\.inner\.q_norm\.", ".inner.query_norm."),
    (r"\.inner\.k_norm\.", ".inner.key_norm."),
    (r"^", "network."),
]

REFERENCE_IGNORED = [r"\.pos_emb$", r"^decoder_embeddings\.[^.]+\.mod_emb$"]


def convert_reference(state: dict[str, Tensor], model: Procedure) -> dict[str, Tensor]:
    """Joins the two layers of a gate. Leaves out what is there twice, zero, or never used."""
    assert isinstance(model.config, FourMConfig)
    config, spare = model.config, set[str]()
    for kind in config.kinds:
        owner = f"decoder_embeddings.{kind.name}"
        if config.share_embedding and f"{owner}.token_emb.weight" in state:
            state = state | {f"{owner}.to_logits.weight": state[f"{owner}.token_emb.weight"]}
        if config.share_embedding or kind.type == "tokens":
            spare.add(f"{owner}.token_emb.weight")
    if not config.bias:
        spare |= {name for name in state if name.endswith(("norm.bias", "norm1.bias", "norm2.bias"))}
    return join_layers({name: state[name] for name in state if name not in spare}, ("fc1", "fc3"), "fc1")
