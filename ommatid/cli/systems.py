"""`ommatid systems`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ommatid.cli.tables import print_table


def systems(
    query: Annotated[str, typer.Argument(help="Words of the id or title.")] = "",
    area: Annotated[str | None, typer.Option(help="Only this area of vision.")] = None,
    json: Annotated[Path | None, typer.Option(help="Also write the list to this file.")] = None,
) -> None:
    """Search the catalogue of published systems, and see which are implemented here."""
    from ommatid.workflows.systems import search_systems

    print_table(search_systems(query, area=area, json_path=json))
