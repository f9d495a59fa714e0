"""Numbers as people read them: three significant digits, a unit, a dash for what was not measured."""

import math
from pathlib import PurePath
from typing import Any

MISSING = "–"
NARROW_SPACE = "\u202f"


def is_number(value: Any) -> bool:
    """True for a finite int or float; None, NaN, infinities, booleans and text are no measurement."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def plain(value: Any) -> str:
    """The value as text, a dash for None and NaN."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return MISSING
    return str(value)


def short_name(name: str) -> str:
    """The name cut to what fits in a figure; a file's without its folder and suffix."""
    name = PurePath(name).stem if name.endswith((".yaml", ".yml", ".json")) else name
    return name if len(name) <= 20 else f"{name[:19]}…"


def significant(value: Any) -> str:
    """Three significant digits without exponent: 0.0123, 4.21, 38.5, 1 234."""
    if not is_number(value):
        return MISSING
    if value == 0:
        return "0"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}".replace(",", NARROW_SPACE)


def fixed(value: Any) -> str:
    """Three decimals, for scores and losses."""
    return f"{value:.3f}" if is_number(value) else MISSING


def percent(value: Any) -> str:
    """A share between 0 and 1 as per cent with one decimal."""
    return f"{100 * value:.1f}{NARROW_SPACE}%" if is_number(value) else MISSING


def count(value: Any) -> str:
    """A large count with its SI letter: 28.3 M."""
    if not is_number(value):
        return MISSING
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{significant(value / size)}{NARROW_SPACE}{letter}"
    return significant(value) if value % 1 else f"{value:.0f}"


def whole(value: Any) -> str:
    """Every digit of a whole number, in groups of three: 14 703."""
    return f"{value:,}".replace(",", NARROW_SPACE) if is_number(value) else MISSING


def duration(seconds: Any) -> str:
    """Seconds as 8.2 s, 3 min 20 s or 2 h 5 min."""
    if not is_number(seconds):
        return MISSING
    if seconds < 60:
        return f"{significant(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"
