"""How well the latency of a composition is predicted from that of its pieces, on this machine.

A fresh table is measured, calibrated with some random compositions, and then asked about others, which are built and
measured after they were predicted.

    python benchmarks/predicted_latency.py --size 32 --count 20
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from pathlib import Path

import torch
from paired import machine

from ommatid.measuring.part_costs import CostTable
from ommatid.methods.composing.budget import Budget
from ommatid.methods.composing.search import Search
from ommatid.methods.composing.space import Space, chosen_parts
from ommatid.workflows.explore import CALIBRATING

RESULTS = Path(__file__).parent / "results"
NEAR = 0.15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=32, help="side of the images")
    parser.add_argument("--count", type=int, default=20, help="compositions")
    parser.add_argument("--budget", default="latency<20ms,params<10M")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    space = Space(arguments.size, 10, chosen_parts("mixer", None), chosen_parts("channel_mixer", None))
    budget = Budget.parse(arguments.budget)
    with tempfile.TemporaryDirectory() as folder:
        table = CostTable(Path(folder) / "table.json", threads=1)

        def reject(fields: dict) -> str | None:
            try:
                config = space.config(fields)
                over = budget.exceeded("parameters", table.parameters(config))
                limit = budget.limits["latency_ms"]
                return over or budget.exceeded("latency_ms", table.latency_ms(config, limit=limit))
            except ValueError as impossible:
                return str(impossible)

        table.calibrate(space.config(fields) for fields in Search.drawn(space, reject, CALIBRATING, seed=0))
        print(f"scale {table.scale:.3f}", file=sys.stderr)
        rows = []
        for fields in Search.drawn(space, reject, arguments.count, seed=arguments.seed):
            config = space.config(fields)
            predicted, measured = table.latency_ms(config), table.measured_ms(config)
            rows.append((fields, table.parameters(config), predicted, measured))
            print(f"{predicted:.2f} {measured:.2f} {predicted / measured - 1:+.0%}", file=sys.stderr)
        write(arguments, rows, table)


def write(arguments: argparse.Namespace, rows: list, table: CostTable) -> None:
    near = sum(abs(predicted / measured - 1) <= NEAR for _, _, predicted, measured in rows)
    lines = [
        f"# Predicted latency, {arguments.size} x {arguments.size} pixels",
        "",
        f"{machine(1)}. Batch 1, float32, deployed; the processor's time, lower quartile, in proportion to that of "
        "other work timed beside it. Made by",
        "",
        f"    {shlex.join(['python', *sys.argv])}",
        "",
        f"Within {NEAR:.0%} of what was measured: {near} of {len(rows)} random compositions, none of them among the "
        f"{CALIBRATING} that the scale ({table.scale:.2f}) is from. The table has {len(table.times)} pieces.",
        "",
        "| mixers | channel mixer | widths | depths | parameters | predicted, ms | measured, ms | error |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for fields, parameters, predicted, measured in rows:
        shape = (", ".join(map(str, fields[name])) for name in ("dims", "depths"))
        lines.append(
            f"| {', '.join(fields['mixer'])} | {fields['channel_mixer']} | {' | '.join(shape)} | "
            f"{parameters / 1e6:.2f} M | {predicted:.2f} | {measured:.2f} | {predicted / measured - 1:+.0%} |"
        )
    (RESULTS / f"predicted_latency_{arguments.size}.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
