"""What data is called in a file that is read again from another working folder."""

from __future__ import annotations

from pathlib import Path


def data_place(data: str | Path) -> str:
    """`digits` and `torchvision:NAME` as they are, anything else as an absolute path."""
    if data == "digits" or str(data).startswith("torchvision:"):
        return str(data)
    return str(Path(data).expanduser().resolve())
