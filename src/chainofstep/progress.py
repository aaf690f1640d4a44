"""One progress bar for every long stage: on stderr, with the time left."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Tick(Protocol):
    """Told how many are done, and what else is worth a look meanwhile (what was spent)."""

    def __call__(self, done: int, note: str = "") -> None: ...


@contextmanager
def progress(title: str, total: int | None) -> Iterator[Tick]:
    """A bar that is gone when the work is done; without a `total` it counts."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    times = (TextColumn("elapsed"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    note = TextColumn("{task.fields[note]}")
    console = Console(stderr=True)
    # A file that standard error goes to wants lines, not a bar.
    with Progress(*columns, *times, note, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total, note="")

        def tick(done: int, note: str = "") -> None:
            bar.update(task, completed=done, note=note)

        yield tick
