"""Writes the table of families into README.md, from the registry and a run of every reference case.

Run it as `python docs/family_table.py`.
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from ommatid.catalog.systems import all_systems
from ommatid.models import families
from ommatid.workflows.verify import CaseResult, CountResult, verify

ROOT = Path(__file__).resolve().parent.parent
START, END = "<!-- families -->", "<!-- /families -->"


def main() -> None:
    readme = ROOT / "README.md"
    before, rest = readme.read_text().split(START)
    after = rest.split(END)[1]
    readme.write_text(f"{before}{START}\n{table()}\n{END}{after}")


def table() -> str:
    titles = {system.id: system.title for system in all_systems()}
    lines = [
        "| family | paper | variants | parameters (published counts, all exact) | cases | worst relative error |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    results = verify(cases=ROOT / "tests" / "parity" / "cases")
    for id, group in groupby(results, key=lambda result: result.system):
        lines.append(row(id, titles.get(id, ""), list(group)))
    return "\n".join(lines)


def row(id: str, title: str, results: list[CaseResult | CountResult]) -> str:
    cases = [result for result in results if isinstance(result, CaseResult)]
    counts = [result for result in results if isinstance(result, CountResult)]
    wrong = [result for result in results if not result.ok]
    if wrong:
        raise SystemExit(f"{id}: {wrong[0]}")
    sizes = sorted(result.expected for result in counts)
    span = " – ".join(f"{size / 1e6:.1f} M" for size in dict.fromkeys([*sizes[:1], *sizes[-1:]]))
    worst = max(result.worst for result in cases)
    link = f"[`{id}`](docs/systems/{id}.md)"
    return f"| {link} | {title} | {len(families()[id].variants)} | {span} | {len(cases)} | {worst:.0e} |"


if __name__ == "__main__":
    main()
