"""`ommatid models`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ommatid.cli.tables import print_table


def models(
    pattern: Annotated[str, typer.Argument(help="Wildcards, as in 'swin_*'.")] = "*",
    json: Annotated[Path | None, typer.Option(help="Also write the list to this file.")] = None,
) -> None:
    """List the models that can be built by name."""
    from ommatid.workflows.models import models_table

    print_table(models_table(pattern, json_path=json))
