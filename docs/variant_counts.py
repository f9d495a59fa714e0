"""Writes ommatid/catalog/variants.tsv, the parameter counts that `ommatid models` lists, from the registry.

python docs/variant_counts.py
"""

from __future__ import annotations

from pathlib import Path

from ommatid.models import families
from ommatid.workflows.models import count_parameters

TABLE = Path(__file__).resolve().parent.parent / "ommatid" / "catalog" / "variants.tsv"


def main() -> None:
    own = [family for family in families().values() if family.model.__module__.startswith("ommatid.")]
    rows = sorted((name, family.id, count_parameters(name)) for family in own for name in family.variants)
    lines = ["variant\tfamily\tparameters", *("\t".join(map(str, row)) for row in rows)]
    TABLE.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
