"""`ommatid serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def serve(
    run: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="A trained classifier to try; the workshop where not given.")
    ] = None,
    host: Annotated[str, typer.Option(help="Who may see the page: this machine alone by default.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any that is free.")] = 7860,
) -> None:
    """A page: compose models and see what comes of it, or try a trained one on pictures."""
    from ommatid.workflows.serve import serve as workflow

    workflow(run, host=host, port=port)
