"""What a composition may cost, as people write it: latency<5ms,params<10M."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from ommatid.ops.refusal import suggest

WORDS = {"latency": "latency_ms", "params": "parameters", "parameters": "parameters", "macs": "macs"}
"""What may be limited -> what it is called where it is predicted."""

UNITS = {
    "latency_ms": {"us": 1e-3, "ms": 1.0, "s": 1e3},
    "parameters": {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9},
    "macs": {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9},
}


@dataclass(frozen=True)
class Budget:
    """Limits by what they are limits of: latency_ms, parameters, macs."""

    limits: Mapping[str, float]
    text: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError where a limit is not WORD<NUMBER UNIT."""
        limits: dict[str, float] = {}
        for clause in (clause.strip() for clause in text.split(",") if clause.strip()):
            match = re.fullmatch(r"([a-z]+)\s*<=?\s*([\d.]+(?:e\d+)?)\s*([a-zA-Z]*)", clause, re.IGNORECASE)
            if match is None:
                raise ValueError(
                    f"budget {clause!r} is not a limit: write for example latency<5ms, params<10M, macs<300M"
                )
            word, number, unit = match[1].lower(), match[2], match[3]
            if word not in WORDS:
                raise ValueError(
                    f"budget {clause!r}: {word!r} cannot be limited{suggest(word, WORDS)}: {', '.join(WORDS)}"
                )
            limits[WORDS[word]] = _amount(clause, WORDS[word], number, unit)
        return cls(limits, text)

    def exceeded(self, name: str, value: float) -> str | None:
        """In words, what is too much; None where nothing is."""
        limit = self.limits.get(name)
        return None if limit is None or value < limit else f"{name} {value:.3g} is over {limit:.3g}"


def _amount(clause: str, name: str, number: str, unit: str) -> float:
    units = UNITS[name]
    try:
        amount = float(number) * units[unit.lower()]
    except (KeyError, ValueError):
        allowed = ", ".join(filter(None, units))
        raise ValueError(f"budget {clause!r}: {number}{unit} is no amount; units are {allowed}") from None
    if amount <= 0:
        raise ValueError(f"budget {clause!r} is not possible: allowed is more than 0")
    return amount
