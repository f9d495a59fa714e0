"""ViG-T against DeiT-T on one image of 1024 x 1024: operations, time, and memory of the activations.

python benchmarks/claims/vig_large_images.py
"""

from __future__ import annotations

from functools import partial

import torch
from claim import parser, processor_seconds, report, verdict

from ommatid.measuring.macs import count_macs
from ommatid.measuring.measure import forward_memory
from ommatid.models import create_model

SIDE = 1024
SOURCE = "ViG (arXiv 2405.18425), 1024 x 1024"


def main() -> None:
    arguments = parser(__doc__).parse_args()

    def rows() -> list[tuple[str, str, str, str]]:
        torch.manual_seed(0)
        image = torch.rand(1, 3, SIDE, SIDE)
        models = [create_model(name, image_size=SIDE).eval() for name in ("vig_tiny", "deit_tiny")]
        ours, theirs = (count_macs(model, image) for model in models)
        with torch.inference_mode():
            memory = [forward_memory(model, image) for model in models]
            calls = [partial(model, image) for model in models]
            fast, slow = processor_seconds(calls, rounds=arguments.rounds, seconds=arguments.seconds)
        saved = 1 - memory[0] / memory[1]
        held = " MiB against ".join(f"{held / 2**20:.0f}" for held in memory) + " MiB"
        return [
            (
                f"ViG-T with fewer multiply-adds than DeiT-T: {SOURCE}",
                "5.2 times",
                f"{theirs / ours:.2f} times ({ours / 1e9:.1f} G against {theirs / 1e9:.1f} G)",
                verdict(theirs / ours, 5.2),
            ),
            (
                f"ViG-T as fast as DeiT-T: {SOURCE}",
                "4.8 times (GPU)",
                f"{slow / fast:.2f} times ({fast:.2f} s against {slow:.2f} s, batch 1)",
                verdict(slow / fast, 4.8),
            ),
            (
                f"ViG-T with less memory than DeiT-T: {SOURCE}",
                "90 % less (GPU)",
                f"{100 * abs(saved):.0f} % {'less' if saved > 0 else 'more'}: {held}, fused attention in both",
                verdict(saved, 0.9),
            ),
        ]

    report(arguments, rows)


if __name__ == "__main__":
    main()
