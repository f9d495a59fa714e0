"""Which neuron of one layer is which of another, and the layer between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ommatid.models.config import PartConfig, require, require_positive
from ommatid.ops.transport import exact_plan, sinkhorn_plan

EPS = 1e-9
"""Beside a length or spread that is divided by."""


@dataclass(frozen=True, kw_only=True)
class TransportConfig(PartConfig):
    """How neurons are described and matched.

    Attributes:
        type: by their activations on samples, or by their incoming weights.
        solver: of the transport. Soft maps (sinkhorn) fuse transformers much better than hard ones (emd);
            sinkhorn_for_widening is soft only where a layer is wider than its input.
        sinkhorn_reg: how soft.
        standardize, center, normalize: each neuron's activations have mean 0 and spread 1, mean 0, or length 1; the
            first that is set counts.
        ground_metric: distances of descriptions; `squared` is for the Euclidean one.
        metric_norm: what distances are divided by, `log` for log(1 + distance).
    """

    type: Literal["acts", "wts"] = "acts"
    solver: Literal["sinkhorn", "emd", "sinkhorn_for_widening"] = "sinkhorn"
    sinkhorn_reg: float = 0.08
    standardize: bool = True
    center: bool = False
    normalize: bool = False
    ground_metric: Literal["euclidean", "cosine"] = "euclidean"
    squared: bool = False
    metric_norm: Literal["max", "mean", "median", "log", "none"] = "max"

    def check(self) -> None:
        require_positive(sinkhorn_reg=self.sinkhorn_reg)


class Linear(NamedTuple):
    """A linear layer: weight (out, in) and bias (out,), if it has one."""

    weight: Tensor
    bias: Tensor | None = None


class FusedLinear(NamedTuple):
    """The layer, the map (n0, n1) of its outputs, whose rows sum to 1, and the cost (n0, n1) that led to it."""

    layer: Linear
    map: Tensor
    cost: Tensor


def fuse_linear(
    source: Linear,
    anchor: Linear,
    config: TransportConfig,
    *,
    input_map: Tensor | None = None,
    activations: tuple[Tensor, Tensor] | None = None,
    anchor_share: float = 0.5,
) -> FusedLinear:
    """A layer of the anchor's shape between both, with the source's neurons matched to the anchor's.

    Args:
        input_map: (in0, in1) of what the layers read; None where they read the same.
        activations: outputs (samples, n0) and (samples, n1) of both, `prepared`; for `type` acts.
        anchor_share: weight of the anchor in the average.
    """
    turned = onto_inputs(source, input_map)
    if config.type == "acts":
        require(activations is not None, "activations", None, "those of both layers, for type = 'acts'")
        assert activations is not None
        described = activations[0].T, activations[1].T
    else:
        described = turned.weight, anchor.weight
    matched, cost = neuron_map(*described, config, input_map=input_map)
    return FusedLinear(average(onto_outputs(turned, matched), anchor, anchor_share), matched, cost)


def neuron_map(
    source: Tensor, anchor: Tensor, config: TransportConfig, *, input_map: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The map (n0, n1) between neurons, by their descriptions (n0, d) and (n1, d), and the cost (n0, n1) of each pair.

    With `type` wts descriptions are brought to length 1 first.
    """
    if config.type == "wts":
        source, anchor = (rows / (rows.norm(dim=-1, keepdim=True) + EPS) for rows in (source, anchor))
    cost = ground_cost(source, anchor, config)
    soft = config.solver == "sinkhorn"
    if config.solver == "sinkhorn_for_widening" and input_map is not None:
        soft = cost.shape[0] > input_map.shape[0] or cost.shape[1] > input_map.shape[1]
    plan = sinkhorn_plan(cost, config.sinkhorn_reg) if soft else exact_plan(cost)
    return (len(cost) * plan).to(source.dtype), cost.to(source.dtype)


def ground_cost(source: Tensor, anchor: Tensor, config: TransportConfig) -> Tensor:
    """Distances (n0, n1) between descriptions (n0, d) and (n1, d), in float64."""
    source, anchor = source.double(), anchor.double()
    if config.ground_metric == "cosine":
        cost = (1 - F.normalize(source, dim=-1) @ F.normalize(anchor, dim=-1).T).clamp(min=0)
    else:
        # By one matrix product, many times faster; its rounding matters to a map in float32, not in float64.
        cost = torch.cdist(source, anchor, compute_mode="use_mm_for_euclid_dist")
        cost = cost.square() if config.squared else cost
    match config.metric_norm:
        case "log":
            return cost.log1p()
        case "none":
            return cost
        case "max":
            size = cost.max()
        case "mean":
            size = cost.mean()
        case "median":
            size = cost.median()
    return cost / size if size > 0 else cost


def prepared(activations: Tensor, config: TransportConfig) -> Tensor:
    """Activations (samples, n) as the config says."""
    if config.standardize:
        return (activations - activations.mean(0)) / (activations.std(0) + EPS)
    if config.center:
        return activations - activations.mean(0)
    return activations / (activations.norm(dim=0) + EPS) if config.normalize else activations


def onto_inputs(layer: Linear, input_map: Tensor | None) -> Linear:
    """The layer for inputs in the anchor's order."""
    return layer if input_map is None else Linear(layer.weight @ input_map, layer.bias)


def onto_outputs(layer: Linear, output_map: Tensor) -> Linear:
    """The layer with outputs in the anchor's order."""
    return Linear(output_map.T @ layer.weight, None if layer.bias is None else layer.bias @ output_map)


def average(source: Linear, anchor: Linear, anchor_share: float = 0.5) -> Linear:
    """Both layers' mean, of one shape, with this weight of the anchor."""
    weight = torch.lerp(source.weight, anchor.weight, anchor_share)
    if source.bias is None or anchor.bias is None:
        return Linear(weight)
    return Linear(weight, torch.lerp(source.bias, anchor.bias, anchor_share))
