"""What a person sees of a long job: a bar with rate and time left, Dask's own in a notebook, nothing in a pipe."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

__all__ = ["Bar", "Progress"]


class Bar:
    """A bar that isn't shown."""

    def advance(self, amount: int) -> None:
        """That much more is done."""

    def show_futures(self, futures: Sequence[Any]) -> None:
        """These are running on a cluster."""


class _RichBar(Bar):
    def __init__(self, progress: Any, task: Any) -> None:
        self._progress, self._task = progress, task

    def advance(self, amount: int) -> None:
        self._progress.advance(self._task, amount / 1e6)


class _NotebookBar(Bar):
    def show_futures(self, futures: Sequence[Any]) -> None:
        from distributed import progress

        progress(list(futures))


def _in_notebook() -> bool:
    if "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return shell is not None and "IPKernelApp" in getattr(shell, "config", {})


class Progress:
    """Where a job tells what it does.

    Parameters
    ----------
    show
        False says nothing; True writes to the terminal, if there is one, or to the notebook.
    unit
        A million of what amounts count.

    Examples
    --------
    >>> with Progress(False).phase("bricks", 100, 0) as bar:
    ...     bar.advance(100)
    """

    def __init__(self, show: bool = True, *, unit: str = "Mvoxel") -> None:
        self.show = show
        self.unit = unit

    def say(self, text: str) -> None:
        """A line for people."""
        if self.show:
            print(text, file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def phase(self, title: str, total: int, done: int) -> Iterator[Bar]:
        """A bar for one phase; amounts are voxels, or what the unit says."""
        if not self.show:
            yield Bar()
        elif _in_notebook():
            self.say(title)
            yield _NotebookBar()
        else:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as Rich

            console = Console(stderr=True)
            if not console.is_terminal:
                yield Bar()
                return
            columns = (
                TextColumn("{task.description:<24}"),
                BarColumn(),
                TextColumn(f"{{task.completed:,.0f}}/{{task.total:,.0f}} {self.unit}"),
                _rate_column(self.unit),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
            )
            with Rich(*columns, console=console) as rich:
                task = rich.add_task(title, total=total / 1e6, before=done / 1e6)
                rich.advance(task, done / 1e6)
                yield _RichBar(rich, task)


def _rate_column(unit: str) -> Any:
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            elapsed = task.finished_time if task.finished else task.elapsed
            done = task.completed - task.fields["before"]
            return Text(f"{done / elapsed:,.1f} {unit}/s" if elapsed and done else "")

    return Rate()
