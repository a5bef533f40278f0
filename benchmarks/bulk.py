"""Bulk changes of bodies and contacts: an agglomeration table beside single merges, contact areas beside plain numpy.

    python benchmarks/bulk.py [--long] [--folder FOLDER]

A table of 10^6 supervoxels, 10^7 with --long. The label index is written as it is kept; there are no voxels, since no
agglomeration touches one. The baselines run in the same process on the same store: merges one by one, and the way of
DVID's users, which is to set mappings and whole indices; both on a sample, given as what the table would take.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import tempfile
from pathlib import Path

import numpy as np
from _report import amount, clock, console, duration, files_and_bytes, machine, table

import dvid_dask
from dvid_dask import ops
from dvid_dask.datatypes.labelmap import LabelMap
from dvid_dask.datatypes.labelmap.index import write_new_bodies
from dvid_dask.datatypes.labelmap.rows import Rows

PER_SUPERVOXEL = 4  # blocks
PER_BODY = 10  # supervoxels
SAMPLE = 200  # bodies that are merged one by one
BATCH = 1 << 17


def fill(seg: LabelMap, supervoxels: int) -> None:
    """Supervoxels 1 to n, each its own body, in rows of blocks."""
    for first in range(1, supervoxels + 1, BATCH):
        ids = np.arange(first, min(first + BATCH, supervoxels + 1), dtype=np.uint64)
        rows = ids.repeat(PER_SUPERVOXEL)
        place = np.arange(len(rows), dtype=np.int64) + (first - 1) * PER_SUPERVOXEL
        blocks = np.stack([place >> 20, (place >> 10) & 1023, place & 1023], axis=1)
        part = Rows.of(blocks, rows, np.full(len(rows), 5000))
        seg.mutate(lambda _, space, rows=rows, part=part: write_new_bodies(space, rows, part))
    seg.next_labels.raise_to(supervoxels)


def agglomeration(supervoxels: int, seed: int) -> np.ndarray:
    """Each supervoxel with the body it ends in: bodies of ten, of ids near each other as in real volumes."""
    rng = np.random.default_rng(seed)
    ids = np.arange(1, supervoxels + 1, dtype=np.uint64)
    shuffled = ids[np.argsort(np.arange(supervoxels) + rng.integers(0, 5000, supervoxels))]
    groups = shuffled[: supervoxels // PER_BODY * PER_BODY].reshape(-1, PER_BODY)
    return np.stack([groups.ravel(), groups[:, :1].repeat(PER_BODY, axis=1).ravel()], axis=1)


def singly(seg: LabelMap, named: np.ndarray) -> float:
    """Seconds for each supervoxel, merged into its body by an edit of its own."""
    with clock() as c:
        for group in named[: SAMPLE * PER_BODY].reshape(-1, PER_BODY, 2)[:, :, 0].tolist():
            seg.merge(group[0], group[1:])
    return c.seconds / (SAMPLE * PER_BODY)


def by_mappings_and_indices(seg: LabelMap, named: np.ndarray) -> float:
    """Seconds for each supervoxel, as clients of DVID do it: indices are put together, and set with mappings."""
    part = named[-100 * SAMPLE * PER_BODY :][: SAMPLE * PER_BODY]
    with clock() as c:
        new = []
        for group in part.reshape(-1, PER_BODY, 2)[:, :, 0].tolist():
            held = [index for index in seg.indices(group) if index is not None]
            joined = held[0]
            for other in held[1:]:
                joined = type(joined)(
                    joined.label,
                    np.concatenate([joined.block_zyx, other.block_zyx]),
                    np.concatenate([joined.supervoxel, other.supervoxel]),
                    np.concatenate([joined.count, other.count]),
                    np.concatenate([joined.surface_mutid, other.surface_mutid]),
                )
            new += [joined, *(type(joined)(b, [], [], [], []) for b in group[1:])]
        seg.set_indices(new)
        seg.set_mappings(part[:, 0], part[:, 1])
    return c.seconds / (SAMPLE * PER_BODY)


def agglomerate(folder: Path, supervoxels: int) -> None:
    store = dvid_dask.create(str(folder / "store"), compact="never")
    repo = store.new_repo("fly")
    seg = repo.new_instance("labelmap", "segmentation")
    fill(seg, supervoxels)
    base = repo["master"]
    base.commit("filled")
    named = agglomeration(supervoxels, 1)
    beside = base.new_branch("singly")["segmentation"]
    one, set_all = singly(beside, named), by_mappings_and_indices(beside, named)
    seg = base.newversion()["segmentation"]
    before = files_and_bytes(folder)[1]
    with clock() as c:
        report = ops.agglomerate(seg, named, progress=False)
    written = files_and_bytes(folder)[1] - before
    assert report.moved == len(named) - len(named) // PER_BODY
    assert sum(1 for _ in seg.bodies()) == supervoxels - report.moved
    n = len(named)
    table(
        f"{n:,} supervoxels ({PER_SUPERVOXEL} blocks each) into {n // PER_BODY:,} bodies",
        ["way", "all", "a supervoxel", "times as long"],
        [
            ["ops.agglomerate", duration(c.seconds), duration(c.seconds / n), "1"],
            [f"merges ({SAMPLE} of them)", duration(one * n), duration(one), f"{one * n / c.seconds:.0f}"],
            ["indices, mappings (sample)", duration(set_all * n), duration(set_all), f"{set_all * n / c.seconds:.1f}"],
        ],
        note=f"one step for readers; wrote {amount(written)}; peak "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB",
    )


def cells(side: int) -> np.ndarray:
    """Convex cells, about 40 voxels across, as a segmentation has them."""
    from scipy.spatial import cKDTree

    rng = np.random.default_rng(0)
    tile = 128
    seeds = rng.random(((tile // 40 + 1) ** 3, 3)) * tile
    grid = np.indices((tile,) * 3).reshape(3, -1).T
    near = cKDTree(seeds).query(grid)[1].reshape((tile,) * 3).astype(np.uint64)
    out = np.empty((side,) * 3, np.uint64)
    for i, at in enumerate(np.ndindex(*(side // tile,) * 3)):
        out[tuple(slice(a * tile, (a + 1) * tile) for a in at)] = near + np.uint64(1 + i * len(seeds))
    return out


def plain_numpy(volume: np.ndarray) -> int:
    """Pairs of labels that touch, by sorting all faces between different ones."""
    pairs = set()
    for axis in range(3):
        moved = np.moveaxis(volume, axis, 0)
        differ = moved[:-1] != moved[1:]
        both = np.sort(np.stack([moved[:-1][differ], moved[1:][differ]], axis=1), axis=1)
        unique, _ = np.unique(both, axis=0, return_counts=True)
        pairs |= set(map(tuple, unique.tolist()))
    return len(pairs)


def contacts(folder: Path, side: int) -> None:
    volume = cells(side)
    repo = dvid_dask.create(str(folder / "cells"), compact="never").new_repo("fly")
    seg = repo.new_instance("labelmap", "segmentation", {"MaxDownresLevel": "0"})
    ops.ingest(volume, seg, progress=False)
    ops.contacts(seg, [1]).compute()  # compile
    with clock() as ours:
        found = len(ops.contacts(seg).compute())
    part = volume[: side // 2]
    with clock() as dense:
        plain_numpy(part)
    voxels = volume.size / 1e6
    table(
        f"contact areas, {side}^3 voxels, {found:,} pairs",
        ["way", "time", "Mvoxel/s"],
        [
            ["ops.contacts, from the store", duration(ours.seconds), f"{voxels / ours.seconds:.0f}"],
            ["numpy on an array, half of it", duration(dense.seconds), f"{voxels / 2 / dense.seconds:.0f}"],
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", action="store_true", help="10^7 rows and 512^3 voxels")
    parser.add_argument("--folder", type=Path, help="where stores are made; a temporary folder by default")
    options = parser.parse_args()
    machine()
    folder = Path(tempfile.mkdtemp(prefix="bulk-", dir=options.folder))
    try:
        contacts(folder, 512 if options.long else 256)
        agglomerate(folder, 10**7 if options.long else 10**6)
    finally:
        shutil.rmtree(folder)
    console.print("done")


if __name__ == "__main__":
    main()
