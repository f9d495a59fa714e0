"""NViT's saliency: what a vision transformer's loss would notice of a unit that disappears everywhere at once.

"Global Vision Transformer Pruning with Hessian-Aware Saliency" (arXiv 2110.04869). The squared sum of w * g over the
weights of a unit approximates w^T H w. Units are of five kinds: embedding channels, heads, query and key dimensions,
value dimensions, MLP units.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

KINDS = ("emb", "head", "qk", "v", "mlp")

SCALES = {"emb": 12.0, "head": 12.0, "qk": 2.0, "v": 2.0, "mlp": 1.0}
"""What the sums of each kind are divided by. A head's 6 counts twice in the reference."""


def nvit_saliency(weights: Mapping[str, Tensor], grads: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    """The saliency of each unit for one batch: "emb" (E,), and for block i "head.i", "qk.i", "v.i", "mlp.i".

    Args:
        weights, grads: by the names of the prunable DeiT: `patch_embed.proj`, and in every block Q, K and V of shape
            (q, E, H) with biases (q, H), `attn.proj` of (E, v, H), `mlp.fc1`, `mlp.fc2`.
        depth: number of blocks.
    """
    product = {name: weights[name] * grads[name] for name in weights}
    embedding = product["patch_embed.proj.weight"].flatten(1).sum(1) + product["patch_embed.proj.bias"]
    sums: dict[str, Tensor] = {}
    for index in range(depth):
        of_block = _block_sums(product, f"blocks.{index}.")
        embedding = embedding + of_block.pop("emb")
        sums |= {f"{kind}.{index}": value for kind, value in of_block.items()}
    return {
        name: (value.nan_to_num(0.0, 0.0, 0.0) / SCALES[name.split(".")[0]]).square()
        for name, value in ({"emb": embedding} | sums).items()
    }


def _block_sums(product: Mapping[str, Tensor], block: str) -> dict[str, Tensor]:
    """Sums of w * g over the units of one block, and over its part of each embedding channel."""
    query, key, value = (
        (product[f"{block}attn.qkv.{name}.weight"], product[f"{block}attn.qkv.{name}.bias"]) for name in "QKV"
    )
    fc1, proj, fc2 = (product[f"{block}{name}.weight"] for name in ("mlp.fc1", "attn.proj", "mlp.fc2"))
    leaving = [proj.sum((1, 2)), product[f"{block}attn.proj.bias"], fc2.sum(1), product[f"{block}mlp.fc2.bias"]]
    entering = [*(weight.sum((0, 2)) for weight, _ in (query, key, value)), fc1.sum(0)]
    return {
        "emb": torch.stack(entering + leaving).sum(0),
        "head": torch.stack([weight.sum((0, 1)) + bias.sum(0) for weight, bias in (query, key, value)]).sum(0),
        "qk": query[0].sum((1, 2)) + query[1].sum(1),
        "v": value[0].sum((1, 2)) + value[1].sum(1),
        "mlp": fc1.sum(1) + product[f"{block}mlp.fc1.bias"],
    }
