"""Neighbourhood attention in tiles, against a naive form that gathers each query's keys and values.

python benchmarks/claims/neighborhood.py
"""

from __future__ import annotations

from functools import partial

import torch
from claim import parser, processor_seconds, report, verdict

from ommatid.ops.neighborhood import neighborhood_attention_2d, neighborhood_attention_2d_reference

BATCH, SIDE, HEADS, CHANNELS, KERNEL = 4, 56, 4, 32, 7
SHAPE = f"map of {SIDE} x {SIDE}, {HEADS} heads of {CHANNELS}, kernel {KERNEL}"
CLAIMED = {torch.bfloat16: 6.8, torch.float32: None}


def main() -> None:
    arguments = parser(__doc__).parse_args()

    def rows() -> list[tuple[str, str, str, str]]:
        return [row(dtype, claimed, arguments.rounds, arguments.seconds) for dtype, claimed in CLAIMED.items()]

    report(arguments, rows)


def row(dtype: torch.dtype, claimed: float | None, rounds: int, seconds: float) -> tuple[str, str, str, str]:
    torch.manual_seed(0)
    qkv = [torch.randn(BATCH, SIDE, SIDE, HEADS, CHANNELS).to(dtype) for _ in range(3)]
    calls = [
        partial(attend, *qkv, kernel_size=KERNEL)
        for attend in (neighborhood_attention_2d, neighborhood_attention_2d_reference)
    ]
    with torch.inference_mode():
        tiled, naive = processor_seconds(calls, rounds=rounds, seconds=seconds)
    precision = str(dtype).removeprefix("torch.")
    return (
        f"2-D in tiles as fast as gathered, {precision}: Faster Neighborhood Attention (arXiv 2403.04690), {SHAPE}",
        f"{claimed} times (GPU, half precision)" if claimed else "-",
        f"{naive / tiled:.1f} times ({1e3 * tiled:.0f} ms against {1e3 * naive:.0f} ms, batch {BATCH})",
        verdict(naive / tiled, claimed) if claimed else "no number published",
    )


if __name__ == "__main__":
    main()
