"""IA-RED^2: a ViT that drops the tokens which its interpreters find redundant, and how these learn what is.

"IA-RED^2: Interpretability-Aware Redundancy Reduction for Vision Transformers" (arXiv 2106.12620).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier
from ommatid.models.config import Config, require, require_divisible, require_positive
from ommatid.models.model import Model
from ommatid.models.names import BLOCK_NAMES
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register, register_part
from ommatid.models.sizes import require_patches, whole_patches
from ommatid.nn.block import Block
from ommatid.nn.embed import PatchEmbed
from ommatid.nn.feedforward import MLP
from ommatid.nn.init import init_linear_
from ommatid.nn.mixers import Attention
from ommatid.nn.norm import LayerNorm
from ommatid.nn.residual import stochastic_depth
from ommatid.nn.tokens import TokenSequence
from ommatid.nn.trunks.interpreted import InterpretedTrunk, Interpreter


def reward(policy: Tensor, logits: Tensor, label: Tensor, *, error_penalty: float) -> Tensor:
    """What a policy earned: 1 - (share of kept tokens)^2 where the answer is right, minus the penalty elsewhere.

    Args:
        policy: (B, N), 1 for kept and 0 for dropped tokens. logits: (B, K). label: (B,).
    """
    right = logits.argmax(-1) == label
    return torch.where(right, 1 - policy.float().mean(-1).square(), -error_penalty)


def policy_gradient_loss(
    probability: Tensor, sampled: Tensor, advantage: Tensor, *, bound: float = 1.0
) -> Tensor:  # fmt: skip
    """Minus the log-likelihood of the sampled policies, weighted by how much better than the greedy ones they were.

    Args:
        probability: (B, N), of keeping each token.
        sampled: (B, N), the policy that was drawn.
        advantage: (B,), its reward less that of keeping what is likelier than not. Without gradient.
        bound: a; probabilities are kept between 1 - a and a, as a p + (1 - a)(1 - p).
    """
    bounded = bound * probability + (1 - bound) * (1 - probability)
    likelihood = torch.where(sampled.bool(), bounded, 1 - bounded).log().sum(-1)
    return -(advantage.detach() * likelihood).mean()


@dataclass(frozen=True, kw_only=True)
class IARed2Config(Config):
    """`trained_groups` interpreters are asked; None stands for all. The functions "reward" and "policy_gradient" read
    `error_penalty` and `bound` only, "interpreter" reads `dim` and `interpreter_heads`."""

    function: Literal["vit", "interpreter", "reward", "policy_gradient"] = "vit"
    image_size: int | tuple[int, int] = 224
    patch_size: int = 16
    dim: int = 384
    heads: int = 6
    interpreter_heads: int = 6
    groups: tuple[int, ...] = (4, 4, 4)
    mlp_ratio: float = 4.0
    trained_groups: int | None = None
    error_penalty: float = 3.0
    bound: float = 1.0

    def check(self) -> None:
        require_positive(groups=self.groups)
        require_patches(self.image_size, self.patch_size)
        require_divisible(self.dim, self.interpreter_heads, "interpreter_heads")
        if self.function == "vit":
            require_divisible(self.dim, self.heads)
            known = 0 <= self.asked <= len(self.groups)
            require(known, "trained_groups", self.trained_groups, f"from 0 to {len(self.groups)}")
        require(0 <= self.bound <= 1, "bound", self.bound, "from 0 to 1")

    @property
    def asked(self) -> int:
        return len(self.groups) if self.trained_groups is None else self.trained_groups

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of whole patches."""
        return whole_patches(self.image_size, self.patch_size)


@register("ia_red2", IARed2Config)
class IARed2ViT(Backbone):
    """DeiT with an interpreter before each group of blocks. Takes any image of at least one patch.

    Its map is zero where tokens were dropped.
    """

    config: IARed2Config
    no_decay = ("position", "class_token.token")

    def __init__(self, config: IARed2Config) -> None:
        super().__init__(config)
        self.channels, self.strides = (config.dim,), (config.patch_size,)
        (rates,) = stochastic_depth(config.drop_path_rate, [sum(config.groups)])
        self.stem = PatchEmbed(config.in_channels, config.dim, config.patch_size)
        self.sequence = TokenSequence(config.grid, config.dim)
        blocks = [
            Block(
                config.dim,
                Attention(config.dim, config.heads),
                MLP(config.dim, int(config.dim * config.mlp_ratio)),
                norm=LayerNorm,
                drop_path=rate,
            )
            for rate in rates
        ]
        self.trunk = InterpretedTrunk(
            blocks, config.groups, config.dim, config.interpreter_heads, trained_groups=config.asked
        )
        self.norm = LayerNorm(config.dim)
        self.head = classifier(config.dim, config.num_classes)
        self.apply(init_linear_)

    def embed(self, image: Tensor) -> Tensor:
        return self.norm(self.trunk.first(self._sequence(image), self._grid(image)))

    def tokens(self, image: Tensor) -> Tensor:
        return self.trunk(self._sequence(image), self._grid(image))

    def maps(self, image: Tensor) -> list[Tensor]:
        return [self.tokens(image)[:, 1:].unflatten(1, self._grid(image))]

    def _sequence(self, image: Tensor) -> Tensor:
        return self.sequence(self.stem(channels_last(image)))

    def _grid(self, image: Tensor) -> tuple[int, int]:
        return whole_patches((image.shape[-2], image.shape[-1]), self.config.patch_size)


