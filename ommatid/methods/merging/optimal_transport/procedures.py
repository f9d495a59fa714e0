"""Fusion by optimal transport, as its reference cases ask for it."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from ommatid.methods.merging.optimal_transport.alignment import Linear, TransportConfig, fuse_linear, prepared
from ommatid.methods.merging.optimal_transport.residual import POLICIES
from ommatid.methods.merging.optimal_transport.vit import QKFusion, fuse_vits
from ommatid.models.backbones.vit import ViT, ViTConfig
from ommatid.models.config import check_fields, require, require_divisible, require_positive
from ommatid.models.procedure import Procedure
from ommatid.models.reference import join_layers
from ommatid.models.registry import register, register_part
from ommatid.models.sizes import require_patches

SIZES = ("dim", "heads", "mlp_dim")
NORM_EPS = 1e-12
"""Of the cases' models."""


@dataclass(frozen=True, kw_only=True)
class TransformerFusionConfig(TransportConfig):
    """`fuse_vit` reads the fields below, `fuse_layer` those above. `model_0` and `model_1` override sizes of one."""

    function: Literal["fuse_vit", "fuse_layer", "residual_policies"] = "fuse_vit"
    image_size: int = 32
    patch_size: int = 4
    dim: int = 384
    depth: int = 7
    heads: int = 12
    mlp_dim: int = 1536
    num_classes: int = 10
    residual_policy: str = "mean"
    qk_fusion: QKFusion = "separate"
    model_0: dict[str, int] = field(default_factory=dict)
    model_1: dict[str, int] = field(default_factory=dict)

    def check(self) -> None:
        super().check()
        require_positive(depth=self.depth, num_classes=self.num_classes)
        require_patches(self.image_size, self.patch_size)
        require(self.residual_policy in POLICIES, "residual_policy", self.residual_policy, " or ".join(POLICIES))
        for name in ("model_0", "model_1"):
            check_fields(type(self), getattr(self, name))
            sizes = self.sizes(name)
            require_positive(**sizes)
            require_divisible(sizes["dim"], sizes["heads"])

    def sizes(self, model: str) -> dict[str, int]:
        return {name: getattr(self, model).get(name, getattr(self, name)) for name in SIZES}

    def network(self, model: str) -> ViTConfig:
        sizes = self.sizes(model)
        return ViTConfig(
            image_size=self.image_size,
            patch_size=self.patch_size,
            num_classes=self.num_classes,
            depth=self.depth,
            dim=sizes["dim"],
            heads=sizes["heads"],
            # Half a unit more, which no rounding of the quotient can take away.
            mlp_ratio=(sizes["mlp_dim"] + 0.5) / sizes["dim"],
        )


