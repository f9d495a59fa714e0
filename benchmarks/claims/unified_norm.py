"""A transformer with unified norms, folded, against the same with layer norms: time and memory of inference.

The backbone that the paper measures, T2T-ViT-14, without its module that makes tokens: 14 blocks of 384 channels, 6
heads, hidden layers three times as wide.

python benchmarks/claims/unified_norm.py
"""

from __future__ import annotations

import copy
from functools import partial

import torch
from claim import parser, processor_seconds, report, verdict
from torch import nn

from ommatid.measuring.measure import forward_memory
from ommatid.methods.unified_norms import unify_norms
from ommatid.models import create_model
from ommatid.models.backbone import Backbone

SHAPE = {"dim": 384, "depth": 14, "heads": 6, "mlp_ratio": 3.0}
SOURCE = "Unified Normalization (arXiv 2208.01313), ViT of 14 blocks, 384 wide, 224 x 224"
FASTER, LESS_MEMORY = 1.31, 0.18


def without_norms(model: Backbone) -> Backbone:
    """A copy that leaves them out: what is the most that there is to gain."""
    bare = copy.deepcopy(model)
    for owner in list(bare.modules()):
        for name, part in owner.named_children():
            if isinstance(part, nn.LayerNorm):
                setattr(owner, name, nn.Identity())
    return bare


def because(word: str, why: str) -> str:
    return word if word == "holds" else f"{word}: {why}"


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--batch", type=int, default=8)
    arguments = made.parse_args()

    def rows() -> list[tuple[str, str, str, str]]:
        torch.manual_seed(0)
        image = torch.rand(arguments.batch, 3, 224, 224)
        layer_norms = create_model("vit", **SHAPE).eval()
        models = [unify_norms(layer_norms).deploy(), layer_norms.deploy(), without_norms(layer_norms).deploy()]
        with torch.inference_mode():
            memory = [forward_memory(model, image) / 2**20 for model in models]
            calls = [partial(model, image) for model in models]
            fast, slow, bare = processor_seconds(calls, rounds=arguments.rounds, seconds=arguments.seconds)
        saved, batch = 1 - memory[0] / memory[1], f"batch {arguments.batch}"
        return [
            (
                f"As fast with unified norms as with layer norms, {batch}: {SOURCE}",
                f"{FASTER:.2f} times (GPU)",
                f"{slow / fast:.2f} times ({1e3 * fast:.0f} ms against {1e3 * slow:.0f} ms)",
                because(verdict(slow / fast, FASTER), f"without any norms it is {slow / bare:.2f} times as fast"),
            ),
            (
                f"Less memory with unified norms than with layer norms, {batch}: {SOURCE}",
                f"{100 * LESS_MEMORY:.0f} % less (GPU)",
                f"{100 * abs(saved):.0f} % {'less' if saved > 0 else 'more'}: {memory[0]:.0f} MiB against "
                f"{memory[1]:.0f} MiB",
                because(verdict(saved, LESS_MEMORY), f"without any norms it is {memory[2]:.0f} MiB"),
            ),
        ]

    report(arguments, rows)


if __name__ == "__main__":
    main()
