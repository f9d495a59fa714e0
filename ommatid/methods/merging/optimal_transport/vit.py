"""Fusing vision transformers, layer after layer along the stream of tokens."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ommatid.methods.merging.optimal_transport.alignment import (
    FusedLinear,
    Linear,
    TransportConfig,
    average,
    fuse_linear,
    neuron_map,
    onto_inputs,
    onto_outputs,
    prepared,
)
from ommatid.methods.merging.optimal_transport.residual import POLICIES
from ommatid.models.backbones.vit import ViT
from ommatid.models.config import require

QKFusion = Literal["separate", "eq_t_map", "joint"]

BLOCK_LAYERS = ("token.inner.qkv", "token.inner.proj", "channel.inner.fc1", "channel.inner.fc2")


@torch.no_grad()
def fuse_vits(
    models: Sequence[ViT],
    anchor: ViT,
    image: Tensor,
    config: TransportConfig | None = None,
    *,
    residual_policy: str = "mean",
    qk_fusion: QKFusion = "separate",
) -> ViT:
    """One transformer of the anchor's shape from several, to be fine-tuned shortly or used as it is.

    Args:
        models: as deep as the anchor, of any width. Several are each fused with the anchor, and then averaged.
        image: (B, 3, H, W), by which neurons are recognised; some hundred images do.
        residual_policy: a name in `POLICIES`.
        qk_fusion: maps of queries and keys are found apart, as one for both, or as one of all their outputs together.

    Raises:
        ValueError: models that differ in more than their widths, or are not plain transformers with a class token.
    """
    require(len(models) > 0, "models", len(models), "1 or more beside the anchor")
    require(residual_policy in POLICIES, "residual_policy", residual_policy, " or ".join(POLICIES))
    for model in (*models, anchor):
        check_plain(model, anchor)
    settings = config or TransportConfig()
    share = 1 / (1 + len(models))
    fused = [_PairFusion(model, anchor, image, settings, residual_policy, qk_fusion, share).run() for model in models]
    result = fused[0]
    for parameters in zip(*(model.parameters() for model in fused), strict=True):
        parameters[0].copy_(torch.stack(parameters).mean(0))
    return result


def check_plain(model: ViT, anchor: ViT) -> None:
    config, expected = model.config, anchor.config
    plain = config.class_token and config.layer_scale is None and not config.fc_norm and config.global_pool == "token"
    require(plain, "models", type(model).__name__, "vision transformers that answer by a class token, no layer scale")
    for name in ("depth", "image_size", "patch_size", "in_channels", "num_classes", "qkv_bias"):
        wanted = getattr(expected, name)
        require(getattr(config, name) == wanted, name, getattr(config, name), f"the anchor's, {wanted}")


def activations(model: ViT, image: Tensor, config: TransportConfig) -> dict[str, Tensor]:
    """What every part of the model gives, by its name: (samples, n), where each token of each image is a sample."""
    blocks = [f"blocks.{index}" for index in range(model.config.depth)]
    layers = [f"{block}.{layer}" for block in blocks for layer in BLOCK_LAYERS]
    found: dict[str, list[Tensor]] = {name: [] for name in ("stem", "sequence", *blocks, *layers)}
    hooks = [model.get_submodule(name).register_forward_hook(partial(_record, rows)) for name, rows in found.items()]
    try:
        # All tokens: a forward pass for a class token alone leaves out what the last block makes of others.
        model.tokens(image)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: prepared(torch.cat(rows), config) for name, rows in found.items()}


def _record(rows: list[Tensor], module: nn.Module, inputs: Any, output: Tensor) -> None:
    rows.append(output.flatten(0, -2))


class _PairFusion:
    """The source aligned to the anchor, from the embeddings up. `map` is that of the stream of tokens so far."""

    def __init__(
        self,
        source: ViT,
        anchor: ViT,
        image: Tensor,
        config: TransportConfig,
        policy: str,
        qk_fusion: QKFusion,
        anchor_share: float,
    ) -> None:
        self.source, self.anchor, self.fused = source, anchor, copy.deepcopy(anchor)
        self.config, self.policy, self.qk_fusion = config, POLICIES[policy], qk_fusion
        self.anchor_share = anchor_share
        self.seen = activations(source, image, config), activations(anchor, image, config)

    def run(self) -> ViT:
        stream = self._embeddings()
        for index in range(self.anchor.config.depth):
            stream = self._block(index, stream)
        self._norm("token_norm", stream, self.anchor_share)
        self._put("head", average(onto_inputs(self._of(0, "head"), stream), self._of(1, "head"), self.anchor_share))
        return self.fused

    def _embeddings(self) -> Tensor:
        self._table("sequence.class_token.token")
        position = self._table("sequence.position")
        patches = self._linear("stem.proj", None, "stem", self.anchor_share)
        table = self.anchor.get_parameter("sequence.position")[0]
        return self.policy(position, patches, table, self.seen[1]["stem"])

    def _block(self, index: int, stream: Tensor) -> Tensor:
        block = f"blocks.{index}"
        entering = self.seen[1][f"blocks.{index - 1}" if index else "sequence"]
        self._norm(f"{block}.token.norm", stream)
        value = self._query_key_value(f"{block}.token.inner.qkv", stream)
        attention = f"{block}.token.inner.proj"
        attended = self.seen[1][attention]
        stream = self.policy(stream, self._linear(attention, value, attention), entering, attended)
        self._norm(f"{block}.channel.norm", stream)
        hidden, last = f"{block}.channel.inner.fc1", f"{block}.channel.inner.fc2"
        branch = self._linear(last, self._linear(hidden, stream, hidden), last)
        return self.policy(stream, branch, attended + entering, self.seen[1][last])

    def _query_key_value(self, name: str, stream: Tensor) -> Tensor:
        """Fuses the three projections, and gives the map of the values, which alone go on along the stream."""
        layers = [_cut(self._of(model, name), 3) for model in (0, 1)]
        seen = [model[name].chunk(3, dim=1) for model in self.seen]

        def fused(index: int) -> FusedLinear:
            return self._fuse(layers[0][index], layers[1][index], stream, (seen[0][index], seen[1][index]))

        if self.qk_fusion == "separate":
            query_key = [fused(0).layer, fused(1).layer]
        else:
            query_key = self._together(layers, seen, stream)
        value = fused(2)
        self._put(name, _joined([*query_key, value.layer]))
        return value.map

    def _together(
        self, layers: Sequence[Sequence[Linear]], seen: Sequence[Sequence[Tensor]], stream: Tensor
    ) -> list[Linear]:
        """Queries and keys with one map."""
        if self.qk_fusion == "joint":
            # The published order: of activations keys come first, of weights queries.
            stacked = tuple(torch.cat([model[1], model[0]], dim=1) for model in seen)
            joined = [_joined(model[:2]) for model in layers]
            both = self._fuse(joined[0], joined[1], stream, (stacked[0], stacked[1])).layer
            return _cut(both, 2)
        turned = [onto_inputs(layer, stream) for layer in layers[0][:2]]
        if self.config.type == "acts":
            described = [torch.cat([model[1], model[0]]).T for model in seen]
        else:
            described = [torch.cat([layer.weight for layer in pair], dim=1) for pair in (turned, layers[1][:2])]
        matched, _ = neuron_map(described[0], described[1], self.config, input_map=stream)
        return [
            average(onto_outputs(layer, matched), anchor) for layer, anchor in zip(turned, layers[1][:2], strict=True)
        ]

    def _linear(self, name: str, input_map: Tensor | None, seen: str, anchor_share: float = 0.5) -> Tensor:
        """Fuses the layer called so, and gives the map of its outputs."""
        pair = self.seen[0][seen], self.seen[1][seen]
        fused = self._fuse(self._of(0, name), self._of(1, name), input_map, pair, anchor_share)
        self._put(name, fused.layer)
        return fused.map

    def _fuse(
        self,
        source: Linear,
        anchor: Linear,
        input_map: Tensor | None,
        seen: tuple[Tensor, Tensor],
        anchor_share: float = 0.5,
    ) -> FusedLinear:
        return fuse_linear(
            source, anchor, self.config, input_map=input_map, activations=seen, anchor_share=anchor_share
        )

    def _table(self, name: str) -> Tensor:
        """Fuses a table (1, N, C) of tokens, whose channels are told apart by their N values, and gives their map."""
        source, anchor = (model.get_parameter(name)[0] for model in (self.source, self.anchor))
        matched, _ = neuron_map(source.T, anchor.T, self.config)
        self.fused.get_parameter(name).copy_(torch.lerp(source @ matched, anchor, self.anchor_share)[None])
        return matched

    def _norm(self, name: str, stream: Tensor, anchor_share: float = 0.5) -> None:
        for leaf in ("weight", "bias"):
            source, anchor = (model.get_parameter(f"{name}.{leaf}") for model in (self.source, self.anchor))
            self.fused.get_parameter(f"{name}.{leaf}").copy_(torch.lerp(source @ stream, anchor, anchor_share))

    def _of(self, model: int, name: str) -> Linear:
        """A layer as a linear one: kernels of patches become rows."""
        layer = (self.source, self.anchor)[model].get_submodule(name)
        return Linear(layer.get_parameter("weight").flatten(1), _bias(layer))

    def _put(self, name: str, layer: Linear) -> None:
        module = self.fused.get_submodule(name)
        weight, bias = module.get_parameter("weight"), _bias(module)
        weight.copy_(layer.weight.view(weight.shape))
        if bias is not None and layer.bias is not None:
            bias.copy_(layer.bias)


def _bias(layer: nn.Module) -> Tensor | None:
    bias = getattr(layer, "bias", None)
    return bias if isinstance(bias, Tensor) else None


def _cut(layer: Linear, parts: int) -> list[Linear]:
    biases = [None] * parts if layer.bias is None else layer.bias.chunk(parts)
    return [Linear(weight, bias) for weight, bias in zip(layer.weight.chunk(parts), biases, strict=True)]


def _joined(layers: Sequence[Linear]) -> Linear:
    biases = [layer.bias for layer in layers if layer.bias is not None]
    return Linear(torch.cat([layer.weight for layer in layers]), torch.cat(biases) if biases else None)
