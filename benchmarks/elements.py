"""Annotation elements and their counts: bulk load, queries, merges of bodies with many synapses, the largest bodies.

    python benchmarks/elements.py [--elements N] [--folder FOLDER]

Synapses lie evenly in a cube of labels of 32 voxels a side; half of the labels make one large body. Baselines, in the
same run: the same elements added request after request, and lists by body as JSON, decoded, joined and encoded again by
msgspec, as a server does that keeps them so (measured on two million elements at most, and scaled).
"""

from __future__ import annotations

import argparse
import math
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _report import amount, bytes_written, clock, console, duration, machine, repeated, table
from numpy.typing import NDArray

import dvid_dask
from dvid_dask import ops
from dvid_dask.datatypes.annotation.parsing import listed_json

CUBE = 32  # voxels a side of a label
MILLION = 1_000_000
PER_BLOCK = 250  # elements in a block of 64 voxels a side: denser than a fly's neuropil


def edge_for(elements: int) -> int:
    """Voxels a side of the volume."""
    blocks = max(8, elements / PER_BLOCK)
    return max(2, round(blocks ** (1 / 3))) * 64


def segmentation(repo: Any, edge: int, rng: np.random.Generator) -> Any:
    """A labelmap of cubes; half of them are one body."""
    seg = repo.new_instance("labelmap", "segmentation")
    side, next_label = edge // CUBE, 1
    for z in range(0, edge, 64):
        names = np.arange(next_label, next_label + 2 * side * side, dtype=np.uint64).reshape(2, side, side)
        next_label += names.size
        for y in range(0, side, 16):
            part = names[:, y : y + 16].repeat(CUBE, 0).repeat(CUBE, 1).repeat(CUBE, 2)
            seg.write(part, (z, y * CUBE, 0))
    bodies = np.arange(1, next_label, dtype=np.uint64)
    large = rng.choice(bodies[1:], len(bodies) // 2, replace=False)
    ops.agglomerate(seg, {"supervoxel": large, "body": np.full(len(large), 1, np.uint64)}, progress=False)
    return seg


def synapse_tables(elements: int, edge: int, rng: np.random.Generator) -> Iterator[pa.Table]:
    """Pairs of pre- and postsynaptic elements with a relationship, a confidence and a tag each, a million at a time."""
    voxels = edge**3
    step = round(voxels * (5**0.5 - 1) / 2)
    while math.gcd(step, voxels) > 1:
        step += 1
    for at in range(0, elements // 2 * 2, MILLION):  # each voxel at most once, scattered, and none of it is held
        flat = (at * step % voxels + np.arange(min(MILLION, elements - at) // 2 * 2) * step) % voxels
        zyx = np.stack(np.unravel_index(flat, (edge,) * 3), axis=1)
        yield synapse_table(zyx.astype(np.int32), rng)


def first_as_json(synapses: Any, body: int) -> tuple[bytes, int]:
    """A body's list as DVID answers it, cut off behind two million elements, and how many are in it."""
    parts: list[bytes] = []
    n = 0
    for held in synapses.listed(body):
        parts += listed_json(held)
        n += len(held)
        if n >= 2 * MILLION:
            break
    return b"[" + b",".join(parts) + b"]", n


def synapse_table(zyx: NDArray[np.int32], rng: np.random.Generator) -> pa.Table:
    """The same for some positions (n, 3)."""
    n = len(zyx)
    number = np.arange(n)
    partner = zyx[number ^ 1]
    to = [pa.array(np.ascontiguousarray(partner[:, i])) for i in (2, 1, 0)]
    pre = number % 2 == 0
    rel = pa.StructArray.from_arrays([pa.array(np.where(pre, "PreSynTo", "PostSynTo")), *to], ["rel", "x", "y", "z"])
    each = pa.array(np.arange(n + 1), pa.int32())
    return pa.table(
        {
            **{axis: np.ascontiguousarray(zyx[:, i]) for i, axis in ((2, "x"), (1, "y"), (0, "z"))},
            "kind": pa.array(np.where(pre, "PreSyn", "PostSyn")),
            "tags": pa.ListArray.from_arrays(each, pa.array(np.where(number % 50, "auto", "checked"))),
            "prop.conf": np.round(rng.random(n), 2),
            "rels": pa.ListArray.from_arrays(each, rel),
        }
    )


def as_json(rows: pa.Table) -> list[dict[str, Any]]:
    """What a client posts."""
    return [
        {
            "Pos": [r["x"], r["y"], r["z"]],
            "Kind": r["kind"],
            "Tags": r["tags"],
            "Prop": {"conf": str(r["prop.conf"])},
            "Rels": [{"Rel": q["rel"], "To": [q["x"], q["y"], q["z"]]} for q in r["rels"]],
        }
        for r in rows.to_pylist()
    ]


def followed(repo: Any, name: str) -> Any:
    """An annotation of the segmentation, and a labelsz of that."""
    synapses = repo.new_instance("annotation", name)
    synapses.set_syncs(["segmentation"])
    repo.new_instance("labelsz", f"{name}-ranks").set_syncs([name])
    return synapses


def loading(repo: Any, source: str, rows: pa.Table) -> Any:
    """Load all; add some by requests."""
    synapses = followed(repo, "synapses")
    before = time.process_time()
    with clock() as bulk:
        report = ops.load_elements(source, synapses, progress=False)
    busy = time.process_time() - before
    slow = followed(repo, "by-request")
    ones, many = as_json(rows.slice(0, 200)), as_json(rows.slice(1000, 5000))
    with clock() as single:
        for element in ones:
            slow.add([element])
    with clock() as batched:
        for at in range(0, len(many), 1000):
            slow.add(many[at : at + 1000])
    rates = {
        "ops.load_elements from Parquet": report.elements / bulk.seconds,
        "add, 1,000 a call": len(many) / batched.seconds,
        "add, one a call": len(ones) / single.seconds,
    }
    base = rates["add, one a call"]
    title = f"Loading {report.elements:,} elements: blocks, lists of {report.bodies:,} bodies and 2 tags, counts"
    note = f"the load took {busy / report.elements * 1e6:.1f} us of one core an element, {bulk.seconds:.1f} s in all"
    table(title, ["", "elements/s", "ratio"], [[k, f"{v:,.0f}", f"{v / base:,.0f}"] for k, v in rates.items()], note)
    return synapses


def queries(synapses: Any, edge: int) -> None:
    """A box, a body, and the largest bodies."""
    at = [max(0, edge // 2 - 128)] * 3
    box, _ = repeated(lambda: sum(map(len, synapses.in_box(at, [256] * 3))), 5)
    found = sum(map(len, synapses.in_box(at, [256] * 3)))
    whole, _ = repeated(lambda: sum(len(held) for _, held, _ in synapses.scan()), 2)
    large = synapses.count(1)
    listed, _ = repeated(lambda: sum(map(len, synapses.listed(1))), 3)
    count, _ = repeated(lambda: synapses.count(1), 5)
    text, of = first_as_json(synapses, 1)
    parsed, _ = repeated(lambda: msgspec.json.decode(text), 3)
    parsed *= sum(large.values()) / of
    ranks = synapses.version["synapses-ranks"]
    top, _ = repeated(lambda: ranks.top(100, "PostSyn"), 9)
    by_hand, _ = repeated(lambda: ranks.table().PostSyn.nlargest(100), 3)
    n = sum(large.values())
    rows = [
        [f"box of 256^3 voxels ({found:,} elements)", duration(box), f"{whole / box:,.0f}", "all blocks read"],
        [
            f"list of a body, as columns ({n:,} elements)",
            duration(listed),
            f"{parsed / listed:,.1f}",
            "its JSON parsed",
        ],
        ["count of that body, by kind", duration(count), f"{listed / count:,.0f}", "its list read"],
        ["100 largest bodies", duration(top), f"{by_hand / top:,.0f}", "all counts read and sorted"],
    ]
    table("Queries", ["", "time", "times faster than", ""], rows)


def merging(repo: Any, synapses: Any) -> None:
    """A large body into a small one, a small one into another, and the same with lists of JSON."""
    seg = synapses.version["segmentation"]
    bodies = [b for b in seg.bodies() if b != 1]
    n = sum(synapses.count(1).values())
    pieces = len(seg.supervoxels_of(1).id)
    small = list(zip(bodies[20:40:2], bodies[21:41:2], strict=True))
    spent = {}

    def measure(name: str, pairs: list[tuple[int, int]]) -> None:
        seconds, written = [], []
        for target, other in pairs:
            before = bytes_written()
            with clock() as c:
                seg.merge(target, [other])
            seconds.append(c.seconds)
            written.append(bytes_written() - before)
        spent[name] = float(np.median(seconds)), int(np.median(written))

    measure("small body into a small one", small)
    measure(f"small body into one with {n:,} synapses", [(1, b) for b in bodies[40:45]])
    large = [1, *bodies[:5]]
    measure(
        f"body with {n:,} synapses and {pieces:,} supervoxels into a small one",
        list(zip(large[1:], large[:-1], strict=True)),
    )
    last = large[-1]
    synapses.set_syncs([], replace=True)
    more = [last, *bodies[5:10]]
    measure("the same, by the segmentation alone", list(zip(more[1:], more[:-1], strict=True)))
    lists = repo.new_instance("keyvalue", "json-lists")
    text, of = first_as_json(synapses, last)
    lists.put("large", text)
    before = bytes_written()
    with clock() as c:
        joined = [*msgspec.json.decode(lists["large"]), *msgspec.json.decode(b"[]")]
        lists.put_many({"large": b"", "small": msgspec.json.encode(joined)})
    whole = sum(synapses.count(last).values()) / of
    spent["the large body's list as JSON, decoded, joined, stored"] = (
        c.seconds * whole,
        int((bytes_written() - before) * whole),
    )
    base = spent["small body into a small one"]
    rows = [
        [name, duration(seconds), amount(size), f"{seconds / base[0]:.1f}", f"{size / base[1]:.1f}"]
        for name, (seconds, size) in spent.items()
    ]
    table("Merging", ["segmentation, lists and counts in one commit", "time", "written", "x time", "x bytes"], rows)


def main() -> None:
    """Run all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elements", type=float, default=2e5)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    elements = int(given.elements)
    folder = Path(tempfile.mkdtemp(dir=given.folder))
    try:
        machine()
        rng = np.random.default_rng(0)
        edge = edge_for(elements)
        datastore = dvid_dask.create(str(folder / "store"), compact="never")
        repo = datastore.new_repo("fly")
        segmentation(repo, edge, rng)
        rows = None
        for i, part in enumerate(synapse_tables(elements, edge, rng)):
            pq.write_table(part, folder / f"synapses.{i:03}.parquet", row_group_size=1 << 17)
            rows = part.slice(0, 6000) if rows is None else rows
        synapses = loading(repo, str(folder / "synapses.*.parquet"), rows)
        queries(synapses, edge)
        merging(repo, synapses)
        console.print(f"largest memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
