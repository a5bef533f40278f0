"""What versions cost: branch, read, commit, bulk write, diff, seal and gc, beside others that do the same work.

    python benchmarks/store.py            # about ten minutes
    python benchmarks/store.py --quick    # a minute, smaller numbers

Baselines in the same run: plain zarr 3 on disk (no versions), LMDB with keys that embed the version (DVID's way), and
icechunk. Values are 50 random bytes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import struct
import tempfile
import time
from pathlib import Path

import numpy as np

from _report import amount, clock, console, duration, files_and_bytes, machine, repeated, table
from dvid_dask.store import Store

_NOISE = np.random.default_rng(0).bytes(1 << 20)


def small(i: int) -> bytes:
    """Fifty bytes that don't compress."""
    at = i * 50 % (len(_NOISE) - 50)
    return _NOISE[at : at + 50]



def key(i: int) -> bytes:
    return b"k" + struct.pack(">Q", i)


def fill(store: Store, tree: str, count: int, page: int = 50_000) -> None:
    t = store.create_tree(tree)
    for start in range(0, count, page):
        items = [(key(i), small(i)) for i in range(start, min(start + page, count))]
        t.update(lambda tx, items=items: tx.put_many(items))


# ------------------------------------------------------------------ branch

def branches(root: Path, sizes: list[int]) -> None:
    rows = []
    for n in sizes:
        store = Store.create(str(root / f"branch{n}"))
        fill(store, "base", n)
        store.seal("base")
        names = iter(range(10**9))
        p50, p95 = repeated(lambda store=store, names=names: store.branch("base", f"b{next(names)}"), 50)
        before = files_and_bytes(root / f"branch{n}")[1]
        store.branch("base", "weighed")
        rows.append([f"{n:,}", duration(p50), duration(p95), amount(files_and_bytes(root / f"branch{n}")[1] - before)])
    table("New branch", ["keys", "p50", "p95", "bytes"], rows, "a branch copies one manifest: flat in the number of keys")


# ------------------------------------------------------------------ reads at depth