@register_part("ia_red2", "interpreter")
class InterpreterAlone(Model):
    """x (B, N, C) and kept (B, N), above 0 for kept tokens -> probability (B, N). The first token is always kept."""

    config: IARed2Config

    def __init__(self, config: IARed2Config) -> None:
        super().__init__(config)
        self.interpreter = Interpreter(config.dim, config.interpreter_heads)

    def forward(self, x: Tensor, kept: Tensor) -> dict[str, Tensor]:
        policy = torch.cat([torch.ones_like(kept[:, :1]), (kept[:, 1:] > 0).to(kept.dtype)], dim=1)
        return {"probability": self.interpreter(x, policy)}


@register_part("ia_red2", "reward")
class Reward(Procedure):
    """policy (B, N), logits (B, K), label (B) -> reward (B)."""

    config: IARed2Config

    def forward(self, policy: Tensor, logits: Tensor, label: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"reward": reward(policy, logits, label, error_penalty=self.config.error_penalty)}


@register_part("ia_red2", "policy_gradient")
class PolicyGradient(Procedure):
    """probability, of which the mean with 1 is taken, and sampled (B, N); logits of both policies (B, K); label (B)."""

    config: IARed2Config

    def forward(  # type: ignore[override]
        self, probability: Tensor, sampled: Tensor, logits: Tensor, greedy_logits: Tensor, label: Tensor
    ) -> dict[str, Tensor]:
        config, p = self.config, (probability + 1) / 2
        earned, expected = (
            reward(policy, answer, label, error_penalty=config.error_penalty)
            for policy, answer in ((sampled, logits), (p > 0.5, greedy_logits))
        )
        loss = policy_gradient_loss(p, sampled, earned - expected, bound=config.bound)
        return {"loss": loss[None], "advantage": earned - expected}


def reference_outputs(model: nn.Module, **inputs: Tensor) -> dict[str, Tensor]:
    """What each interpreter said and what was kept, the tokens, the logits and the share of the work."""
    if not isinstance(model, IARed2ViT):
        return {}
    noise = (inputs["noise"] + 1) / 2 if "noise" in inputs else None
    shown = model.trunk.interpreted(model._sequence(inputs["image"]), noise)
    outputs = {f"probability{group}": value for group, value in enumerate(shown.probabilities)}
    outputs |= {f"policy{group}": value for group, value in enumerate(shown.policies)}
    sizes = model.config.groups
    saved = [(1 - kept.mean(1)) * size / sum(sizes) for kept, size in zip(shown.policies, sizes, strict=True)]
    cost = 1 - torch.stack(saved).sum(0)
    logits = model.head(model.norm(shown.tokens[:, 0]))
    return outputs | {"tokens": shown.tokens, "logits": logits, "cost": cost}


VARIANTS = {
    "ia_red2_deit_s": IARed2Config(dim=384, heads=6),
    "ia_red2_deit_b": IARed2Config(dim=768, heads=12),
}

REFERENCE_NAMES = [
    (r"^cls_token$", "sequence.class_token.token"),
    (r"^pos_embed$", "sequence.position"),
    (r"^patch_embed\.", "stem."),
    (r"^groups\.(\d+)\.agent\.", r"trunk.interpreters.\1."),
    (r"^qk\.", "interpreter.qk."),
    *BLOCK_NAMES,
]


def convert_reference(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Numbers the blocks through all groups."""
    if not isinstance(model, IARed2ViT):
        return state
    first = [sum(model.config.groups[:group]) for group in range(len(model.config.groups))]

    def numbered(name: str) -> str:
        parts = name.split(".")
        if parts[0] != "groups" or parts[2] != "block_list":
            return name
        return ".".join(["trunk.blocks", str(first[int(parts[1])] + int(parts[3])), *parts[4:]])

    return {numbered(name): value for name, value in state.items()}
