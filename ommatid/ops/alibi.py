"""The slopes of ALiBi: how fast each head loses sight of what is far away."""

from __future__ import annotations


def alibi_slopes(heads: int) -> tuple[float, ...]:
    """One slope for each head: 2^(-8 i / heads), i = 1, ..., heads, where that is a power of two.

    Of other numbers of heads, the slopes of the next lower power of two come first, then every other of the next
    higher one's. ALiBi (arXiv 2108.12409).
    """
    power = 2 ** (heads.bit_length() - 1)
    slopes = tuple(2.0 ** (-8 * i / power) for i in range(1, power + 1))
    return slopes if heads == power else slopes + alibi_slopes(2 * power)[0::2][: heads - power]
