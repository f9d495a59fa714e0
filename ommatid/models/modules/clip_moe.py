"""CLIP-MoE: the two encoders of CLIP with experts for MLPs.

"CLIP-MoE: Towards Building Mixture of Experts for CLIP with Diversified Multiplet Upcycling" (arXiv 2409.19291), on
CLIP (arXiv 2103.00020) with the longer texts of Long-CLIP (arXiv 2403.15378). How dense encoders become these:
methods/multiplet_upcycling.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ommatid.models.backbone import channels_last
from ommatid.models.config import PartConfig, require, require_divisible, require_positive
from ommatid.models.model import Model
from ommatid.models.reference import stack_experts
from ommatid.models.registry import register, register_part
from ommatid.models.sizes import require_exactly, require_patches
from ommatid.nn.activation import QuickGELU
from ommatid.nn.block import Block
from ommatid.nn.causal_attention import CausalAttention
from ommatid.nn.embed import PatchEmbed
from ommatid.nn.feedforward import MLP
from ommatid.nn.mixers import Attention
from ommatid.nn.moe import MoE, Routing, StackedMLP, TopKRouter, any_choice_balance, recorded_routings
from ommatid.nn.moe.balance import share_balance

TEXT_LENGTH, KEPT_POSITIONS, TEXT_HEAD_DIM = 248, 20, 64


@dataclass(frozen=True, kw_only=True)
class CLIPMoEConfig(PartConfig):
    """`function` says which part or step is meant, and which of the other fields it reads.

    moe_layers: how many blocks have experts, the last ones. expert_dropout: inside an expert, in training. length: of
    the texts in reference cases.
    """

    function: Literal["block", "vision", "text", "upcycle", "loss", "pseudo_labels"] = "vision"
    image_size: int = 224
    patch_size: int = 14
    dim: int = 1024
    depth: int = 24
    heads: int = 16
    embed_dim: int = 768
    num_experts: int = 4
    top_k: int = 2
    moe_layers: int = 24
    expert_dropout: float = 0.1
    vocab_size: int = 49408
    length: int = TEXT_LENGTH
    clusters_per_modality: int = 3
    log_scale: float = 4.6052

    def check(self) -> None:
        require_positive(dim=self.dim, depth=self.depth, embed_dim=self.embed_dim, vocab_size=self.vocab_size)
        require_positive(clusters_per_modality=self.clusters_per_modality, num_experts=self.num_experts)
        if self.function != "text":
            require_divisible(self.dim, self.heads)
        require_patches(self.image_size, self.patch_size)
        possible = 1 <= self.top_k <= self.num_experts
        require(possible, "top_k", self.top_k, f"from 1 to the number of experts ({self.num_experts})")
        require(self.moe_layers >= 0, "moe_layers", self.moe_layers, "0 (dense) or more")
        require(0 <= self.expert_dropout < 1, "expert_dropout", self.expert_dropout, "from 0 up to, not including, 1")
        require(0 < self.length <= TEXT_LENGTH, "length", self.length, f"from 1 to {TEXT_LENGTH}")

    @property
    def text_heads(self) -> int:
        return max(1, self.dim // TEXT_HEAD_DIM)

    @property
    def patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2


@register("clip_moe", CLIPMoEConfig)
class CLIPVision(Model):
    """image (B, 3, H, W) -> features (B, embed_dim), not normalised."""

    config: CLIPMoEConfig
    no_decay = ("class_token", "position")

    def __init__(self, config: CLIPMoEConfig) -> None:
        super().__init__(config)
        self.stem = PatchEmbed(3, config.dim, config.patch_size, bias=False)
        self.class_token = nn.Parameter(torch.empty(config.dim).normal_(std=config.dim**-0.5))
        self.position = nn.Parameter(torch.empty(config.patches + 1, config.dim).normal_(std=config.dim**-0.5))
        self.first_norm = nn.LayerNorm(config.dim)
        self.blocks = nn.Sequential(*encoder_blocks(config, config.heads, causal=False))
        self.last_norm = nn.LayerNorm(config.dim)
        self.proj = nn.Parameter(torch.empty(config.dim, config.embed_dim).normal_(std=config.dim**-0.5))

    def forward(self, image: Tensor) -> Tensor:
        return self.last_norm(self.tokens(image)[:, 0]) @ self.proj

    def tokens(self, image: Tensor) -> Tensor:
        """(B, 1 + N, D) after the last block."""
        require_exactly(image, self.config.image_size)
        patches = self.stem(channels_last(image)).flatten(1, 2)
        tokens = torch.cat([self.class_token.expand(image.shape[0], 1, -1), patches], dim=1)
        return self.blocks(self.first_norm(tokens + self.position))


@register_part("clip_moe", "text")
class CLIPText(Model):
    """ids (B, L) of up to 248 words and signs -> features (B, embed_dim), not normalised.

    The largest id marks the end of a text; nothing behind it is read.
    """

    config: CLIPMoEConfig
    no_decay = ("position", "longer_position", "words.weight")

    def __init__(self, config: CLIPMoEConfig) -> None:
        super().__init__(config)
        self.words = nn.Embedding(config.vocab_size, config.dim)
        nn.init.normal_(self.words.weight, std=0.02)
        self.position = nn.Parameter(torch.empty(TEXT_LENGTH, config.dim).normal_(std=0.01))
        self.longer_position = nn.Parameter(torch.empty(TEXT_LENGTH, config.dim).normal_(std=0.01))
        self.blocks = nn.Sequential(*encoder_blocks(config, config.text_heads, causal=True))
        self.last_norm = nn.LayerNorm(config.dim)
        self.proj = nn.Parameter(torch.empty(config.dim, config.embed_dim).normal_(std=config.dim**-0.5))

    def forward(self, ids: Tensor) -> Tensor:
        length = ids.shape[1]
        require(length <= TEXT_LENGTH, "length of the texts", length, f"up to {TEXT_LENGTH}")
        position = torch.cat([self.position[:KEPT_POSITIONS], self.longer_position[KEPT_POSITIONS:]])[:length]
        tokens = self.blocks(self.words(ids) + position)
        ends = ids.argmax(1)
        return self.last_norm(tokens[torch.arange(ids.shape[0], device=ids.device), ends]) @ self.proj


@register_part("clip_moe", "block")
class CLIPBlock(Model):
    """One block with experts: tokens (B, N, D) -> features (B, N, D)."""

    config: CLIPMoEConfig

    def __init__(self, config: CLIPMoEConfig) -> None:
        super().__init__(config)
        self.block = Block(config.dim, Attention(config.dim, config.heads), mixture(config))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.block(tokens)


def encoder_blocks(config: CLIPMoEConfig, heads: int, *, causal: bool) -> list[Block]:
    """Blocks of which the last `moe_layers` have experts."""
    attention, dim = CausalAttention if causal else Attention, config.dim
    dense = max(config.depth - config.moe_layers, 0)
    return [
        Block(dim, attention(dim, heads), MLP(dim, 4 * dim, act=QuickGELU()) if index < dense else mixture(config))
        for index in range(config.depth)
    ]


def mixture(config: CLIPMoEConfig) -> MoE:
    router = TopKRouter(
        nn.Linear(config.dim, config.num_experts, bias=False),
        config.num_experts,
        config.top_k,
        normalize=True,
        balance=any_choice_balance,
    )
    act = nn.Sequential(QuickGELU(), nn.Dropout(config.expert_dropout))
    return MoE(router, StackedMLP(config.num_experts, config.dim, 4 * config.dim, act=act))


def stacked_balance(routings: list[Routing]) -> Tensor:
    """The balance loss over the tokens of all layers together, of shape (); k where all experts are loaded alike."""
    scores = torch.cat([routing.scores for routing in routings])
    experts = torch.cat([routing.experts for routing in routings])
    return experts.shape[1] * share_balance(scores, experts)


def stretched_positions(table: Tensor) -> Tensor:
    """The position table (77, D) of CLIP's texts for 248: the first 20 stay, the others are spread fourfold.

    From Long-CLIP (arXiv 2403.15378). What lies past the last one goes on in its direction.
    """
    kept, spread = table[:KEPT_POSITIONS], table[KEPT_POSITIONS:]
    share = (torch.arange(4, device=table.device) / 4).view(1, 4, 1)
    between = spread[:-1, None] * (1 - share) + spread[1:, None] * share
    beyond = spread[-1] + share[0] * (spread[-1] - spread[-2])
    return torch.cat([kept, between.flatten(0, 1), beyond])


VARIANTS = {
    "clip_moe_vision_large_14": CLIPMoEConfig(),
    "clip_moe_text_large_14": CLIPMoEConfig(function="text", dim=768, depth=12, moe_layers=12),
}

REFERENCE_NAMES = [
    (r"(^|\.)conv1\.", r"\1stem.proj."),
    (r"(^|\.)class_embedding$", r"\1class_token"),
    (r"(^|\.)positional_embedding$", r"\1position"),
    (r"(^|\.)positional_embedding_res$", r"\1longer_position"),
    (r"(^|\.)text_projection$", r"\1proj"),
    (r"(^|\.)token_embedding\.", r"\1words."),
    (r"(^|\.)ln_pre\.", r"\1first_norm."),
    (r"(^|\.)ln_(?:post|final)\.", r"\1last_norm."),
    (r"(^|\.)transformer\.resblocks\.", r"\1blocks."),
    (r"(^|\.)attn\.in_proj_", r"\1token.inner.qkv."),
    (r"(^|\.)attn\.out_proj\.", r"\1token.inner.proj."),
    (r"(^|\.)ln_1\.", r"\1token.norm."),
    (r"(^|\.)ln_2\.", r"\1channel.norm."),
    (r"(^|\.)gate\.", r"\1channel.inner.router.logits."),
    (r"(^|\.)mlp\.", r"\1channel.inner."),
    (r"(^|\.)experts\.", r"\1channel.inner.experts."),
    (r"\.c_fc\.", ".fc1."),
    (r"\.c_proj\.", ".fc2."),
]


def convert_reference(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Stacks the experts; the names of a single block begin where those of an encoder end."""
    prefix = "block." if isinstance(model, CLIPBlock) else ""
    return {prefix + name: value for name, value in stack_experts(state).items()}


