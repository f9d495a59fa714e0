"""DiT-MoE: a diffusion transformer whose MLPs are a shared expert and many routed ones.

"Scaling Diffusion Transformers to 16 Billion Parameters" (arXiv 2407.11633), on DiT (arXiv 2212.09748).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ommatid.models.backbone import channels_last
from ommatid.models.config import PartConfig, require, require_divisible, require_positive
from ommatid.models.model import Model
from ommatid.models.reference import join_layers, rename, stack_experts
from ommatid.models.registry import register
from ommatid.nn.embed import PatchEmbed
from ommatid.nn.feedforward import SwiGLU
from ommatid.nn.mixers import Attention
from ommatid.nn.moe import MoE, Routing, StackedSwiGLU, TopKRouter, any_choice_balance
from ommatid.nn.sine_position import grid_sinusoids

BALANCE_WEIGHT = 0.01
FREQUENCIES = 128


@dataclass(frozen=True, kw_only=True)
class DiTMoEConfig(PartConfig):
    """`function` "forward" is the network; "sample" and "cfg" are ways to use it, see methods/rectified_flow.py.

    image_size: side of the latent. num_classes: of labels; with a dropout of labels in training there is one more, "no
    label". learn_sigma: the answer has twice the channels. time_scale: of the times in reference cases. steps,
    guidance: of "sample" and "cfg".
    """

    function: Literal["forward", "sample", "cfg"] = "forward"
    image_size: int = 32
    patch_size: int = 2
    in_channels: int = 4
    dim: int = 384
    depth: int = 12
    heads: int = 6
    mlp_ratio: int = 4
    num_experts: int = 8
    top_k: int = 2
    class_dropout_prob: float = 0.1
    num_classes: int = 1000
    learn_sigma: bool = True
    time_scale: float = 1.0
    steps: int = 50
    guidance: float = 1.5

    def check(self) -> None:
        require_positive(depth=self.depth, mlp_ratio=self.mlp_ratio, num_classes=self.num_classes, steps=self.steps)
        require_positive(in_channels=self.in_channels, patch_size=self.patch_size, num_experts=self.num_experts)
        require_divisible(self.dim, self.heads)
        require(self.dim % 4 == 0, "dim", self.dim, "a multiple of 4, for the sinusoids of rows and columns")
        whole = self.image_size > 0 and self.image_size % self.patch_size == 0
        require(whole, "image_size", self.image_size, f"a multiple of patch_size ({self.patch_size})")
        possible = 1 <= self.top_k <= self.num_experts
        require(possible, "top_k", self.top_k, f"from 1 to the number of experts ({self.num_experts})")
        rate = self.class_dropout_prob
        require(0 <= rate < 1, "class_dropout_prob", rate, "from 0 up to, not including, 1")
        plain = self.function == "forward" or (self.function == "sample" and self.guidance == 1)
        require(plain or rate > 0, "class_dropout_prob", rate, "above 0 where guidance needs answers without a label")

    @property
    def out_channels(self) -> int:
        return self.in_channels * (2 if self.learn_sigma else 1)


@register("dit_moe", DiTMoEConfig)
class DiTMoE(Model):
    """latent (B, C, S, S), time (B,), label (B,) -> prediction (B, C', S, S): of noise, or of a velocity."""

    config: DiTMoEConfig
    no_decay = ("position",)

    def __init__(self, config: DiTMoEConfig) -> None:
        super().__init__(config)
        self.patches = PatchEmbed(config.in_channels, config.dim, config.patch_size)
        side = config.image_size // config.patch_size
        self.position = nn.Parameter(grid_sinusoids(side, side, config.dim).flatten(0, 1)[None], requires_grad=False)
        self.time = nn.Sequential(nn.Linear(2 * FREQUENCIES, config.dim), nn.SiLU(), nn.Linear(config.dim, config.dim))
        self.label = nn.Embedding(config.num_classes + bool(config.class_dropout_prob), config.dim)
        self.blocks = nn.ModuleList(DiTBlock(config) for _ in range(config.depth))
        self.modulation = nn.Linear(config.dim, 2 * config.dim)
        self.head = nn.Linear(config.dim, config.patch_size**2 * config.out_channels)
        self._init_weights()

    def forward(self, latent: Tensor, time: Tensor, label: Tensor) -> Tensor:
        return self._run(latent, time, label)[0]

    def with_auxiliary_loss(self, latent: Tensor, time: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """What `forward` gives, and the experts' balance loss with its weight, the sum over blocks."""
        prediction, _, routings = self._run(latent, time, label)
        return prediction, BALANCE_WEIGHT * torch.stack([routing.balance for routing in routings]).sum()

    def tokens(self, latent: Tensor, time: Tensor, label: Tensor) -> Tensor:
        """(B, N, D) after the last block."""
        return self._run(latent, time, label)[1]

    def _run(self, latent: Tensor, time: Tensor, label: Tensor) -> tuple[Tensor, Tensor, list[Routing]]:
        size, fixed = tuple(latent.shape[-2:]), (self.config.image_size,) * 2
        require(size == fixed, "size of the latent", size, f"{fixed}, fixed by image_size")
        condition = self.time(time_sinusoids(time)) + self.label(self._perhaps_without(label))
        tokens, routings = self.patches(channels_last(latent)).flatten(1, 2) + self.position, []
        for block in self.blocks:
            tokens, routing = block(tokens, condition)
            routings.append(routing)
        shift, scale = self.modulation(F.silu(condition)).unsqueeze(1).chunk(2, -1)
        return self._unpatched(self.head(plain_norm(tokens) * (1 + scale) + shift)), tokens, routings

    def _perhaps_without(self, label: Tensor) -> Tensor:
        """In training some labels become "no label"."""
        rate = self.config.class_dropout_prob
        if not self.training or not rate:
            return label
        dropped = torch.rand(label.shape, device=label.device) < rate
        return label.masked_fill(dropped, self.config.num_classes)

    def _unpatched(self, patches: Tensor) -> Tensor:
        side, size = self.config.image_size // self.config.patch_size, self.config.patch_size
        pixels = patches.unflatten(-1, (size, size, -1)).unflatten(1, (side, side))
        return pixels.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)

    def _init_weights(self) -> None:
        """Blocks start as the identity, and the answer at 0."""
        self.apply(init_xavier_)
        nn.init.xavier_uniform_(self.patches.proj.weight.flatten(1))
        for name, parameter in self.named_parameters():
            if re.search(r"modulation\.|^head\.|^patches\.proj\.bias", name):
                nn.init.zeros_(parameter)
            elif re.search(r"^label\.|^time\..*weight", name):
                nn.init.normal_(parameter, std=0.02)


class DiTBlock(nn.Module):
    """Attention and experts, both shifted, scaled and gated by the condition: tokens (B, N, D), condition (B, D)."""

    def __init__(self, config: DiTMoEConfig) -> None:
        super().__init__()
        dim, experts = config.dim, config.num_experts
        self.modulation = nn.Linear(dim, 6 * dim)
        self.attn = Attention(dim, config.heads)
        router = TopKRouter(
            nn.Linear(dim, experts, bias=False), experts, config.top_k, normalize=False, balance=any_choice_balance
        )
        self.routed = MoE(router, StackedSwiGLU(experts, dim, config.mlp_ratio * dim))
        self.shared = SwiGLU(dim, 2 * dim)

    def forward(self, tokens: Tensor, condition: Tensor) -> tuple[Tensor, Routing]:
        modulation = self.modulation(F.silu(condition)).unsqueeze(1).chunk(6, -1)
        shift, scale, gate, shift_experts, scale_experts, gate_experts = modulation
        tokens = tokens + gate * self.attn(plain_norm(tokens) * (1 + scale) + shift)
        inner = plain_norm(tokens) * (1 + scale_experts) + shift_experts
        mixed, routing = self.routed.mix(inner)
        return tokens + gate_experts * (mixed + self.shared(inner)), routing


def plain_norm(tokens: Tensor) -> Tensor:
    """Layer norm without parameters."""
    return F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)


