"""FIT: tokens in groups, and a few latents of each group that carry what is known across groups.

"FIT: Far-reaching Interleaved Transformers" (arXiv 2305.12689). Here are the encoder and the model of next tokens; the
denoiser of diffusion is in models/generation/fit_denoiser.py. Tokens come in groups: (B, t, n, ...).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ommatid.models.config import require
from ommatid.models.model import Model
from ommatid.models.modules.fit_body import FITBody, FITConfig, init_xavier_uniform_
from ommatid.models.procedure import Procedure
from ommatid.models.reference import from_flax, join_layers, rename
from ommatid.models.registry import register, register_part
from ommatid.nn.interleaved import Allowed, of_group_before
from ommatid.nn.norm import LayerNorm


def require_groups(config: FITConfig, tokens: Tensor) -> None:
    """Raises ValueError for tokens (B, t, n, ...) in other groups than the config says."""
    groups, allowed = tuple(tokens.shape[1:3]), (config.groups, config.group_size)
    require(groups == allowed, "groups and tokens of each", groups, f"{allowed}, fixed by groups and tokens")


@register("fit", FITConfig)
class FIT(Model):
    """tokens (B, t, n, c), and extra (B, t, k, c') -> tokens (B, t, k + n, D) and latents (B, t, m, E).

    What to read off is the latents where the last segment has global layers, else the tokens. The model takes `extra`
    where it has `extra_channels`.
    """

    config: FITConfig
    no_decay = ("table",)

    def __init__(self, config: FITConfig) -> None:
        super().__init__(config)
        self.stem = nn.Sequential(nn.Linear(config.in_channels, config.dim), LayerNorm(config.dim))
        extra = config.extra_channels
        self.extra_stem = nn.Sequential(nn.Linear(extra, config.dim), LayerNorm(config.dim)) if extra else None
        mask = Allowed(config.groups, config.latents_per_group) if config.causal else None
        self.body = FITBody(config, latent_mask=mask)
        self.latent_norm = LayerNorm(config.latent_dim)
        self.apply(init_xavier_uniform_)

    def forward(self, tokens: Tensor, extra: Tensor | None = None) -> dict[str, Tensor]:
        require_groups(self.config, tokens)
        front = None
        if extra is not None:
            takes = self.extra_stem is not None
            require(takes, "extra", tuple(extra.shape), "none, for a config without extra_channels")
            assert self.extra_stem is not None
            front = self.extra_stem(extra)
        x, latents = self.body(self.stem(tokens), front=front)
        return {"tokens": x, "latents": self.latent_norm(latents)}


@register_part("fit", "autoregressive")
class FITAutoregressive(Model):
    """token_ids (B, t, n) -> logits (B, t, n, vocabulary), each of the token behind what it has seen.

    A token sees those before it in its group, and what latents know of the groups before. There is no start token:
    shift the targets.
    """

    config: FITConfig
    no_decay = ("table", "embedding", "unembedding")

    def __init__(self, config: FITConfig) -> None:
        super().__init__(config)
        shape = (config.vocabulary, config.dim)
        self.embedding = nn.Parameter(torch.empty(shape))
        self.unembedding = None if config.shared_embedding else nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.zeros(config.vocabulary)) if config.output_bias else None
        self.body = FITBody(
            config,
            token_mask=Allowed(config.group_size, 1),
            latent_mask=Allowed(config.groups, config.latents_per_group),
            delivered=of_group_before,
        )
        self.apply(init_xavier_uniform_)
        for table in (self.embedding, self.unembedding):
            if table is not None:
                nn.init.trunc_normal_(table, std=0.02)

    def forward(self, token_ids: Tensor) -> dict[str, Tensor]:
        require_groups(self.config, token_ids)
        x, _ = self.body(F.embedding(token_ids, self.embedding))
        unembedding = self.embedding if self.unembedding is None else self.unembedding
        return {"logits": F.linear(x, unembedding, self.bias)}

    def idle_parameters(self) -> set[str]:
        """Of the last segment what ends in latents, which no token reads; all latents where there is no other."""
        last = len(self.body.segments) - 1
        unread = [f"body.segments.{last}.{part}." for part in ("read", "across")]
        unread += ["body.latents."] if last == 0 else []
        return {name for name, _ in self.named_parameters() if name.startswith(tuple(unread))}


def grouped_patches(image: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """An image (B, C, H, W) as patches of sub-images: (B, groups, n, patch_size^2 C), all row by row.

    Args:
        image: of sides that whole patches fill in every sub-image.
        grid: rows and columns of sub-images.
        patch_size: side of a patch, whose numbers are listed by row, column and channel.

    Raises:
        ValueError: the sides do not divide so.
    """
    size = tuple(image.shape[-2:])
    steps = tuple(count * patch_size for count in grid)
    whole = all(side % step == 0 for side, step in zip(size, steps, strict=True))
    require(whole, "image size", size, f"multiples of {steps}, for whole patches in {grid} sub-images")
    rows = image.permute(0, 2, 3, 1).unflatten(1, (grid[0], -1, patch_size))
    cells = rows.unflatten(4, (grid[1], -1, patch_size)).permute(0, 1, 4, 2, 5, 3, 6, 7)
    return cells.flatten(5).flatten(3, 4).flatten(1, 2)


def reference_outputs(model: Model, **inputs: Tensor) -> dict[str, Tensor]:
    """`tokens` is an answer of the encoder like any other."""
    return model(**inputs)


KERAS_NAMES = [
    (r"^x_pos_emb$", "body.position.table"),
    (r"^latent_pos_emb$", "body.latents.table"),
    (r"^(?:inp_)?token_embedding$", "embedding"),
    (r"^outp_token_embedding$", "unembedding"),
    (r"^outp_bias$", "bias"),
    (r"^stem\.", "stem.0."),
    (r"^stem_ln\.", "stem.1."),
    (r"^stem_y\.", "extra_stem.0."),
    (r"^stem_y_ln\.", "extra_stem.1."),
    (r"^time_emb\.dense0\.", "time.0."),
    (r"^time_emb\.dense1\.", "time.2."),
    (r"^cond_proj\.", "condition."),
    (r"^latent_prev_proj\.ln\.", "remember.0.norm."),
    (r"^latent_prev_proj\.dense(\d)\.", r"remember.0.inner.fc\1."),
    (r"^latent_prev_ln\.", "remember.1."),
    (r"^x_output_linear\.", "head."),
    (r"^x_output_ln\.", "body.norm."),
    (r"^l_output_ln\.", "latent_norm."),
    (r"^x_network\.(\d+)\.", r"body.segments.\1.local."),
    (r"^l_network\.(\d+)\.", r"body.segments.\1.across."),
    (r"^l2x_cross_attn\.(\d+)\.", r"body.segments.\1.read."),
    (r"^l2c_cross_attn\.(\d+)\.", r"body.segments.\1.context."),
    (r"^x2l_cross_attn\.(\d+)\.", r"body.segments.\1.write."),
    (r"\.cross_ln\.", ".norm."),
    (r"\.enc_ln\.", ".norm_read."),
    (r"\.cross_mha\.", ".attn."),
    (r"\.mha_ln\.", ".token.norm."),
    (r"\.mha\.", ".token.inner."),
    (r"\.attention_output\.", ".proj."),
    (r"\.mlp\.ln\.", ".channel.norm."),
    (r"\.mlp\.dense(\d)\.", r".channel.inner.fc\1."),
    (r"\.gamma$", ".weight"),
    (r"\.beta$", ".bias"),
]


def convert_reference(state: dict[str, Tensor], model: Model) -> dict[str, Tensor]:
    """Keras' kernels, those of attention with an axis for heads, and queries, keys and values as one layer."""
    state = from_flax({name: _without_heads(name, value) for name, value in state.items()})
    state = join_layers(state, ("mha.query", "mha.key", "mha.value"), "mha.qkv")
    owner = "network." if isinstance(model, Procedure) else ""
    return {owner + rename(name, KERAS_NAMES): value for name, value in state.items()}


def _without_heads(name: str, value: Tensor) -> Tensor:
    if "attention_output" in name:
        return value.flatten(0, -2) if value.dim() == 3 else value
    if value.dim() == 3:
        return value.flatten(1)
    return value.flatten() if name.endswith("bias") else value