def reference_outputs(model: nn.Module, **inputs: Tensor) -> dict[str, Tensor]:
    """What the routers of a block or an encoder thought of its tokens, beside its features."""
    if not isinstance(model, CLIPVision | CLIPText | CLIPBlock):
        return {}
    if isinstance(model, CLIPText):
        inputs = {"ids": ended_texts(inputs["ids"], model.config.vocab_size - 1)}
    return routed_outputs(model, **inputs)


def routed_outputs(model: nn.Module, **inputs: Tensor) -> dict[str, Tensor]:
    """features, tokens of a vision encoder, balance_loss (1,), and router_logits by layer, (..., E, N B)."""
    with recorded_logits(model) as logits, recorded_routings(model) as routings:
        outputs = {"features": model(**inputs)}
    if isinstance(model, CLIPVision):
        outputs["tokens"] = model.tokens(**inputs)
    if not routings:
        return outputs
    batch = len(next(iter(inputs.values())))
    by_layer = torch.stack([found.unflatten(0, (batch, -1)).permute(2, 1, 0).flatten(1) for found in logits])
    outputs["router_logits"] = by_layer[0] if isinstance(model, CLIPBlock) else by_layer
    return outputs | {"balance_loss": stacked_balance(routings).view(1)}


@contextmanager
def recorded_logits(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collects what every router of the model thinks of its tokens, (S, E), while the block runs."""
    logits: list[Tensor] = []
    routers = [module for module in model.modules() if isinstance(module, TopKRouter)]
    hooks = [
        router.logits.register_forward_hook(lambda _part, _inputs, found: logits.append(found)) for router in routers
    ]
    try:
        yield logits
    finally:
        for hook in hooks:
            hook.remove()


def ended_texts(ids: Tensor, end: int) -> Tensor:
    """The texts of a reference case (B, L) at full length, each ended three ids earlier than the one before it."""
    length = ids.shape[1]
    texts = F.pad(ids, (0, TEXT_LENGTH - length))
    place = torch.arange(TEXT_LENGTH, device=ids.device)
    last = (length - 1 - 3 * torch.arange(ids.shape[0], device=ids.device)).unsqueeze(1)
    return texts.masked_fill(place > last, 0).masked_fill(place == last, end)
