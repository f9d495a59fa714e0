"""Which of the processes of a training this is."""

from __future__ import annotations

import os


def is_first_process() -> bool:
    """Whether this is the one that writes; launchers tell the others their rank by environment variables."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "NODE_RANK", "LOCAL_RANK", "SLURM_PROCID"))
