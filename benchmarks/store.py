"""What the store costs, beside plain zarr, LMDB and icechunk doing the same work.

    python benchmarks/store.py [--quick] [--folder FOLDER]

Prints one table for each question. A ratio compares with the first row of its table, or says so. Times are medians. The
targets are those of docs/design/store.md.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dvid_dask.store import Store, View

VALUE = 50


def timed(action: Callable[[], object], times: int = 1) -> float:
    """Median seconds of an action."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def usage(folder: Path) -> tuple[int, int]:
    """Files in a folder and their bytes."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return len(sizes), sum(sizes)


def nice(seconds: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def table(title: str, head: list[str], rows: list[list[object]]) -> None:
    print(f"\n{title}")
    text = [head, *[[str(cell) for cell in row] for row in rows]]
    widths = [max(len(row[i]) for row in text) for i in range(len(head))]
    for row in text:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    sys.stdout.flush()


def key(i: int) -> bytes:
    return b"k%09d" % i


def fill(store: Store, name: str, count: int) -> None:
    tree = store.create_tree(name)
    value = b"v" * VALUE
    for start in range(0, count, 100_000):
        stop = min(start + 100_000, count)
        tree.update(lambda tx, r=range(start, stop): tx.put_many((key(i), value) for i in r))


# ---- questions -------------------------------------------------------------------------------------------------------


def branches(folder: Path, sizes: list[int]) -> Store:
    store = Store.create(folder / "branches")
    rows, first = [], 0.0
    for size in sizes:
        fill(store, f"t{size}", size)
        serial = iter(range(1_000))
        seconds = timed(lambda s=size, n=serial: store.branch(f"t{s}", f"t{s}-{next(n)}"), 51)
        first = first or seconds
        rows.append([f"{size:,}", nice(seconds), f"{seconds / first:.2f}"])
    table("Branch (target: at most 1 ms, flat)", ["keys", "time", "ratio"], rows)
    return store


def read_point(view: View, keys: list[bytes]) -> float:
    start = time.perf_counter()
    for k in keys:
        view.get(k)
    return (time.perf_counter() - start) / len(keys)


def read_bulk(view: View, keys: list[bytes]) -> float:
    start = time.perf_counter()
    view.get_many(keys)
    return (time.perf_counter() - start) / len(keys)


def depth(folder: Path, count: int, depths: list[int]) -> None:
    """A chain of versions, each branched from the sealed one before and edited in 20 places."""
    store = Store.create(folder / "depth")
    rng = random.Random(1)
    fill(store, "v1", count)
    store.seal("v1")
    views = {1: store.tree("v1").view()}
    for n in range(2, max(depths) + 1):
        tree = store.branch(f"v{n - 1}", f"v{n}")
        tree.update(lambda tx: tx.put_many((key(rng.randrange(count)), rng.randbytes(VALUE)) for _ in range(20)))
        store.seal(f"v{n}")
        if n in depths:
            views[n] = tree.view()
    keys = [key(rng.randrange(count)) for _ in range(20_000)]
    points: dict[int, list[float]] = {n: [] for n in views}
    bulks: dict[int, list[float]] = {n: [] for n in views}
    for view in views.values():
        view.get_many(keys)
    for _ in range(7):  # in turns, so that a busy machine is busy for all
        for n, view in views.items():
            points[n].append(read_point(view, keys[:2_000]))
            bulks[n].append(read_bulk(view, keys))
    rows = []
    for n in views:
        point, bulk = min(points[n]), min(bulks[n])
        ratios = point / min(points[1]), bulk / min(bulks[1])
        rows.append([n, nice(point), f"{ratios[0]:.2f}", f"{1 / bulk:,.0f}/s", f"{ratios[1]:.2f}"])
    title = f"Reads at depth of history, {count:,} keys, 20 changes a version, sealed (target: ratio at most 1.1)"
    table(title, ["depth", "point read", "ratio", "bulk read", "ratio"], rows)


def commits(store: Store, folder: Path, name: str) -> None:
    tree, rng = store.tree(name), random.Random(2)
    count = int(name[1:])
    rows = []
    for keys in (1, 50):
        before = usage(folder)[1]
        times = 40
        seconds = timed(
            lambda k=keys: tree.update(
                lambda tx: tx.put_many((key(rng.randrange(count)), rng.randbytes(VALUE)) for _ in range(k))
            ),
            times,
        )
        rows.append([keys, f"{(usage(folder)[1] - before) / times:,.0f}", nice(seconds)])
    title = f"Commit at {count:,} keys, durable (target: one key at most 20,000 bytes)"
    table(title, ["keys", "bytes written", "time"], rows)


def write_part(url: str, part: str, count: str) -> None:
    """What one process of `bulk` does."""
    tree = Store.open(url).tree("bulk")
    n = int(count)
    start = time.perf_counter()
    value = b"v" * VALUE
    for at in range(0, n, 100_000):
        stop = min(at + 100_000, n)
        tree.update(lambda tx, r=range(at, stop): tx.put_many((b"p%s-%09d" % (part.encode(), i), value) for i in r))
    print(time.perf_counter() - start)


def bulk(folder: Path, count: int) -> None:
    rows = []
    for processes in (1, 2, 4):
        store = Store.create(folder / f"bulk{processes}")
        store.create_tree("bulk")
        command = [sys.executable, __file__, "--write-part", store.url]
        commands = [[*command, str(i), str(count)] for i in range(processes)]
        workers = [subprocess.Popen(c, stdout=subprocess.PIPE, text=True) for c in commands]
        seconds = [float(worker.communicate()[0]) for worker in workers]
        total = processes * count / max(seconds)
        rows.append([processes, f"{total:,.0f}/s", f"{total / processes:,.0f}/s"])
    table(
        f"Bulk write of {VALUE}-byte values into one tree, {os.cpu_count()} cores (target: 80,000 keys/s a process)",
        ["processes", "together", "each"],
        rows,
    )


def diffs(store: Store, name: str, changes: int) -> None:
    tree, count, rng = store.tree(name), int(name[1:]), random.Random(3)
    before = tree.view()
    tree.update(lambda tx: tx.put_many((key(rng.randrange(count)), rng.randbytes(VALUE)) for _ in range(changes)))
    after = tree.view()
    found = len(list(store.diff(before, after)))
    seconds = timed(lambda: list(store.diff(before, after)), 3)
    whole = timed(lambda: [1 for a, b in zip(before.scan(), after.scan(), strict=True) if a != b])
    rows = [
        ["structural diff", found, nice(seconds), "1"],
        ["scan of both", found, nice(whole), f"{whole / seconds:.0f}"],
    ]
    table(f"Diff of {changes} changes in {count:,} keys", ["how", "changes", "time", "ratio"], rows)


def edits(folder: Path, count: int, base: int) -> None:
    store = Store.create(folder / "edits")
    fill(store, "base", base)
    store.seal("base")
    store.gc(0)
    start = usage(folder / "edits/data")
    tree, rng = store.branch("base", "edited"), random.Random(4)

    def edit() -> None:
        tree.update(lambda tx: tx.put(key(rng.randrange(base)), rng.randbytes(500)))

    seconds = timed(lambda: [edit() for _ in range(count)])
    rows = []

    def row(what: str, spent: float) -> None:
        files, nbytes = usage(folder / "edits/data")
        rows.append([what, nice(spent), f"{files - start[0]:,}", f"{nbytes - start[1]:,}"])

    row(f"{count:,} edits", seconds)
    row("gc", timed(lambda: store.gc(0)))
    row("seal", timed(lambda: store.seal("edited")))
    row("gc", timed(lambda: store.gc(0)))
    title = f"{count:,} single edits of 500 bytes on {base:,} keys (target: at most 10 files once sealed and swept)"
    table(title, ["step", "time", "files beyond the base", "bytes"], rows)


# ---- the neighbours --------------------------------------------------------------------------------------------------


class Ours:
    name = "dvid-dask store"

    def __init__(self, folder: Path) -> None:
        self.store = Store.create(folder)
        self.tree = self.store.create_tree("v0")
        self.version = 0

    def load(self, n: int, chunk: bytes) -> None:
        for at in range(0, n, 50_000):
            self.tree.update(lambda tx, r=range(at, min(at + 50_000, n)): tx.put_many((key(i), chunk) for i in r))

    def edit(self, i: int, chunk: bytes) -> None:
        self.tree.update(lambda tx: tx.put(key(i), chunk))

    def commit(self) -> None:
        self.version += 1
        self.tree = self.store.branch(f"v{self.version - 1}", f"v{self.version}")

    def read(self, ids: list[int]) -> None:
        view = self.tree.view()
        for i in ids:
            view.get(key(i))


class Lmdb:
    """Keys with a version at their end; a read finds the newest not newer than the one asked for (one branch)."""

    name = "LMDB, versioned keys"

    def __init__(self, folder: Path) -> None:
        import lmdb

        self.env = lmdb.open(str(folder), map_size=8 << 30)
        self.version = 0

    def _key(self, i: int) -> bytes:
        return key(i) + (0xFFFFFFFF - self.version).to_bytes(4, "big")

    def load(self, n: int, chunk: bytes) -> None:
        with self.env.begin(write=True) as tx:
            for i in range(n):
                tx.put(self._key(i), chunk, append=True)

    def edit(self, i: int, chunk: bytes) -> None:
        with self.env.begin(write=True) as tx:
            tx.put(self._key(i), chunk)

    def commit(self) -> None:
        self.version += 1

    def read(self, ids: list[int]) -> None:
        with self.env.begin() as tx, tx.cursor() as cursor:
            for i in ids:
                cursor.set_range(self._key(i))
                cursor.value()


class Zarr:
    """A chunk a file; no versions and no transactions: the floor. A version would be a copy of all."""

    name = "zarr3 on disk, unversioned"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _open(self, n: int, size: int) -> None:
        import tensorstore as ts

        metadata = {
            "shape": [n * size],
            "data_type": "uint8",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [size]}},
            "codecs": [{"name": "bytes"}],
        }
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{self.folder}/"}, "metadata": metadata}
        self.array = ts.open(spec, create=True, context=ts.Context()).result()
        self.size = size

    def load(self, n: int, chunk: bytes) -> None:
        self._open(n, len(chunk))
        data = np.frombuffer(chunk, np.uint8)
        for at in range(0, n, 1_000):
            stop = min(at + 1_000, n)
            self.array[at * self.size : stop * self.size].write(np.tile(data, stop - at)).result()

    def edit(self, i: int, chunk: bytes) -> None:
        self.array[i * self.size : (i + 1) * self.size].write(np.frombuffer(chunk, np.uint8)).result()

    def commit(self) -> None:
        raise NotImplementedError

    def read(self, ids: list[int]) -> None:
        for i in ids:
            self.array[i * self.size : (i + 1) * self.size].read().result()


class Icechunk:
    """Each edit a commit on the main branch; a version is a branch."""

    name = "icechunk"

    def __init__(self, folder: Path) -> None:
        import icechunk

        self.repo = icechunk.Repository.create(icechunk.local_filesystem_storage(str(folder)))
        self.branch = "main"
        self.version = 0

    def load(self, n: int, chunk: bytes) -> None:
        import zarr

        session = self.repo.writable_session(self.branch)
        self.size = len(chunk)
        shape = (n * self.size,)
        array = zarr.create_array(session.store, shape=shape, chunks=(self.size,), dtype="u1", compressors=None)
        for at in range(0, n, 10_000):
            stop = min(at + 10_000, n)
            array[at * self.size : stop * self.size] = np.tile(np.frombuffer(chunk, np.uint8), stop - at)
        session.commit("load")

    def edit(self, i: int, chunk: bytes) -> None:
        import zarr

        session = self.repo.writable_session(self.branch)
        zarr.open_array(session.store)[i * self.size : (i + 1) * self.size] = np.frombuffer(chunk, np.uint8)
        session.commit("edit")

    def commit(self) -> None:
        self.version += 1
        self.repo.create_branch(f"v{self.version}", self.repo.lookup_branch(self.branch))
        self.branch = f"v{self.version}"

    def read(self, ids: list[int]) -> None:
        import zarr

        array = zarr.open_array(self.repo.readonly_session(self.branch).store, mode="r")
        for i in ids:
            array[i * self.size : (i + 1) * self.size]


def neighbours(folder: Path, count: int, singles: int) -> None:
    rows: list[list[object]] = []
    ours: list[float] = []
    rng = random.Random(5)
    for kind in (Ours, Lmdb, Zarr, Icechunk):
        place = folder / kind.name.split()[0].replace(",", "")
        try:
            system = kind(place)
        except ImportError as error:
            rows.append([kind.name, f"not installed ({error.name})", *[""] * 6])
            continue
        load = timed(lambda s=system: s.load(count, bytes(range(250)) * 2))
        before = usage(place)
        ids = [rng.randrange(count) for _ in range(singles)]
        edit = statistics.median(timed(lambda s=system, i=i: s.edit(i, rng.randbytes(500))) for i in ids)
        after = usage(place)
        try:
            version = timed(system.commit, 11)
        except NotImplementedError:
            version = float("nan")
        ids = [rng.randrange(count) for _ in range(1_000)]
        system.read(ids)
        read = timed(lambda s=system, i=ids: s.read(i), 3) / len(ids)
        numbers = [load, edit, version, read]
        ours = ours or numbers
        cells = [
            f"{nice(number)} ({number / our:.2f})" if number == number else "copy of all"
            for number, our in zip(numbers, ours, strict=True)
        ]
        # LMDB's map file has its full length from the start, but only what was written takes space
        written = "in place" if kind is Lmdb else f"{max(0, after[1] - before[1]) / singles:,.0f}"
        rows.append([kind.name, *cells, written, f"{after[0]:,}"])
        shutil.rmtree(place, ignore_errors=True)
    head = ["system", "load", "edit, durable", "new version", "read", "bytes an edit", "files"]
    table(f"The same work on {count:,} chunks of 500 bytes, {singles} single edits (ratio to ours)", head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, half a minute")
    parser.add_argument("--folder", help="where to put the stores; default: the system's temporary folder")
    parser.add_argument("--write-part", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write_part:
        write_part(*arguments.write_part)
        return
    quick = arguments.quick
    folder = Path(tempfile.mkdtemp(prefix="store-benchmark-", dir=arguments.folder))
    try:
        sizes = [10_000, 100_000] if quick else [10_000, 100_000, 1_000_000]
        store = branches(folder, sizes)
        largest = f"t{sizes[-1]}"
        commits(store, folder / "branches", largest)
        diffs(store, largest, 100)
        bulk(folder, 100_000 if quick else 500_000)
        depth(folder, 20_000 if quick else 100_000, [1, 30] if quick else [1, 100, 1_000])
        edits(folder, 500 if quick else 10_000, sizes[-1])
        neighbours(folder, 2_000 if quick else 100_000, 20 if quick else 100)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
