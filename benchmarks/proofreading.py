"""What an edit costs: merges, cleaves and renumberings of large bodies beside small ones, and a mapping of 10^8 ids.

    python benchmarks/proofreading.py [--quick | --long] [--folder FOLDER] [--only NAME ...]

The label index and the mapping are written as they are kept; there are no voxels, since no edit here touches one. What
is compared is done in turns, so that a busy machine is busy for both. Targets are those of docs/design/speed.md.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _report import amount, bytes_written, clock, console, duration, files_and_bytes, machine, table

import dvid_dask
from dvid_dask.datatypes.labelmap import LabelMap
from dvid_dask.datatypes.labelmap.index import Index, write_new_bodies
from dvid_dask.datatypes.labelmap.mapping import set_mapping
from dvid_dask.datatypes.labelmap.rows import Rows

PIECE = (2, 1, 5)  # blocks of a supervoxel (z, y, x)
BATCH = 250_000  # rows, or ids, written in one commit
FIRST_FREE = 10**9  # ids above are those of fragments and small bodies
SPREAD = 5_003  # from a fragment's id to the next: in a real volume neighbours by id are rarely edited together


def cube(blocks: int) -> tuple[int, int, int]:
    """Sides (z, y, x) of a box of so many blocks, made of whole pieces."""
    side = round(blocks ** (1 / 3))
    z = max(2, side // 2 * 2)
    x = max(5, side // 5 * 5)
    return z, max(1, round(blocks / (z * x))), x


def box_rows(first: tuple[int, int, int], shape: tuple[int, int, int], supervoxel: int) -> Rows:
    """Rows of a box of blocks; its supervoxels, one a piece, are numbered from `supervoxel`."""
    zyx = np.indices(shape).reshape(3, -1).T
    grid = [-(-n // p) for n, p in zip(shape, PIECE, strict=True)]
    number = np.ravel_multi_index(tuple((zyx // PIECE).T), grid)
    counts = 200_000 - (zyx.sum(axis=1) * 7919) % 100_000
    return Rows.of(zyx + first, number + supervoxel, counts)


def write_body(seg: LabelMap, body: int, shape: tuple[int, int, int], first_supervoxel: int) -> int:
    """Write index and mapping of a box-shaped body at the origin, layer by layer; returns its supervoxels."""
    thick = max(PIECE[0], BATCH // (shape[1] * shape[2]) // PIECE[0] * PIECE[0])
    next_id = first_supervoxel
    for z in range(0, shape[0], thick):
        rows = box_rows((z, 0, 0), (min(thick, shape[0] - z), shape[1], shape[2]), next_id)
        last = int(rows.supervoxel.max())
        ids = np.arange(next_id, last + 1, dtype=np.uint64)

        def change(_: Any, space: Any, rows: Rows = rows, ids: Any = ids) -> None:
            if Index(space).header(body) is None:
                write_new_bodies(space, np.full(len(rows), body, np.uint64), rows)
            else:
                Index(space).update(body, rows)
            set_mapping(space, ids, body)

        seg.mutate(change)
        next_id = last + 1
    seg.next_labels.raise_to(8 * FIRST_FREE)
    return next_id - first_supervoxel


class Fragments:
    """Bodies of one supervoxel of ten blocks inside a box, and small bodies of their own, as many as are asked for."""

    def __init__(self, seg: LabelMap, shape: tuple[int, int, int], seed: int = 1) -> None:
        self.seg, self.shape, self.rng, self.next = seg, shape, random.Random(seed), FIRST_FREE + seed * 10**8

    def make(self, count: int, blocks: tuple[int, int, int] = PIECE) -> list[int]:
        parts, bodies, made = [], [], []
        for _ in range(count):
            at = tuple(self.rng.randrange(max(1, n - b)) for n, b in zip(self.shape, blocks, strict=True))
            rows = box_rows(at, blocks, self.next)  # type: ignore[arg-type]
            parts.append(rows)
            bodies.append(np.full(len(rows), self.next, np.uint64))
            made.append(self.next)
            self.next += SPREAD
        rows, owners = Rows.concatenate(parts), np.concatenate(bodies)

        def change(_: Any, space: Any) -> None:
            write_new_bodies(space, owners, rows)
            foreign = rows.supervoxel != owners
            if foreign.any():
                set_mapping(space, rows.supervoxel[foreign], owners[foreign])

        self.seg.mutate(change)
        return made


def new_instance(folder: Path, name: str) -> LabelMap:
    repo = dvid_dask.create(str(folder / name)).new_repo(name)
    seg = repo.new_instance("labelmap", "seg")
    assert isinstance(seg, LabelMap)
    return seg


def percentiles(samples: list[float]) -> tuple[float, float]:
    ordered = sorted(samples)
    return ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]


def best_of(rounds: list[list[float]]) -> tuple[float, float]:
    """The lowest median and the lowest 95th percentile of several rounds: others may work on this machine."""
    found = [percentiles(r) for r in rounds]
    return min(p for p, _ in found), min(p for _, p in found)


def peak() -> int:
    """Most memory that this process has had; `ru_maxrss` would begin with its parent's."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


