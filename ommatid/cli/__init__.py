"""The command line: parses words, calls a workflow, prints. One file per verb, no logic.

Nothing here imports torch until a verb runs, so that `--help` answers at once.
"""

from ommatid.cli.app import main

__all__ = ["main"]
