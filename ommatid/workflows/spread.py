"""Work spread over the processes of a Ray cluster, or done here, one piece after the other."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")

LOCAL = "local"
"""In place of an address: a cluster of this machine's cores, for this command alone."""


def spread(
    work: Callable[[Job], Result], jobs: Iterable[Job], ray: str | None = None
) -> Iterator[tuple[Job, Result | None, str | None]]:
    """What came of each job, as it comes: (job, result, None), or (job, None, why it failed).

    A job is asked for when there is a process for it, so that jobs may follow from the results of others.

    Args:
        work: a function that other processes can import; its files are where they all see them.
        jobs: what it is called with.
        ray: the address of a Ray cluster, "auto" for the one that runs here, "local" for one of this machine's cores;
            None for no other process.

    Raises:
        ValueError: Ray is not installed, or there is no cluster at the address.
    """
    if ray is None:
        for job in jobs:
            yield job, *_outcome(work, job)
    else:
        yield from _on_cluster(work, jobs, ray)


def _outcome(work: Callable[[Job], Result], job: Job) -> tuple[Result | None, str | None]:
    try:
        return work(job), None
    except Exception as error:  # one that fails must not cost the others their turn
        return None, reason(error)


def reason(error: Exception) -> str:
    """One line; the kind of error is said where the message was not written for people."""
    return " ".join((str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}").split())


def _on_cluster(
    work: Callable[[Job], Result], jobs: Iterable[Job], address: str
) -> Iterator[tuple[Job, Result | None, str | None]]:
    with _connected(address) as cluster:
        remote = cluster.remote(num_cpus=1)(_outcome)
        waiting, at_work = iter(jobs), dict[Any, Job]()
        processes = max(int(cluster.cluster_resources().get("CPU", 1)), 1)
        while True:
            while len(at_work) < processes and (job := next(waiting, None)) is not None:
                at_work[remote.remote(work, job)] = job
            if not at_work:
                return
            (done, *_), _ = cluster.wait(list(at_work), num_returns=1)
            job = at_work.pop(done)
            try:
                yield job, *cluster.get(done)
            except cluster.exceptions.RayError as error:  # the process itself died, again and again
                yield job, None, reason(error)


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """The module `ray`, connected; whoever was connected before stays so."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    try:
        import ray
    except ImportError:
        raise ValueError(f"ray = {address!r} is not possible: install it with pip install 'ommatid[scale]'") from None
    if ray.is_initialized():
        yield ray
        return
    dashboard = False if address == LOCAL else None
    try:
        ray.init(address=address, include_dashboard=dashboard, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ValueError(f"ray = {address!r} is not possible: {reason(error)}") from None
    try:
        yield ray
    finally:
        ray.shutdown()
