"""How far a long piece of work on pictures is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

Item = TypeVar("Item")


class PictureBar:
    """How far all pictures and the current one are, on a terminal; silent elsewhere."""

    def __init__(self, total: int, shown: bool) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn())
        self.progress = Progress(
            *columns, TimeRemainingColumn(), console=console, disable=not (shown and console.is_terminal)
        )
        self.overall = self.progress.add_task("pictures", total=total)
        self.current = self.progress.add_task("", total=None)

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def each(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items; the bar of all moves when the next is asked for."""
        for item in items:
            yield item
            self.progress.advance(self.overall)

    def begin(self, name: str, pixels: int) -> None:
        """The next picture."""
        self.progress.reset(self.current, description=name, total=pixels)

    def advance(self, pixels: int) -> None:
        self.progress.advance(self.current, pixels)
