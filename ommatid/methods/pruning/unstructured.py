"""Weights that become zero one by one, in the layers inside of a model's blocks.

Zeros make files smaller. They make nothing faster on a CPU, whose kernels multiply by them all the same; 2:4 does on
GPUs with sparse tensor cores (`nn/sparse.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ommatid.methods.pruning.allocation import allocate_sparsity
from ommatid.methods.pruning.dimap import dimap_masks, module_of
from ommatid.methods.pruning.local import InputStatistics, sparsegpt, wanda_mask, wanda_metric
from ommatid.methods.pruning.patterns import nm_mask
from ommatid.methods.pruning.sparse_then_prune import global_magnitude_masks
from ommatid.methods.pruning.zeroth_order import Calibration, Steps, zeroth_order_sensitivity
from ommatid.models.config import require
from ommatid.nn.sparse import hold_zeros_

ALLOWANCE = 0.1
"""How much sparser than all together ECoFLaP lets a block become."""


def block_layers(model: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """The linear layers and ungrouped convolutions inside of blocks, by name, in order.

    Not what leads into stages, the head, networks that make position biases, and what methods on tokens have learned.
    """
    skipped = ("downsample", "bias", "stem", "head", "interpreters", "predictor")
    layers: dict[str, nn.Linear | nn.Conv2d] = {}
    for name, layer in model.named_modules():
        words = _place(name)
        inside = len(words) > 1 and words[0] in ("blocks", "stages") and not any(word in words for word in skipped)
        if inside and (isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)):
            layers[name] = layer
    return layers


@torch.no_grad()
def apply_masks_(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Zeroes what the masks of layers, by name, do not keep; it stays zero in training, and is stored sparse."""
    layers = block_layers(model)
    for name, mask in masks.items():
        layers[name].weight.mul_(mask.to(layers[name].weight))
    hold_zeros_(model, sorted({*getattr(model, "sparse", ()), *(f"{name}.weight" for name in masks)}))


def dimap_(model: nn.Module, sparsity: float) -> None:
    """DIMAP (arXiv 2404.13648), the same share in each module. Layers that are of none of its modules are a fourth."""
    weights = {name: layer.weight for name, layer in _some(block_layers(model)).items()}
    named = {name if module_of(name) else f"{name}.fc1": weight for name, weight in weights.items()}
    masks, _, _ = dimap_masks(named, dict.fromkeys(("qkv", "proj", "mlp"), sparsity))
    apply_masks_(model, dict(zip(weights, (masks[name] for name in named), strict=True)))


def magnitude_(model: nn.Module, sparsity: float) -> None:
    """The smallest weights of all layers together."""
    apply_masks_(
        model, global_magnitude_masks({n: layer.weight for n, layer in _some(block_layers(model)).items()}, sparsity)
    )


def two_of_four_(model: nn.Module) -> None:
    """The two largest of every four weights along the inputs, in linear layers whose inputs come in fours."""
    layers = {n: layer for n, layer in block_layers(model).items() if isinstance(layer, nn.Linear)}
    apply_masks_(model, {n: nm_mask(layer.weight, 2, 4) for n, layer in layers.items() if layer.in_features % 4 == 0})


def local_(
    model: nn.Module, batches: Sequence[Tensor], sparsity: Mapping[str, float], *, method: str = "wanda"
) -> None:
    """Wanda or SparseGPT, layer by layer, block by block: each sees what the pruned blocks before it give.

    batches: images (B, C, H, W). sparsity: of each layer, by name.
    """
    layers = {name: layer for name, layer in block_layers(model).items() if isinstance(layer, nn.Linear)}
    blocks: dict[str, list[str]] = {}
    for name in layers:
        blocks.setdefault(block_of(name), []).append(name)
    for names in blocks.values():
        with _watching({name: layers[name] for name in names}) as statistics, torch.no_grad():
            for batch in batches:
                model.eval()(batch)
        masks = {}
        for name in names:
            weight = layers[name].weight
            if sparsity[name] == 0:  # SparseGPT's smallest weight would go even so
                masks[name] = torch.ones_like(weight)
            elif method == "sparsegpt":
                weight.data.copy_(sparsegpt(weight, statistics[name].hessian, sparsity[name]))
                masks[name] = weight != 0
            else:
                masks[name] = wanda_mask(wanda_metric(weight, statistics[name].norm_sq), sparsity[name])
        apply_masks_(model, masks)


def ecoflap_sparsity(model: nn.Module, calibration: Calibration, sparsity: float) -> dict[str, float]:
    """ECoFLaP's sparsity of each layer (arXiv 2310.02998): blocks that the loss depends on keep more.

    calibration: its loss is that of the model as it stands.
    """
    layers = {name: layer for name, layer in block_layers(model).items() if isinstance(layer, nn.Linear)}
    weights = {name: layer.weight.data for name, layer in layers.items()}
    steps = Steps(lambda name, draw: torch.randn_like(weights[name]))
    found = zeroth_order_sensitivity(weights, calibration, steps)
    blocks = list(dict.fromkeys(map(block_of, layers)))
    scores, counts = torch.zeros(len(blocks)), torch.zeros(len(blocks), dtype=torch.long)
    for name in layers:
        scores[blocks.index(block_of(name))] += found[name].cpu()
        counts[blocks.index(block_of(name))] += weights[name].numel()
    shares, _, _ = allocate_sparsity(scores, counts, sparsity, min(sparsity + ALLOWANCE, 1.0))
    return {name: float(shares[blocks.index(block_of(name))]) for name in layers}


def block_of(name: str) -> str:
    """A layer's name up to the last number in it but those inside of a block: "stages.1.blocks.0", "blocks.3"."""
    words = _place(name)
    depth = 4 if words[0] == "stages" and len(words) > 2 and words[2] == "blocks" else 2
    return ".".join(words[:depth])


def _place(name: str) -> list[str]:
    """The words of a layer's name in the model that it was made for, also where that has got another trunk since."""
    return re.sub(r"^model\.(blocks\.(?=blocks\.))?", "", name).split(".")


def _some(layers: dict[str, nn.Linear | nn.Conv2d]) -> dict[str, nn.Linear | nn.Conv2d]:
    require(bool(layers), "model", "without blocks", "one with linear layers or convolutions in `blocks` or `stages`")
    return layers


@contextmanager
def _watching(layers: Mapping[str, nn.Linear]) -> Iterator[dict[str, InputStatistics]]:
    """Gathers what goes into layers while the model runs."""
    statistics = {name: InputStatistics(layer.in_features) for name, layer in layers.items()}
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs, name=name: statistics[name].update(inputs[0]))
        for name, layer in layers.items()
    ]
    try:
        yield statistics
    finally:
        for hook in hooks:
            hook.remove()
