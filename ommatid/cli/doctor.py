"""`ommatid doctor`."""

from __future__ import annotations

from ommatid.cli.tables import print_table


def doctor() -> None:
    """Say what this machine offers and what is missing."""
    from ommatid.workflows.doctor import doctor as workflow

    print_table(workflow())