# ---- questions -------------------------------------------------------------------------------------------------------


def edits(folder: Path, blocks: int, times: int, rounds: int) -> None:
    """Merge and cleave of ten blocks, at a large body and at small ones, in turns."""
    seg = new_instance(folder, "edits")
    shape = cube(blocks)
    with clock() as built:
        supervoxels = write_body(seg, 1, shape, 1)
    total = shape[0] * shape[1] * shape[2]
    console.print(f"\nbody of {total:,} blocks and {supervoxels:,} supervoxels written in {duration(built.seconds)}")
    makes = Fragments(seg, shape)
    time_of: dict[str, list[list[float]]] = {k: [] for k in ("merge big", "merge small", "cleave big", "cleave small")}
    written: dict[str, list[int]] = {k: [] for k in time_of}
    some = iter(random.Random(7).sample(range(1, supervoxels + 1), rounds * times))

    def timed(what: str, action: Callable[..., object], *arguments: object) -> None:
        before = bytes_written()
        with clock() as c:
            action(*arguments)
        time_of[what][-1].append(c.seconds)
        written[what].append(bytes_written() - before)

    for _ in range(rounds):
        for samples in time_of.values():
            samples.append([])
        fragments, small = makes.make(2 * times), makes.make(times, (2, 5, 10))
        for i in range(times):
            timed("merge big", seg.merge, 1, [fragments[2 * i]])
            timed("merge small", seg.merge, small[i], [fragments[2 * i + 1]])
        for i in range(times):
            timed("cleave big", seg.cleave, 1, [next(some)])
            timed("cleave small", seg.cleave, small[i], [small[i] + 3])
    rows = []
    for what in ("merge", "cleave"):
        p50, p95 = best_of(time_of[f"{what} big"])
        q50, q95 = best_of(time_of[f"{what} small"])
        size = np.mean(written[f"{what} big"]), np.mean(written[f"{what} small"])
        ratios = f"{p50 / q50:.2f}, {p95 / q95:.2f}"
        rows.append([f"{what}, large body", amount(size[0]), duration(p50), duration(p95), ratios])
        rows.append([f"{what}, small body", amount(size[1]), duration(q50), duration(q95), "1"])
    table(
        f"{times} edits of ten blocks, best of {rounds} rounds (target: 100 kB, p95 10 ms, ratio 1.5 at most)",
        ["edit", "written", "p50", "p95", "ratio of p50, p95"],
        rows,
    )
    lookups(seg, supervoxels)


def lookups(seg: LabelMap, supervoxels: int) -> None:
    rng = np.random.default_rng(5)
    rows = []
    for count in (1, 1_000, 100_000):
        ids = rng.integers(1, supervoxels, count).astype(np.uint64)
        samples = []
        for _ in range(10):
            with clock() as c:
                seg.mapping(ids)
            samples.append(c.seconds)
        rows.append([f"{count:,}", duration(min(samples)), f"{count / min(samples):,.0f}/s"])
    table(f"Mapping of random ids among {supervoxels:,}, best of 10", ["ids", "time", "ids"], rows)


def large(folder: Path, blocks: int) -> None:
    """A body that nobody may take into memory: merged, cleaved, renumbered, listed, streamed."""
    seg = new_instance(folder, "large")
    shape = cube(blocks)
    with clock() as built:
        supervoxels = write_body(seg, 1, shape, 1)
    console.print(f"\nbody of {blocks:,} blocks and {supervoxels:,} supervoxels written in {duration(built.seconds)}")
    fragment = Fragments(seg, shape).make(2)
    code = [sys.executable, __file__, "--large-part", seg.version.datastore.url, str(fragment[0]), str(supervoxels)]
    rows = []
    for what in LARGE:
        found = json.loads(subprocess.run([*code, what], check=True, capture_output=True, text=True).stdout)
        rows.append([what, duration(found["seconds"]), amount(found["start"]), amount(found["peak"]), found["answer"]])
    table(
        "Each step in a process of its own",
        ["step", "time", "memory before", "peak", "answer"],
        rows,
        "A peak far above the memory before would grow with the body.",
    )


