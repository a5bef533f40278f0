"""``dvid-dask bench``: small benchmarks that tell what a machine and its disk give, in seconds.

The project's full benchmarks, beside other stores and formats, are the scripts in ``benchmarks/`` of the source tree.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

from dvid_dask.cli.console import JsonFlag, print_json, print_table

app = typer.Typer(
    help="Small benchmarks of this machine: the store on a disk, the label codec.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def store(
    where: Annotated[
        Path | None, typer.Option(help="Folder on the disk to measure; a temporary one is made in it.", file_okay=False)
    ] = None,
    keys: Annotated[int, typer.Option(help="Keys to write.", min=1000)] = 50_000,
    json: JsonFlag = False,
) -> None:
    """Measure the store on a disk: bulk write, single commits, branch, reads, diff."""
    from dvid_dask.store import Store

    folder = tempfile.mkdtemp(prefix="dvid-dask-bench-", dir=where)
    try:
        _print_rows(_store_rows(Store.create(Path(folder) / "store"), keys), json)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _store_rows(store: Any, keys: int) -> list[tuple[str, float, str]]:
    rng = np.random.default_rng(0)
    names = [b"k%09d" % i for i in range(keys)]
    values = [rng.bytes(100) for _ in range(1000)]
    tree = store.create_tree("main")
    rows = []

    t = time.perf_counter()
    for start in range(0, keys, 5000):
        batch = [(k, values[i % 1000]) for i, k in enumerate(names[start : start + 5000])]
        tree.update(lambda tx, batch=batch: tx.put_many(batch))
    rows.append((f"bulk write of {keys:,} keys", keys / (time.perf_counter() - t), "keys/s"))

    t = time.perf_counter()
    store.seal("main")
    rows.append(("seal the version", 1e3 * (time.perf_counter() - t), "ms"))

    made = iter(range(100))
    rows.append(("branch", 1e3 * _timed(lambda: store.branch("main", f"b{next(made)}"), 20), "ms"))
    branch = store.tree("b0")
    some = iter(rng.integers(0, keys, 1000).tolist())
    rows.append(
        (
            "commit of one key",
            1e3 * _timed(lambda: branch.update(lambda tx: tx.put(names[next(some)], b"new")), 20),
            "ms",
        )
    )
    view = branch.view()
    rows.append(("read of one key", 1e6 * _timed(lambda: view.get(names[next(some)]), 200), "us"))
    chosen = [names[i] for i in rng.integers(0, keys, 10_000)]
    rows.append(("bulk read", 10_000 / _timed(lambda: view.get_many(chosen), 3), "keys/s"))
    rows.append(
        ("diff of 20 changes", 1e3 * _timed(lambda: list(store.diff(store.tree("main").view(), view)), 3), "ms")
    )
    return rows


@app.command()
def codec(
    size: Annotated[int, typer.Option(help="Edge in voxels of the label volume.", min=64, max=1024)] = 256,
    json: JsonFlag = False,
) -> None:
    """Measure the label block codec on one core, with synthetic labels."""
    from dvid_dask.formats.label_blocks import decode_block, encode_block

    labels = _label_volume(size - size % 64)
    corners = [(z, y, x) for z, y, x in np.ndindex(*(n // 64 for n in labels.shape))]
    blocks = [labels[64 * z : 64 * z + 64, 64 * y : 64 * y + 64, 64 * x : 64 * x + 64] for z, y, x in corners]
    encode_block(blocks[0])
    encoded = [encode_block(b) for b in blocks]
    decode_block(encoded[0])
    rate = labels.size / 1e6
    rows = [
        ("encode", rate / _timed(lambda: [encode_block(b) for b in blocks], 3), "Mvoxel/s"),
        ("decode", rate / _timed(lambda: [decode_block(b) for b in encoded], 3), "Mvoxel/s"),
        ("raw size over encoded size", labels.nbytes / sum(map(len, encoded)), "x"),
    ]
    _print_rows(rows, json)


def _label_volume(edge: int) -> npt.NDArray[np.uint64]:
    """Cells with curved walls, about twenty voxels wide."""
    z, y, x = np.ogrid[0:edge, 0:edge, 0:edge]
    w = np.sin(z / 17.0) * 9 + np.sin(y / 23.0 + 1) * 7 + np.sin(x / 13.0 + 2) * 6
    cells = np.floor((z + w) / 40).astype(np.int64), np.floor((y - w) / 25).astype(np.int64), np.floor((x + w) / 25)
    return np.asarray(1 + (cells[0] + 8) * 1_000_003 + (cells[1] + 8) * 1009 + cells[2].astype(np.int64) + 8, np.uint64)


def _timed(action: Callable[[], object], times: int) -> float:
    """Median seconds of an action."""
    taken = []
    for _ in range(times):
        t = time.perf_counter()
        action()
        taken.append(time.perf_counter() - t)
    return median(taken)


def _print_rows(rows: list[tuple[str, float, str]], json: bool) -> None:
    if json:
        print_json({name: {"value": value, "unit": unit} for name, value, unit in rows})
    else:
        print_table(
            ("what", "value", "unit"), ((n, f"{v:,.4g}" if v < 1000 else f"{v:,.0f}", u) for n, v, u in rows), [1]
        )
