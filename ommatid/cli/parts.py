"""`ommatid parts`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ommatid.cli.tables import print_table


def parts(
    pattern: Annotated[str, typer.Argument(help="Wildcards, as in '*window*'.")] = "*",
    role: Annotated[
        str | None, typer.Option(help="mixer, channel_mixer, stem, downsample, norm or position; all by default.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Also write the list to this file.")] = None,
) -> None:
    """List the parts that a pyramid is composed of, with paper, cost and options."""
    from ommatid.workflows.parts import parts_table

    print_table(parts_table(pattern, role=role, json_path=json))
