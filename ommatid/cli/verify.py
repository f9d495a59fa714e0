"""`ommatid verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from ommatid.cli.tables import terminal

if TYPE_CHECKING:
    from ommatid.workflows.verify import CaseResult, CountResult

CHECKOUT_CASES = Path(__file__).parents[2] / "tests" / "parity" / "cases"


def verify(
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID", help="Systems; all that have cases.")] = None,
    cases: Annotated[Path | None, typer.Option(help="Folder of ID/cases.json; a checkout's own by default.")] = None,
    json: Annotated[Path | None, typer.Option(help="Also write the results to this file.")] = None,
) -> None:
    """Check that each architecture answers as its reference implementation did. Exits 1 on a miss."""
    from ommatid.workflows.verify import CaseResult
    from ommatid.workflows.verify import verify as workflow

    if cases is None and not CHECKOUT_CASES.is_dir():
        raise ValueError("this installation brings no reference cases: name their folder with --cases")
    results = workflow(ids or (), cases=cases or CHECKOUT_CASES, json_path=json)
    checked = [result for result in results if isinstance(result, CaseResult)]
    counted = [result for result in results if not isinstance(result, CaseResult)]
    console = terminal()
    console.print(_case_table(checked))
    for line in _count_lines(counted):
        console.print(line, markup=False, soft_wrap=True)
    good = sum(result.ok for result in results)
    console.print(f"{good} of {len(results)} checks passed")
    if good < len(results):
        raise typer.Exit(1)


def _case_table(results: list[CaseResult]) -> Table:
    table = Table("system", "case", "worst error", "allowed", "verdict", box=None, header_style="bold", pad_edge=False)
    for result in results:
        verdict = Text("ok", "green") if result.ok else Text(result.problem or "miss", "red")
        error = f"{result.worst:.1e}" if result.errors else "-"
        table.add_row(Text(result.system), Text(result.case), error, f"{result.rtol:.1e}", verdict)
    return table


def _count_lines(results: list[CountResult]) -> list[str]:
    exact = sum(result.ok for result in results)
    misses = [
        f"{result.variant} of {result.system}: {result.problem or result.found}, published are {result.expected}"
        for result in results
        if not result.ok
    ]
    return [f"{exact} of {len(results)} published parameter counts are exact", *misses]
