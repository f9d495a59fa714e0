"""One of our models and timm's of the same architecture, each by every way to run it, in turns, with equal weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ommatid.deployment.forms import (
    Form,
    dtype_name,
    forms_of,
    largest_difference,
    own_forms,
    reduced_precisions,
    tensors_of,
)
from ommatid.measuring.macs import count_macs
from ommatid.measuring.measure import image_for
from ommatid.measuring.peers import output_error, published_size, timm_twin
from ommatid.measuring.timing import Call, Clock, Quartiles, alternate, quartiles, thread_count
from ommatid.models import create_model
from ommatid.nn.deploy import deployed_copy

CPU = torch.device("cpu")
TOLERANCE = 0.03
"""Largest difference from float32 outputs, as a fraction of their largest magnitude, at which a way counts."""

PRODUCT = 2048
"""Rows and columns of the large matrix product that the models' arithmetic is compared with."""

OURS, TIMMS = "ours", "timm"
ANY = "any precision"


@dataclass(frozen=True)
class Way:
    """Milliseconds of one way to run a model; `problem` instead where it can't be had here, or answers otherwise.

    `error` is the largest difference from timm's float32 outputs, as a fraction of their largest magnitude.
    """

    latency_ms: float | None
    p25: float | None
    p75: float | None
    error: float | None
    problem: str | None = None


@dataclass(frozen=True)
class Faced:
    """Our model and timm's in one precision.

    ways: of both ("ours", "timm"), by name. best: the names of the fastest, of those that have one which counts. ratio:
    timm's best against our best, from pairs of neighbouring runs: above 1 ours is faster; None where one has no best.
    product_gflops: billions of operations in a second of a large matrix product in this precision; share: what our best
    way reaches of it.
    """

    ways: dict[str, dict[str, Way]]
    best: dict[str, str]
    ratio: Quartiles | None
    product_gflops: float
    share: float | None


@dataclass(frozen=True)
class Race:
    """All of one model at one batch and one number of threads.

    eager: timm's eager float32 time against ours, both as they come. gain: timm's eager float32 time against our
    fastest way of all. against_best: timm's fastest way of all against ours. Above 1 ours is faster; each a median of
    pairs with its quartiles.
    """

    model: str
    batch: int
    threads: int
    size: tuple[int, int]
    rounds: int
    precisions: dict[str, Faced]
    eager: Quartiles
    gain: Quartiles
    against_best: Quartiles


def race_ways(model: str, *, batch: int, threads: int, rounds: int, seconds: float, clock: Clock) -> Race:
    """Measures everything about one model; meant for a process of its own, which compilers and runtimes fill.

    Raises:
        ValueError: timm has no such model, or its outputs differ.
    """
    ours = create_model(model).eval().requires_grad_(False)
    theirs = timm_twin(model, ours).requires_grad_(False)
    size = published_size(theirs)
    output_error(ours, theirs, image_for(ours, 1, size))
    example = image_for(ours, batch, size)
    macs = batch * count_macs(ours, image_for(ours, 1, size))
    with thread_count(threads):
        with torch.inference_mode():
            expected = tensors_of(theirs(example))
        calls: dict[tuple[str, str], Call] = {}
        known: dict[tuple[str, str], Way] = {}
        for who, subject in ((OURS, deployed_copy(ours)), (TIMMS, theirs)):
            ways = forms_of(subject, example) | (own_forms(subject, example) if who == OURS else {})
            for name, (way, call) in _prepared(ways, example, expected).items():
                known[who, name] = way
                if call is not None:
                    calls[who, name] = call
        products = {dtype_name(dtype): _product(dtype) for dtype in (torch.float32, *reduced_precisions(CPU))}
        with torch.inference_mode():
            timed = alternate([*calls.values(), *products.values()], CPU, rounds=rounds, seconds=seconds, clock=clock)
    columns = [list(column) for column in zip(*timed, strict=True)]
    times = dict(zip(calls, columns, strict=False))
    product_times = dict(zip(products, columns[len(calls) :], strict=True))

    def ratio(peer: tuple[str, str], own: tuple[str, str]) -> Quartiles:
        return quartiles([theirs / mine for theirs, mine in zip(times[peer], times[own], strict=True)])

    def fastest(who: str, precision: str) -> list[tuple[str, str]]:
        """The fastest way, if any counts."""
        allowed = [key for key in times if key[0] == who and precision in (ANY, precision_of(key[1]))]
        return sorted(allowed, key=lambda key: quartiles(times[key]).median)[:1]

    faced = {}
    for precision, product in product_times.items():
        best = {who: way for who in (OURS, TIMMS) for way in fastest(who, precision)}
        gflops = 2 * PRODUCT**3 / quartiles(product).median / 1e9
        reached = 2 * macs / quartiles(times[best[OURS]]).median / 1e9 if OURS in best else None
        faced[precision] = Faced(
            ways={who: _ways(who, precision, known, times) for who in (OURS, TIMMS)},
            best={who: way for who, (_, way) in best.items()},
            ratio=ratio(best[TIMMS], best[OURS]) if len(best) == 2 else None,
            product_gflops=gflops,
            share=None if reached is None else reached / gflops,
        )
    (mine,), (peer,) = fastest(OURS, ANY), fastest(TIMMS, ANY)
    eager = (TIMMS, "eager")
    return Race(
        model=model,
        batch=batch,
        threads=threads,
        size=size,
        rounds=len(timed),
        precisions=faced,
        eager=ratio(eager, (OURS, "eager")),
        gain=ratio(eager, mine),
        against_best=ratio(peer, mine),
    )


def precision_of(way: str) -> str:
    return "bfloat16" if "bfloat16" in way else "float32"


def geometric_mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def _prepared(ways: dict[str, Form], example: Tensor, expected: list[Tensor]) -> dict[str, tuple[Way, Call | None]]:
    """Every way by name: what is known of it before it is timed, and the call to time where it counts."""
    found: dict[str, tuple[Way, Call | None]] = {}
    for name, make in ways.items():
        try:
            with torch.no_grad():
                form = make()
            with torch.inference_mode():
                error = largest_difference(form(example), expected)
        except Exception as problem:  # a way that one of the two models has not is a finding
            reason = (str(problem).strip().splitlines() or [""])[0]
            found[name] = Way(None, None, None, None, f"{type(problem).__name__}: {reason}"), None
            continue
        agrees = error <= TOLERANCE
        way = Way(None, None, None, error, None if agrees else f"its answers differ by {error:.1e}")
        found[name] = way, partial(form, example) if agrees else None
    return found


def _ways(
    who: str, precision: str, known: dict[tuple[str, str], Way], times: dict[tuple[str, str], list[float]]
) -> dict[str, Way]:
    ways = {}
    for key, way in known.items():
        if key[0] != who or precision_of(key[1]) != precision:
            continue
        if key in times:
            median, p25, p75 = (1e3 * value for value in quartiles(times[key]))
            way = Way(median, p25, p75, way.error)
        ways[key[1]] = way
    return ways


def _product(dtype: torch.dtype) -> Call:
    left, right = torch.rand(2, PRODUCT, PRODUCT).to(dtype)
    return partial(torch.mm, left, right)
