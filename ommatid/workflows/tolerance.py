"""How much accuracy may be lost, as people write it."""

from __future__ import annotations

import re

from ommatid.models.config import require


def parse_tolerance(text: str) -> float:
    """`"1 point"`, `"0.5 points"`, `".5%"` or `"1"`, points all of them -> 0.01, 0.005, 0.005 or 0.01.

    Raises:
        ValueError: it is anything else.
    """
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*(?:points?|%)?\s*", text)
    require(match is not None, "tolerance", text, 'points of accuracy, as in "1 point" or "0.5 points"')
    assert match is not None
    return float(match[1]) / 100
