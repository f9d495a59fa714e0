"""OneFormer: one set of weights for semantic, instance and panoptic segmentation, told which by a sentence.

"OneFormer: One Transformer to Rule Universal Image Segmentation" (arXiv 2211.06220). The pixel decoder is that of
Mask2Former.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ommatid.models.backbone import channels_last
from ommatid.models.config import PartConfig, require, require_divisible, require_positive
from ommatid.models.decoders.masked_attention import MaskedAttentionDecoder, Prediction, perceptron
from ommatid.models.decoders.pem import numbered_predictions
from ommatid.models.decoders.task_queries import TaskQueries, with_task
from ommatid.models.decoders.text_contrast import HEAD_DIM, TextEncoder, set_contrast
from ommatid.models.model import Model
from ommatid.models.names import MASK_QUERY_NAMES, MASKED_ATTENTION_NAMES
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register, register_part


@dataclass(frozen=True, kw_only=True)
class OneFormerConfig(PartConfig):
    """`part` "decoder" reads the fields up to `num_classes`, "text_contrastive" reads `dim` and those that follow.

    `queries` counts that of the task, which is the last. `class_*` are of the transformer that queries begin with,
    `text_*` of the one that texts are read by; `n_ctx` texts are learned vectors. `temperature` is the initial one.
    """

    part: Literal["decoder", "text_contrastive"] = "decoder"
    in_dim: int = 256
    mask_dim: int = 256
    dim: int = 256
    heads: int = 8
    queries: int = 150
    ffn_dim: int = 2048
    decoder_layers: int = 9
    class_decoder_layers: int = 2
    class_encoder_layers: int = 0
    pre_norm: bool = False
    use_task_norm: bool = True
    enforce_input_proj: bool = False
    task_seq_len: int = 77
    num_classes: int = 150
    context_length: int = 77
    text_width: int = 256
    text_layers: int = 12
    vocab_size: int = 49408
    proj_layers: int = 2
    n_ctx: int = 16
    temperature: float = 0.07

    def check(self) -> None:
        require_positive(dim=self.dim)
        if self.part == "decoder":
            self.check_decoder()
        else:
            self.check_texts()

    def check_decoder(self) -> None:
        require_positive(
            in_dim=self.in_dim, ffn_dim=self.ffn_dim, task_seq_len=self.task_seq_len, num_classes=self.num_classes
        )
        require(self.dim % 2 == 0, "dim", self.dim, "an even number, for positions")
        require_divisible(self.dim, self.heads)
        require(self.mask_dim == self.in_dim, "mask_dim", self.mask_dim, f"in_dim ({self.in_dim})")
        require(self.queries >= 2, "queries", self.queries, "2 (one, and the task's) or more")
        for name in ("decoder_layers", "class_decoder_layers", "class_encoder_layers"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")

    def check_texts(self) -> None:
        require_positive(
            context_length=self.context_length,
            vocab_size=self.vocab_size,
            proj_layers=self.proj_layers,
            temperature=self.temperature,
        )
        whole = self.text_width > 0 and self.text_width % HEAD_DIM == 0
        require(whole, "text_width", self.text_width, f"a multiple of {HEAD_DIM}, the width of a head")
        require(self.text_layers >= 0, "text_layers", self.text_layers, "0 or more")
        require(self.n_ctx >= 0, "n_ctx", self.n_ctx, "0 or more")
        fits = self.n_ctx == 0 or self.text_width == self.dim
        require(fits, "text_width", self.text_width, f"dim ({self.dim}), as learned vectors stand beside texts")


@register("oneformer", OneFormerConfig)
class OneFormerDecoder(Model):
    """Maps of stride 32, 16 and 8, (B, C_in, H_i, W_i), mask features of stride 4, (B, C_in, H, W), and the task.

    task_tokens (B, L) are the integers of a tokenised sentence, padded by zeros. Gives logits (B, Q, K + 1), the last
    for "no object", and masks (B, Q, H, W), raw logits; logits_{i} and masks_{i} are those before layer i. queries
    (B, Q, C) are what the decoder began with: they are what texts are held against.
    """

    config: OneFormerConfig
    no_decay = ("level", "position")

    def __init__(self, config: OneFormerConfig) -> None:
        super().__init__(config)
        self.task = perceptron(config.task_seq_len, config.dim, config.dim)
        self.start = TaskQueries(
            config.mask_dim,
            config.dim,
            heads=config.heads,
            mlp_dim=config.ffn_dim,
            encoder_layers=config.class_encoder_layers,
            depth=config.class_decoder_layers,
            pre_norm=config.pre_norm,
        )
        self.queries = MaskedAttentionDecoder(
            config.in_dim,
            config.dim,
            config.mask_dim,
            config.num_classes,
            num_queries=config.queries,
            depth=config.decoder_layers,
            heads=config.heads,
            mlp_dim=config.ffn_dim,
            pre_norm=config.pre_norm,
            project=config.enforce_input_proj,
            content=False,
        )

    def forward(
        self, x0: Tensor, x1: Tensor, x2: Tensor, mask_features: Tensor, task_tokens: Tensor
    ) -> dict[str, Tensor]:
        length = self.config.task_seq_len
        require(task_tokens.shape[1] == length, "length of task_tokens", task_tokens.shape[1], f"{length}")
        memories, cells = [channels_last(level) for level in (x0, x1, x2)], channels_last(mask_features)
        queries = self.first_queries(cells, task_tokens)
        predictions: list[Prediction] = self.queries.decode(queries, cells, memories)
        return numbered_predictions(predictions) | {"queries": queries}

    def first_queries(self, mask_features: Tensor, task_tokens: Tensor) -> Tensor:
        """(B, H, W, C_in) and (B, L) -> (B, Q, C); as published, integers are read as they are."""
        task = self.task(task_tokens.to(mask_features.dtype))
        if self.config.use_task_norm:
            task = self.queries.heads.norm(task)
        alike = task[:, None].expand(-1, self.config.queries - 1, -1)
        content = alike if self.config.use_task_norm else torch.zeros_like(alike)
        return with_task(self.start(content, self.queries.position[:-1], mask_features), task)


@register_part("oneformer", "text_contrastive")
class OneFormerTexts(Procedure):
    """text (B, T, L) of integers, and queries (B, T + n_ctx, C) -> texts (B, T + n_ctx, C), and loss (1,)."""

    config: OneFormerConfig
    no_decay = ("position", "learned", "log_scale", "words.weight")

    def __init__(self, config: OneFormerConfig) -> None:
        super().__init__(config)
        self.encoder = TextEncoder(config.vocab_size, config.context_length, config.text_width, config.text_layers)
        self.project = perceptron(config.text_width, *[config.dim] * config.proj_layers)
        self.learned = nn.Parameter(torch.randn(config.n_ctx, config.text_width)) if config.n_ctx else None
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / config.temperature)))

    def forward(self, text: Tensor, queries: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        texts = self.project(self.encoder(text))
        if self.learned is not None:
            texts = torch.cat([texts, self.learned.expand(len(texts), -1, -1)], dim=1)
        return {"texts": texts, "loss": set_contrast(queries, texts, self.log_scale.exp())[None]}


_ADE20K = OneFormerConfig()

VARIANTS = {
    "oneformer_decoder_ade20k": _ADE20K,
    "oneformer_decoder_large_ade20k": _ADE20K.replace(queries=250),
    "oneformer_decoder_coco": _ADE20K.replace(num_classes=133),
    "oneformer_texts": OneFormerConfig(part="text_contrastive", text_layers=6),
}

_START = r"^predictor\.class_transformer\."


def _mlp(place: str) -> str:
    return f"{2 * int(place)}."


REFERENCE_NAMES = [
    (r"^task_mlp\.layers\.(\d)\.", lambda match: f"task.{_mlp(match[1])}"),
    (_START + r"encoder\.norm\.", "start.encoder_norm."),
    (_START + r"encoder\.layers\.", "start.encoder."),
    (_START + r"decoder\.norm\.", "start.norm."),
    (_START + r"decoder\.layers\.", "start.decoder."),
    (r"^(start\.encoder\..*)norm2\.", r"\1mlp.norm."),
    (r"^(start\..*)norm1\.", r"\1attention.norm."),
    (r"^(start\..*)norm2\.", r"\1cross.norm."),
    (r"^(start\..*)norm3\.", r"\1mlp.norm."),
    (r"^(start\..*)self_attn\.", r"\1attention.inner.inner.attention."),
    (r"^(start\..*)multihead_attn\.", r"\1cross.inner.inner.attention."),
    (r"^(start\..*)linear(\d)\.", r"\1mlp.inner.inner.fc\2."),
    (r"^predictor\.class_input_proj\.", "start.project."),
    *MASKED_ATTENTION_NAMES,
    *MASK_QUERY_NAMES,
    (r"^text_encoder\.token_embedding\.", "encoder.words."),
    (r"^text_encoder\.positional_embedding$", "encoder.position"),
    (r"^text_encoder\.ln_final\.", "encoder.norm."),
    (r"^text_encoder\.transformer\.resblocks\.", "encoder.blocks."),
    (r"^(encoder\..*)attn\.in_proj_", r"\1token.inner.qkv."),
    (r"^(encoder\..*)attn\.out_proj\.", r"\1token.inner.proj."),
    (r"^(encoder\..*)ln_1\.", r"\1token.norm."),
    (r"^(encoder\..*)ln_2\.", r"\1channel.norm."),
    (r"^(encoder\..*)mlp\.c_fc\.", r"\1channel.inner.fc1."),
    (r"^(encoder\..*)mlp\.c_proj\.", r"\1channel.inner.fc2."),
    (r"^text_projector\.layers\.(\d)\.", lambda match: f"project.{_mlp(match[1])}"),
    (r"^prompt_ctx\.weight$", "learned"),
    (r"^criterion\.logit_scale$", "log_scale"),
    (r"\.in_proj_(weight|bias)$", r".qkv.\1"),
    (r"\.out_proj\.", ".proj."),
]
