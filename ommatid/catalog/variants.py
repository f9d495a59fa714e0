"""How many parameters each variant has, counted once: building them all to print a list would take minutes."""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files


@cache
def counted_parameters() -> dict[str, int]:
    """Parameters of every variant in variants.tsv, which `python docs/variant_counts.py` writes."""
    lines = (files("ommatid.catalog") / "variants.tsv").read_text(encoding="utf-8").splitlines()
    return {row["variant"]: int(row["parameters"]) for row in csv.DictReader(lines, delimiter="\t")}