@register("transformer_fusion_ot", TransformerFusionConfig)
class FuseViT(Procedure):
    """image (B, 3, S, S), known samples and test at once -> the fused weights, and the logits of all models."""

    config: TransformerFusionConfig

    def __init__(self, config: TransformerFusionConfig) -> None:
        super().__init__(config)
        self.models = nn.ModuleList(ViT(config.network(name)) for name in ("model_0", "model_1"))
        for module in self.models.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = NORM_EPS

    def forward(self, image: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        source, anchor = self.models
        assert isinstance(source, ViT)
        assert isinstance(anchor, ViT)
        config = self.config
        fused = fuse_vits(
            [source], anchor, image, config, residual_policy=config.residual_policy, qk_fusion=config.qk_fusion
        )
        answers = {f"fused.{name}": value for name, value in published_weights(fused).items()}
        answers |= {"logits": fused(image), "logits_0": source(image), "logits_1": anchor(image)}
        if config.sizes("model_0") == config.sizes("model_1"):
            answers["logits_vanilla"] = plain_average(source, anchor)(image)
        return answers


@torch.no_grad()
def plain_average(source: ViT, anchor: ViT) -> ViT:
    averaged = copy.deepcopy(anchor)
    for parameter, other in zip(averaged.parameters(), source.parameters(), strict=True):
        parameter.lerp_(other, 0.5)
    return averaged


PUBLISHED_NAMES = {
    "sequence.class_token.token": "vit.embeddings.cls_token",
    "sequence.position": "vit.embeddings.position_embeddings",
    "stem.proj": "vit.embeddings.patch_embeddings.projection",
    "token.norm": "layernorm_before",
    "channel.norm": "layernorm_after",
    "token.inner.proj": "attention.output.dense",
    "channel.inner.fc1": "intermediate.dense",
    "channel.inner.fc2": "output.dense",
    "token_norm": "vit.layernorm",
    "head": "classifier",
}
BLOCK, PUBLISHED_BLOCK = "blocks.", "vit.encoder.layer."


def published_weights(model: ViT) -> dict[str, Tensor]:
    """The parameters by the names of the published models, queries, keys and values apart."""
    named: dict[str, Tensor] = {}
    for name, value in model.named_parameters():
        number, _, inner = name.removeprefix(BLOCK).partition(".") if name.startswith(BLOCK) else ("", "", name)
        prefix = f"{PUBLISHED_BLOCK}{number}." if number else ""
        if inner.startswith("token.inner.qkv."):
            leaf = inner.rpartition(".")[2]
            parts = zip(("query", "key", "value"), value.chunk(3), strict=True)
            named |= {f"{prefix}attention.attention.{part}.{leaf}": third for part, third in parts}
        elif inner in PUBLISHED_NAMES:
            named[PUBLISHED_NAMES[inner]] = value
        else:
            owner, _, leaf = inner.rpartition(".")
            named[f"{prefix}{PUBLISHED_NAMES[owner]}.{leaf}"] = value
    return named


@register_part("transformer_fusion_ot", "fuse_layer")
class FuseLayer(Procedure):
    """Weights and biases w0, b0, w1, b1, activations act0, act1 (samples, n) and the input map -> the fused layer."""

    config: TransformerFusionConfig

    def forward(  # type: ignore[override]
        self, w0: Tensor, b0: Tensor, w1: Tensor, b1: Tensor, act0: Tensor, act1: Tensor, t_in: Tensor
    ) -> dict[str, Tensor]:
        fused = fuse_linear(
            Linear(w0, b0),
            Linear(w1, b1),
            self.config,
            input_map=(t_in + 1) / len(t_in),
            activations=(prepared(act0, self.config), prepared(act1, self.config)),
        )
        assert fused.layer.bias is not None
        return {"weight": fused.layer.weight, "bias": fused.layer.bias, "map": fused.map, "cost": fused.cost}


@register_part("transformer_fusion_ot", "residual_policies")
class ResidualPolicies(Procedure):
    """Maps t_resid and t_in (n0, n1), activations resid_acts and in_acts (samples, n1) -> the map of each policy."""

    config: TransformerFusionConfig

    def forward(  # type: ignore[override]
        self, t_resid: Tensor, t_in: Tensor, resid_acts: Tensor, in_acts: Tensor
    ) -> dict[str, Tensor]:
        return {name: policy(t_resid, t_in, resid_acts, in_acts) for name, policy in POLICIES.items()}


def convert_reference(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Queries, keys and values become one layer."""
    return join_layers(state, ("query", "key", "value"), "qkv")


REFERENCE_NAMES = [
    (r"^model_(\d)\.", r"models.\1."),
    (r"\.vit\.encoder\.layer\.", ".blocks."),
    (r"\.attention\.attention\.qkv\.", ".token.inner.qkv."),
    (r"\.attention\.output\.dense\.", ".token.inner.proj."),
    (r"\.layernorm_before\.", ".token.norm."),
    (r"\.layernorm_after\.", ".channel.norm."),
    (r"\.intermediate\.dense\.", ".channel.inner.fc1."),
    (r"\.output\.dense\.", ".channel.inner.fc2."),
    (r"\.vit\.embeddings\.cls_token$", ".sequence.class_token.token"),
    (r"\.vit\.embeddings\.position_embeddings$", ".sequence.position"),
    (r"\.vit\.embeddings\.patch_embeddings\.projection\.", ".stem.proj."),
    (r"\.vit\.layernorm\.", ".token_norm."),
    (r"\.classifier\.", ".head."),
]
