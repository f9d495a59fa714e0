"""What every script here shares: turns of two calls by the processor's clock, and a row of the table in README.md.

A claim that does not hold is a row like any other: its last column says so, and why.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ommatid.measuring.machine import describe_machine
from ommatid.measuring.timing import Call, alternate

TABLE = Path(__file__).parent / "README.md"
CPU = torch.device("cpu")


def processor_seconds(calls: list[Call], *, rounds: int, seconds: float) -> list[float]:
    """Median of each call's processor time, in turns: whatever else the machine does falls on all alike."""
    times = alternate(calls, CPU, rounds=rounds, seconds=seconds, clock=time.process_time)
    return [statistics.median(column) for column in zip(*times, strict=True)]


def parser(about: str | None) -> argparse.ArgumentParser:
    """With what every script takes."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--rounds", type=int, default=15)
    made.add_argument("--seconds", type=float, default=60.0, help="no round begins later")
    made.add_argument("--write", action="store_true", help="puts the rows into README.md")
    return made


def report(arguments: argparse.Namespace, rows: Callable[[], list[tuple[str, str, str, str]]]) -> None:
    """Prints (claim, claimed, measured here, verdict) rows, and puts them into the table where asked to.

    Rows of the same claim are replaced.
    """
    torch.set_num_threads(arguments.threads)
    script = Path(sys.argv[0]).name
    options = shlex.join(word for word in sys.argv[1:] if word != "--write")
    how = f"`python benchmarks/claims/{script}{' ' + options if options else ''}`"
    lines = {
        claim: f"| {claim} | {claimed} | {found} | {verdict} | {how} |" for claim, claimed, found, verdict in rows()
    }
    print("\n".join(lines.values()))
    if arguments.write:
        machine = describe_machine()
        print(f"measured on {machine}", file=sys.stderr)
        kept = [
            line
            for line in TABLE.read_text().splitlines()
            if not any(line.startswith(f"| {claim} |") for claim in lines)
        ]
        TABLE.write_text("\n".join([*kept, *lines.values()]) + "\n")


def verdict(measured: float, claimed: float, *, slack: float = 0.9) -> str:
    """Whether a ratio of at least nine tenths of the claimed one was seen."""
    return "holds" if measured >= slack * claimed else "not here"