def depth(root: Path, keys: int, depths: list[int]) -> None:
    store = Store.create(str(root / "depth"))
    fill(store, "d0", keys)
    store.seal("d0")
    rng = np.random.default_rng(0)
    wanted = [key(int(i)) for i in rng.integers(0, keys, 20_000)]
    deepest = max(depths)
    measured: dict[int, tuple[float, float]] = {}
    lmdb_measured: dict[int, float] = {}
    hot = [key(i) for i in range(100)]

    import lmdb

    env = lmdb.open(str(root / "lmdb-depth"), map_size=1 << 34, sync=False)
    with env.begin(write=True) as tx:
        for i in range(keys):
            tx.put(key(i) + struct.pack(">I", 0xFFFFFFFF), small(i))

    def lmdb_read(version: int, k: bytes) -> bytes | None:
        # newest first: the version is stored inverted, the walk stops at the first one that is an ancestor
        with env.begin() as tx, tx.cursor() as c:
            if c.set_range(k + struct.pack(">I", 0xFFFFFFFF - version)) and c.key()[: len(k)] == k:
                return bytes(c.value())
        return None

    for d in range(1, deepest + 1):
        store.branch(f"d{d - 1}", f"d{d}")
        changed = [(k, b"%d" % d) for k in hot]
        store.tree(f"d{d}").update(lambda tx, changed=changed: tx.put_many(changed))
        store.seal(f"d{d}")
        with env.begin(write=True) as tx:
            for k, v in changed:
                tx.put(k + struct.pack(">I", 0xFFFFFFFF - d), v)
    # measured round by round, so that a drift of the machine meets every depth alike
    rounds: dict[int, list[tuple[float, float, float]]] = {d: [] for d in depths}
    for _ in range(5):
        for d in depths:
            view = store.tree(f"d{d}").view()
            view.get_many(wanted)
            point, _ = repeated(lambda view=view: [view.get(k) for k in hot], 20)
            with clock() as bulk:
                view.get_many(wanted)
            old, _ = repeated(lambda d=d: [lmdb_read(d, k) for k in hot], 20)
            rounds[d].append((point / len(hot), bulk.seconds, old / len(hot)))
    for d in depths:
        p, b, o = (sorted(x)[len(x) // 2] for x in zip(*rounds[d], strict=True))
        measured[d], lmdb_measured[d] = (p, b), o
    first = depths[0]
    rows = [
        [f"{d:,}", duration(measured[d][0]), f"{len(wanted) / measured[d][1]:,.0f}/s", duration(lmdb_measured[d]),
         f"{measured[d][0] / measured[first][0]:.2f}", f"{measured[d][1] / measured[first][1]:.2f}"]
        for d in depths
    ]
    table("Reads of a sealed version by depth of its history", ["depth", "point", "bulk", "LMDB point", "point / depth 1",
          "bulk / depth 1"], rows, "100 keys rewritten in every generation; the point reads ask for these")


# ------------------------------------------------------------------ small commits

def commits(root: Path, keys: int) -> None:
    folder = root / "commits"
    store = Store.create(str(folder))
    fill(store, "t", keys)
    store.seal("t")
    store.branch("t", "edit")
    tree = store.tree("edit")
    rng = np.random.default_rng(1)
    rows = []
    for batch in (1, 50):
        before = files_and_bytes(folder)
        reps = 100 if batch == 1 else 20

        def edit(batch: int = batch) -> None:
            items = [(key(int(i)), os.urandom(20)) for i in rng.integers(0, keys, batch)]
            tree.update(lambda tx: tx.put_many(items))

        p50, p95 = repeated(edit, reps)
        after = files_and_bytes(folder)
        rows.append([f"dvid-dask, {batch} key(s)", duration(p50), duration(p95), amount((after[1] - before[1]) / reps)])
    rows += zarr_commit(root) + lmdb_commit(root, keys) + icechunk_commit(root, min(keys, 100_000))
    table(f"One commit in {keys:,} keys", ["what", "p50", "p95", "bytes written"], rows,
          "zarr: one chunk file of no transaction; icechunk: one chunk reference of an array of at most 10^5 chunks")


def zarr_commit(root: Path) -> list[list[str]]:
    import zarr

    a = zarr.create_array(str(root / "plain.zarr"), shape=(4096,), chunks=(64,), dtype="u1")
    rng = np.random.default_rng(2)

    def edit() -> None:
        i = int(rng.integers(0, 64)) * 64
        a[i : i + 64] = rng.integers(1, 255, 64, dtype="u1")

    p50, p95 = repeated(edit, 50)
    return [["plain zarr 3, 1 chunk", duration(p50), duration(p95), amount(64)]]


def lmdb_commit(root: Path, keys: int) -> list[list[str]]:
    import lmdb

    env = lmdb.open(str(root / "lmdb"), map_size=1 << 34, sync=True)
    with env.begin(write=True) as tx:
        for i in range(keys):
            tx.put(key(i) + b"\0\0\0\0", small(i))
    rng = np.random.default_rng(3)

    def edit() -> None:
        with env.begin(write=True) as tx:
            tx.put(key(int(rng.integers(0, keys))) + b"\0\0\0\1", os.urandom(20))

    p50, p95 = repeated(edit, 100)
    return [["LMDB, version in the key, 1 key", duration(p50), duration(p95), "in place"]]


def icechunk_commit(root: Path, chunks: int) -> list[list[str]]:
    import icechunk
    import zarr

    folder = root / "icechunk"
    repo = icechunk.Repository.create(icechunk.local_filesystem_storage(str(folder)))
    session = repo.writable_session("main")
    a = zarr.create_array(session.store, shape=(chunks * 8,), chunks=(8,), dtype="u1", compressors=None)
    a[:] = np.random.default_rng(4).integers(1, 255, chunks * 8, dtype="u1")
    session.commit("filled")
    rng = np.random.default_rng(5)
    before = files_and_bytes(folder)

    def edit() -> None:
        s = repo.writable_session("main")
        b = zarr.open_array(s.store)
        i = int(rng.integers(0, chunks)) * 8
        b[i : i + 8] = rng.integers(1, 255, 8, dtype="u1")
        s.commit("edit")

    p50, p95 = repeated(edit, 10)
    after = files_and_bytes(folder)
    return [[f"icechunk, 1 of {chunks:,} chunks", duration(p50), duration(p95), amount((after[1] - before[1]) / 10)]]


# ------------------------------------------------------------------ bulk writes

def bulk_writer(url: str, worker: int, keys: int, page: int, started: object) -> None:
    tree = Store.open(url).tree("bulk")
    started.wait()  # type: ignore[attr-defined]
    for start in range(0, keys, page):
        items = [(struct.pack(">IQ", worker + 0x01000000, i), small(i)) for i in range(start, start + page)]
        tree.update(lambda tx, items=items: tx.put_many(items))


def bulk(root: Path, keys: int) -> None:
    rows = []
    context = multiprocessing.get_context("spawn")
    for workers in (1, 2, 4):
        store = Store.create(str(root / f"bulk{workers}"))
        store.create_tree("bulk")
        barrier = context.Barrier(workers + 1)
        jobs = [context.Process(target=bulk_writer, args=(store.url, w, keys, 20_000, barrier)) for w in range(workers)]
        for j in jobs:
            j.start()
        barrier.wait()
        with clock() as c:
            for j in jobs:
                j.join()
        got = sum(1 for _ in store.tree("bulk").view().keys())
        if got != keys * workers or any(j.exitcode for j in jobs):
            raise SystemExit(f"bulk write lost keys: {got:,} of {keys * workers:,}")
        rows.append([str(workers), f"{keys * workers / c.seconds:,.0f}/s", f"{keys / c.seconds:,.0f}/s"])
    import lmdb

    env = lmdb.open(str(root / "lmdb-bulk"), map_size=1 << 34)
    with clock() as c:
        for start in range(0, keys, 20_000):
            with env.begin(write=True) as tx:
                for i in range(start, start + 20_000):
                    tx.put(key(i) + b"\0\0\0\0", small(i))
    rows.append(["1 (LMDB)", f"{keys / c.seconds:,.0f}/s", f"{keys / c.seconds:,.0f}/s"])
    table("Bulk write of 50-byte values, 20,000 keys a commit", ["processes", "keys", "keys a process"], rows,
          f"{os.cpu_count()} cores: more processes than cores share them")


# ------------------------------------------------------------------ diff, seal, gc

def diffs(root: Path, keys: int) -> None:
    store = Store.create(str(root / "diff"))
    fill(store, "a", keys)
    store.seal("a")
    store.branch("a", "b")
    changed = sorted({int(i) for i in np.random.default_rng(6).integers(0, keys, 100)})
    store.tree("b").update(lambda tx: tx.put_many([(key(i), b"changed") for i in changed]))
    a, b = store.tree("a").view(), store.tree("b").view()
    with clock() as cold:
        found = list(store.diff(a, b))
    if len(found) != len(changed):
        raise SystemExit(f"diff found {len(found)} of {len(changed)} changes")
    with clock() as naive:
        want = dict(a.scan())
        full = [k for k, v in b.scan() if want.get(k) != v]
    if len(full) != len(changed):
        raise SystemExit("the naive comparison disagrees")
    table(f"Diff of {len(changed)} changes in {keys:,} keys", ["how", "time"], [
        ["structural, shared nodes skipped", duration(cold.seconds)], ["compare every key", duration(naive.seconds)]],
        f"{naive.seconds / cold.seconds:.0f} times")


def seals(root: Path, edits: int) -> None:
    folder = root / "seal"
    store = Store.create(str(folder))
    fill(store, "base", 100_000)
    store.seal("base")
    store.gc(grace=0)
    base = files_and_bytes(folder)
    store.branch("base", "edits")
    tree = store.tree("edits")
    rng = np.random.default_rng(7)
    with clock() as editing:
        for _ in range(edits):
            k, v = key(int(rng.integers(0, 100_000))), os.urandom(200)
            tree.update(lambda tx, k=k, v=v: tx.put(k, v))
    open_files = files_and_bytes(folder)
    with clock() as sealing:
        store.seal("edits")
    with clock() as collecting:
        store.gc(grace=0)
    sealed = files_and_bytes(folder)
    rows = [
        ["before the edits", str(base[0]), amount(base[1]), ""],
        [f"after {edits:,} single edits", f"{open_files[0]:,}", amount(open_files[1]), f"{editing.seconds / edits * 1e3:.2f} ms an edit"],
        ["after seal and gc", f"{sealed[0]:,}", amount(sealed[1]), f"seal {duration(sealing.seconds)}, gc {duration(collecting.seconds)}"],
        ["of which the version's own", f"{sealed[0] - base[0]:,}", amount(sealed[1] - base[1]), ""],
    ]
    table("Files and bytes on disk", ["state", "files", "bytes", "time"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller numbers, about a minute")
    parser.add_argument("--only", default="", help="branches, depth, commits, bulk, diffs or seals")
    args = parser.parse_args()
    machine()
    root = Path(tempfile.mkdtemp(prefix="dvid-dask-bench-"))
    q = args.quick
    parts = {
        "branches": lambda: branches(root, [10_000, 100_000] if q else [10_000, 100_000, 1_000_000]),
        "depth": lambda: depth(root, 20_000 if q else 100_000, [1, 10, 100] if q else [1, 100, 1000]),
        "commits": lambda: commits(root, 100_000 if q else 1_000_000),
        "bulk": lambda: bulk(root, 100_000 if q else 400_000),
        "diffs": lambda: diffs(root, 100_000 if q else 1_000_000),
        "seals": lambda: seals(root, 1_000 if q else 10_000),
    }
    start = time.perf_counter()
    try:
        for name, part in parts.items():
            if not args.only or name == args.only:
                part()
    finally:
        shutil.rmtree(root, ignore_errors=True)
    console.print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