def time_sinusoids(time: Tensor) -> Tensor:
    """Times (B,), fractions too -> (B, 256): cosines, then sines, of 128 frequencies from 1 down to almost 1e-4."""
    frequencies = torch.exp(-math.log(10000) / FREQUENCIES * torch.arange(FREQUENCIES, device=time.device))
    angles = time.float().unsqueeze(-1) * frequencies
    return torch.cat([angles.cos(), angles.sin()], -1)


def init_xavier_(layer: nn.Module) -> None:
    """Linear layers: Xavier-uniform weights, each expert's by itself, and biases 0. Routers stay as they are."""
    if isinstance(layer, nn.Linear) and layer.bias is not None:
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
    elif isinstance(layer, StackedSwiGLU | SwiGLU):
        hidden, dim = layer.fc2.weight.shape[-1], layer.fc2.weight.shape[-2]
        reach = math.sqrt(6 / (dim + hidden))
        for linear in (layer.fc1, layer.fc2):
            nn.init.uniform_(linear.weight, -reach, reach)


VARIANTS = {
    "dit_moe_s_8e2a": DiTMoEConfig(),
    "dit_moe_s_16e2a": DiTMoEConfig(num_experts=16),
    "dit_moe_b_8e2a": DiTMoEConfig(dim=768, heads=12),
    "dit_moe_xl_8e2a": DiTMoEConfig(dim=1152, depth=28, heads=16),
    "dit_moe_g_16e2a": DiTMoEConfig(dim=1408, depth=40, heads=16, num_experts=16),
}

REFERENCE_NAMES = [
    (r"^pos_embed$", "position"),
    (r"^x_embedder\.", "patches."),
    (r"^t_embedder\.mlp\.", "time."),
    (r"^y_embedder\.embedding_table\.", "label."),
    (r"^final_layer\.adaLN_modulation\.1\.", "modulation."),
    (r"^final_layer\.linear\.", "head."),
    (r"\.adaLN_modulation\.1\.", ".modulation."),
    (r"\.moe\.gate\.", ".routed.router.logits."),
    (r"\.moe\.shared_experts\.", ".shared."),
    (r"\.moe\.experts\.", ".routed.experts."),
    (r"\.down_proj\.", ".fc2."),
]


def convert_reference(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Joins what the reference has apart: the two inner layers of an expert, and the experts of a block."""
    whole = stack_experts(join_layers(state, ("gate_proj", "up_proj"), "fc1"))
    return (
        whole
        if isinstance(model, DiTMoE)
        else {f"network.{rename(name, REFERENCE_NAMES)}": value for name, value in whole.items()}
    )


def reference_outputs(model: nn.Module, **inputs: Tensor) -> dict[str, Tensor]:
    """Of the network; the times of cases lie between -1 and 1."""
    if not isinstance(model, DiTMoE):
        return {}
    arguments = inputs | {"time": (inputs["time"] + 1) / 2 * model.config.time_scale}
    prediction, aux_loss = model.with_auxiliary_loss(**arguments)
    return {"prediction": prediction, "tokens": model.tokens(**arguments), "aux_loss": aux_loss.view(1)}
