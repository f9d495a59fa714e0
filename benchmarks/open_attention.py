"""Attention in float32 and bfloat16 on this CPU: PyTorch's fused kernel, against two products around a softmax.

Why `optimize` tries to compile models with their attention as products. Shapes are those of Swin-T's first and second
stages and of ViT-S at 224 pixels, batch 8. Alternating runs, processor time.

    python benchmarks/open_attention.py
"""

import time
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ommatid.deployment.attention import attention_as_products
from ommatid.measuring.machine import describe_machine
from ommatid.measuring.timing import alternate, quartiles

SHAPES = {"swin_tiny, stage 1": (512, 3, 49, 32), "swin_tiny, stage 2": (128, 6, 49, 32), "vit_small": (8, 6, 197, 64)}


def products(left: Tensor, right: Tensor, weights: Tensor, values: Tensor) -> None:
    """The two products alone: what remains where a compiler fuses the rest."""
    torch.bmm(left, right)
    torch.bmm(weights, values)


def main() -> None:
    torch.set_num_threads(1)
    print(", ".join(f"{name} {value}" for name, value in describe_machine().items()), end="\n\n")
    print("| shape | precision | fused, ms | as products, eager, ms | the two products alone, ms |")
    print("|---|---|---|---|---|")
    for name, (batch, heads, tokens, width) in SHAPES.items():
        for dtype in (torch.float32, torch.bfloat16):
            query, key, value = (
                torch.randn(batch, tokens, heads, width, dtype=dtype).transpose(1, 2) for _ in range(3)
            )
            flat = [part.flatten(0, 1) for part in (query, key.mT, value)]
            weights = torch.rand(batch * heads, tokens, tokens).to(dtype)
            calls = [
                partial(F.scaled_dot_product_attention, query, key, value),
                partial(attention_as_products, query, key, value),
                partial(products, flat[0], flat[1], weights, flat[2]),
            ]
            with torch.inference_mode():
                times = alternate(calls, torch.device("cpu"), rounds=9, seconds=20, clock=time.process_time)
            medians = [1e3 * quartiles(list(column)).median for column in zip(*times, strict=True)]
            cells = [name, str(dtype).removeprefix("torch."), *(f"{median:.1f}" for median in medians)]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
