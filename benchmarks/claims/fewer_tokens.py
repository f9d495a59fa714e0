"""ViTs that compute fewer tokens, against themselves: ToMe, Expedit and IA-RED^2 by time, Sparsifiner by operations.

python benchmarks/claims/fewer_tokens.py

Weights are random: how fast a reduced model is does not depend on them, but for IA-RED^2, whose policies are set to
keep what the paper's kept. What accuracy is left is another question: `ommatid reduce` answers it for a trained model.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from claim import parser, processor_seconds, report, verdict
from torch import Tensor, nn

from ommatid.measuring.macs import count_macs
from ommatid.methods.tokens import drop_tokens, merge_tokens
from ommatid.models import create_model
from ommatid.nn.trunks.interpreted import Interpreter

TOME = "ToMe (arXiv 2210.09461), off the shelf"
# model, r, images a second without and with, on a V100
PUBLISHED = [("deit_tiny", 13, 3980 / 2558), ("deit_small", 13, 1550 / 930), ("deit_small", 16, None)]
KEPT = (0.8, 0.65, 0.48)
"""Of IA-RED^2's three groups, so that as large a share of the multiply-adds is left as in the paper, 3.2 of 4.6 G. What
a trained interpreter would keep, and at what accuracy, is not measured."""

Row = tuple[str, str, str, str]


class FixedShare(Interpreter):
    """An interpreter that keeps as many tokens as it is told: the work of a trained one."""

    def __init__(self, interpreter: Interpreter, share: float) -> None:
        super().__init__(interpreter.qk.in_features, interpreter.heads)
        self.qk, self.share = interpreter.qk, share

    def forward(self, tokens: Tensor, kept: Tensor) -> Tensor:
        probability = super().forward(tokens, kept)
        count = round(self.share * 196) + 1
        chosen = probability.topk(min(count, probability.shape[1]), dim=1).indices
        return torch.zeros_like(probability).scatter(1, chosen, 0.9)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--batch", type=int, default=8)
    arguments.add_argument("--only", choices=["tome", "ia_red2", "expedite", "sparsifiner"])
    chosen = arguments.parse_args()

    def rows() -> list[Row]:
        torch.manual_seed(0)
        timed = partial(race, batch=chosen.batch, rounds=chosen.rounds, seconds=chosen.seconds)
        parts: dict[str, Callable[[], list[Row]]] = {
            "tome": partial(merged, timed),
            "ia_red2": partial(dropped, timed),
            "expedite": partial(expedited, chosen.rounds, chosen.seconds),
            "sparsifiner": sparse,
        }
        wanted = [chosen.only] if chosen.only else [*parts]
        return [row for name in wanted for row in parts[name]()]

    report(chosen, rows)


def race(model: nn.Module, reduced: nn.Module, *, batch: int, rounds: int, seconds: float) -> tuple[float, str]:
    """How many times as fast the reduced model is, and that in words."""
    image = torch.rand(batch, 3, 224, 224)
    with torch.inference_mode():
        slow, fast = processor_seconds([partial(model, image), partial(reduced, image)], rounds=rounds, seconds=seconds)
        macs = [count_macs(part, image[:1]) / 1e9 for part in (model, reduced)]
    told = f"{slow / fast:.2f} times ({1e3 * fast:.0f} ms against {1e3 * slow:.0f} ms, batch {batch}"
    return slow / fast, f"{told}; {macs[1]:.2f} G multiply-adds against {macs[0]:.2f} G)"


def merged(timed: Callable[..., tuple[float, str]]) -> list[Row]:
    rows = []
    for name, r, claimed in PUBLISHED:
        model = create_model(name).eval()
        ratio, told = timed(model, merge_tokens(model, r=r))
        held = verdict(ratio, claimed) if claimed else "no number published"
        rows.append((f"{name} with r = {r}: {TOME}", f"{claimed:.2f} times (GPU)" if claimed else "-", told, held))
    return rows


def dropped(timed: Callable[..., tuple[float, str]]) -> list[Row]:
    model = create_model("deit_small").eval()
    reduced = drop_tokens(model)
    trunk: Any = reduced.model.blocks
    for group, share in enumerate(KEPT):
        trunk.interpreters[group] = FixedShare(trunk.interpreters[group], share)
    ratio, told = timed(model, reduced.eval())
    source = f"deit_small, groups keep {', '.join(f'{share:.0%}' for share in KEPT)}: IA-RED^2 (arXiv 2106.12620)"
    return [(source, "up to 1.4 times", told, verdict(ratio, 1.4))]


def expedited(rounds: int, seconds: float) -> list[Row]:
    """Segment Anything's encoder in small: 8 blocks, 384 wide, images of 512 pixels a side, untrained."""
    shape = {"image_size": 512, "depth": 8, "global_blocks": [1, 3, 5, 7], "dim": 384, "heads": 6}
    plain = create_model("expedite", **shape).eval()
    rows = []
    for location, clusters, claimed in ((2, 81, 1.89 / 1.27), (2, 100, 1.64 / 1.27), (4, 121, 1.40 / 1.27)):
        reduced = create_model("expedite", **shape, location=location, clusters=clusters).eval()
        reduced.load_state_dict(plain.state_dict())
        image = torch.rand(1, 3, 512, 512)
        with torch.inference_mode():
            calls = [partial(plain, image), partial(reduced, image)]
            slow, fast = processor_seconds(calls, rounds=rounds, seconds=seconds)
        told = f"{slow / fast:.2f} times ({1e3 * fast:.0f} ms against {1e3 * slow:.0f} ms, batch 1)"
        source = f"SAM encoder of 8 blocks, 384 wide, clustered before {location}, {clusters} a window"
        rows.append(
            (f"{source}: Expedit (arXiv 2210.01035)", f"{claimed:.2f} times (GPU)", told, verdict(slow / fast, claimed))
        )
    return rows


def sparse() -> list[Row]:
    """Multiply-adds of one layer's attention, projections included, as the paper counts MHSA."""
    rows = []
    for keep, claimed in ((0.25, 0.48), (0.1, 0.48), (0.05, 0.69)):
        saved = 1 - sparse_macs(keep) / sparse_macs(None)
        products = 1 - sparse_macs(keep, projections=False) / sparse_macs(None, projections=False)
        told = f"{saved:.0%} with the projections, {products:.0%} of the products of tokens alone"
        source = f"deit_small, {keep:.0%} of the keys: Sparsifiner (arXiv 2303.13755), multiply-adds of attention"
        held = "holds" if max(saved, products) >= claimed else "not here"
        held += "" if saved >= claimed or held != "holds" else " (without the projections only)"
        rows.append((source, f"{claimed:.0%} fewer (48 to 69 %)", told, held))
    return rows


def sparse_macs(keep: float | None, *, projections: bool = True) -> float:
    """Of one layer of deit_small: 197 tokens, 6 heads of 64; dense where keep is None."""
    tokens, heads, width, topk = 197, 6, 64, 8
    projected = 4 * tokens * (heads * width) ** 2 if projections else 0
    if keep is None:
        return projected + 2 * heads * tokens**2 * width
    narrow, patterns = width // 2, tokens // 6
    predicted = heads * (2 * tokens * width * narrow + tokens * patterns * narrow * 2 + tokens * topk * tokens)
    return projected + predicted + 2 * heads * tokens * (keep * tokens) * width


if __name__ == "__main__":
    main()
