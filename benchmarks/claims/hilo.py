"""HiLo attention against spatial reduction and windows of the same width, on one map of 14 x 14: LITv2 on a CPU.

python benchmarks/claims/hilo.py
"""

from __future__ import annotations

from functools import partial

import torch
from claim import parser, processor_seconds, report, verdict

from ommatid.nn.mixers import HiLoAttention, SpatialReductionAttention, WindowAttention
from ommatid.nn.mixers.spatial_reduction import strided_reduction
from ommatid.nn.position import RelativePositionBias

DIM, HEADS, SIDE, BATCH = 768, 12, 14, 64
SOURCE = "LITv2 (arXiv 2205.13213), one layer of 768 channels, 12 heads, CPU"


def main() -> None:
    arguments = parser(__doc__).parse_args()

    def rows() -> list[tuple[str, str, str, str]]:
        torch.manual_seed(0)
        mixers = [
            HiLoAttention(DIM, HEADS, 2, alpha=0.9),
            SpatialReductionAttention(DIM, HEADS, strided_reduction(DIM, 2)),
            WindowAttention(DIM, HEADS, 7, bias=RelativePositionBias((7, 7), HEADS)),
        ]
        features = torch.randn(BATCH, SIDE, SIDE, DIM)
        calls = [partial(mixer.eval(), features) for mixer in mixers]
        with torch.inference_mode():
            hilo, *others = processor_seconds(calls, rounds=arguments.rounds, seconds=arguments.seconds)
        named = zip(("spatial-reduction attention", "local window attention"), others, (1.4, 1.6), strict=True)
        return [
            (
                f"HiLo as fast as {name}: {SOURCE}",
                f"{claimed} times",
                f"{time / hilo:.2f} times ({1e3 * hilo:.0f} ms against {1e3 * time:.0f} ms, batch {BATCH})",
                verdict(time / hilo, claimed),
            )
            for name, time, claimed in named
        ]

    report(arguments, rows)


if __name__ == "__main__":
    main()