def _list(seg: LabelMap, body: int, *_: int) -> str:
    return f"{len(seg.supervoxels_of(body).id):,} supervoxels"


def _stream(seg: LabelMap, body: int, *_: int) -> str:
    return f"{sum(len(rows) for rows in Index(seg.view()).layers(body)):,} rows"


def _coarse(seg: LabelMap, body: int, *_: int) -> str:
    return f"{len(seg.sparse(body).coarse()):,} runs"


def _size(seg: LabelMap, body: int, *_: int) -> str:
    return f"{seg.sparse_size(body)[1]:,} blocks"


def _merge(seg: LabelMap, body: int, fragment: int, _: int) -> str:
    return f"mutation {seg.merge(body, [fragment])}"


def _cleave(seg: LabelMap, body: int, _: int, supervoxels: int) -> str:
    return f"body {seg.cleave(body, np.arange(1, 1 + supervoxels // 100, dtype=np.uint64))[0]}"


def _renumber(seg: LabelMap, body: int, _: int, supervoxels: int) -> str:
    seg.renumber([(9 * FIRST_FREE, body)])
    return f"body {seg.mapping([1 + supervoxels // 2])[0]}"


LARGE: dict[str, Callable[[LabelMap, int, int, int], str]] = {
    "list": _list,
    "size and box": _size,
    "stream the index": _stream,
    "coarse volume": _coarse,
    "merge a fragment": _merge,
    "cleave one in 100 supervoxels": _cleave,
    "renumber": _renumber,
}


def open_seg(url: str) -> LabelMap:
    seg = next(iter(dvid_dask.open(url).repos.values()))["master"]["seg"]
    assert isinstance(seg, LabelMap)
    return seg


def large_part(url: str, fragment: str, supervoxels: str, what: str) -> None:
    """One step on the large body, in its own process."""
    seg = open_seg(url)
    seg.size(1)
    start = peak()
    with clock() as c:
        answer = LARGE[what](seg, 1, int(fragment), int(supervoxels))
    print(json.dumps({"seconds": c.seconds, "start": start, "peak": peak(), "answer": answer}))


