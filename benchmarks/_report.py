"""What the benchmarks share: a clock, sizes of directories, and tables a person can read."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

console = Console()


class Clock:
    """Seconds that a `with` block took."""

    seconds: float = 0.0


@contextmanager
def clock() -> Iterator[Clock]:
    c = Clock()
    start = time.perf_counter()
    try:
        yield c
    finally:
        c.seconds = time.perf_counter() - start


def repeated(fn: Callable[[], Any], times: int) -> tuple[float, float]:
    """Median and 95th percentile of the seconds that `fn` takes."""
    samples = []
    for _ in range(times):
        with clock() as c:
            fn()
        samples.append(c.seconds)
    samples.sort()
    return median(samples), samples[min(len(samples) - 1, int(len(samples) * 0.95))]


def files_and_bytes(folder: str | Path) -> tuple[int, int]:
    """How many files lie under `folder`, and how many bytes they hold."""
    count = size = 0
    for root, _, names in os.walk(folder):
        for name in names:
            count += 1
            size += (Path(root) / name).stat().st_size
    return count, size


def bytes_written() -> int:
    """Bytes that this process has written to files so far (Linux): what is written over others counts, too."""
    return int(psutil.Process().io_counters().write_chars)


def duration(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} us"
    if seconds < 1:
        return f"{seconds * 1e3:.2f} ms"
    return f"{seconds:.2f} s"


def amount(nbytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 1000 or unit == "GB":
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.1f} TB"


def table(title: str, columns: list[str], rows: list[list[str]], note: str = "") -> None:
    t = Table(title=title, title_justify="left", caption=note or None, caption_justify="left")
    for i, name in enumerate(columns):
        t.add_column(name, justify="left" if i == 0 else "right")
    for row in rows:
        t.add_row(*row)
    console.print(t)


def machine() -> None:
    where = f"{platform.system()} {platform.machine()}"
    console.print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {where}")
