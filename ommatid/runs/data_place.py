"""What data is called in a file that is read again from another working folder."""

from __future__ import annotations

from pathlib import Path


def data_place(data: str | Path, embedded: str = "digits") -> str:
    """The name of the `embedded` data and `torchvision:NAME` as they are, anything else as an absolute path."""
    if data == embedded or str(data).startswith("torchvision:"):
        return str(data)
    return str(Path(data).expanduser().resolve())