def opening(folder: Path, ids: int) -> None:
    """Open a store with a large mapping, and look ids up."""
    seg = new_instance(folder, "mapping")
    with clock() as built:
        for first in range(1, ids + 1, 4 * BATCH):
            some = np.arange(first, min(first + 4 * BATCH, ids + 1), dtype=np.uint64)
            seg.mutate(lambda _, space, some=some: set_mapping(space, some, some // np.uint64(20) * np.uint64(20)))
    files, size = files_and_bytes(seg.version.datastore.url.removeprefix("file://"))
    console.print(f"\nmapping of {ids:,} ids written in {duration(built.seconds)}: {amount(size)} in {files:,} files")
    code = [sys.executable, __file__, "--open-part", seg.version.datastore.url, str(ids)]
    found = [json.loads(subprocess.run(code, check=True, capture_output=True, text=True).stdout) for _ in range(5)]
    rows = []
    for what in ("open", "first 1,000 ids", "other 1,000 ids", "same 1,000 ids", "100,000 ids"):
        best = min(found, key=lambda f: f[what][0])
        rows.append([what, duration(best[what][0]), amount(best[what][1])])
    table(
        f"A mapping of {ids:,} ids, best of 5 processes (target: open below 1 s, no memory to speak of)",
        ["step", "time", "memory added"],
        rows,
    )


def open_part(url: str, ids: str) -> None:
    """Open a store in a new process and look ids up."""
    rng = np.random.default_rng(3)
    asked = [rng.integers(1, int(ids), n).astype(np.uint64) for n in (1_000, 1_000, 100_000)]
    found: dict[str, tuple[float, int]] = {}
    held = [open_seg]  # what `step` hands on

    def step(name: str, action: Callable[[], Any]) -> Any:
        before = peak()
        with clock() as c:
            done = action()
        found[name] = (c.seconds, peak() - before)
        return done

    seg = step("open", lambda: held[0](url))
    step("first 1,000 ids", lambda: seg.mapping(asked[0], lookup=False))
    step("other 1,000 ids", lambda: seg.mapping(asked[1], lookup=False))
    step("same 1,000 ids", lambda: seg.mapping(asked[0], lookup=False))
    step("100,000 ids", lambda: seg.mapping(asked[2], lookup=False))
    print(json.dumps(found))


def edit_many(seg: LabelMap, target: int, fragments: list[int]) -> None:
    for fragment in fragments:
        seg.merge(target, [fragment])


def concurrent(folder: Path, blocks: int, times: int) -> None:
    """Proofreaders on different bodies, as threads of one process and as processes."""
    seg = new_instance(folder, "crowd")
    shape = cube(blocks)
    write_body(seg, 1, shape, 1)
    makes = Fragments(seg, shape)
    rows = []
    first: dict[str, float] = {}
    for workers in (1, 2, 4, 8):
        cells = [str(workers)]
        for kind in ("threads", "processes"):
            targets, fragments = makes.make(workers, (2, 5, 10)), makes.make(workers * times)
            parts = [fragments[i * times : (i + 1) * times] for i in range(workers)]
            seconds = (in_threads if kind == "threads" else in_processes)(seg, targets, parts)
            rate = workers * times / seconds
            first.setdefault(kind, rate)
            cells += [f"{rate:,.0f}/s", f"{rate / first[kind]:.2f}"]
        rows.append(cells)
    table(
        f"Merges at different bodies, {os.cpu_count()} cores",
        ["proofreaders", "threads", "ratio to one", "processes", "ratio to one"],
        rows,
    )


def in_threads(seg: LabelMap, targets: list[int], parts: list[list[int]]) -> float:
    workers = [threading.Thread(target=edit_many, args=(seg, t, p)) for t, p in zip(targets, parts, strict=True)]
    with clock() as c:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    return c.seconds


def in_processes(seg: LabelMap, targets: list[int], parts: list[list[int]]) -> float:
    code = [sys.executable, __file__, "--edit-part", seg.version.datastore.url]
    workers = []
    for target, part in zip(targets, parts, strict=True):
        command = [*code, json.dumps([target, part])]
        workers.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    for worker in workers:
        assert worker.stdout is not None
        worker.stdout.readline()  # it is warm
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    spans = [json.loads(worker.communicate()[0]) for worker in workers]
    return max(b for _, b in spans) - min(a for a, _ in spans)


def edit_part(url: str, work: str) -> None:
    """One proofreader in a process of its own."""
    target, fragments = json.loads(work)
    seg = open_seg(url)
    edit_many(seg, target, fragments[:1])  # compiles what is compiled
    print("warm", flush=True)
    sys.stdin.readline()
    begin = time.time()
    edit_many(seg, target, fragments[1:])
    print(json.dumps([begin, time.time()]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="small sizes, a minute")
    size.add_argument("--long", action="store_true", help="a body of 10^7 blocks, a mapping of 10^8 ids")
    parser.add_argument("--folder", help="where to put the stores; default: the system's temporary folder")
    parser.add_argument(
        "--only", nargs="*", choices=["edits", "crowd", "opening", "large"], help="some of the questions"
    )
    for part, count in (("large", 4), ("open", 2), ("edit", 2)):
        parser.add_argument(f"--{part}-part", nargs=count, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    for part in (large_part, open_part, edit_part):
        given = getattr(arguments, part.__name__)
        if given:
            part(*given)
            return
    quick, long = arguments.quick, arguments.long
    folder = Path(tempfile.mkdtemp(prefix="proofreading-benchmark-", dir=arguments.folder))
    machine()
    questions: dict[str, Callable[[], None]] = {
        "edits": lambda: edits(folder, 10**5 if quick else 10**6, 30 if quick else 100, 3),
        "crowd": lambda: concurrent(folder, 10**5, 20 if quick else 100),
        "opening": lambda: opening(folder, 10**6 if quick else 10**8 if long else 10**7),
        "large": lambda: large(folder, 10**5 if quick else 10**7 if long else 10**6),
    }
    try:
        for name, ask in questions.items():
            if not arguments.only or name in arguments.only:
                ask()
                shutil.rmtree(folder / {"opening": "mapping"}.get(name, name), ignore_errors=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
