"""How fast a segmentation goes in: labels, label index and four scales, from a memory-mapped file.

    python benchmarks/ingest.py [--quick] [--folder FOLDER] [--data connectomics-512.npz]

Input is the real volume of `--data` if that file is there, else a made one, tiled with label offsets to 512^3 and to
2048 x 1024 x 1024 voxels (z, y, x). Both are ingested on 1 and on 2 worker processes of one thread each. The same
workers then write the same file as one plain zarr 3 array (64^3 chunks, blosc with zstd) through tensorstore: no index,
no coarser scales. Rates are Mvoxel of full resolution; "per CPU" divides by the CPU seconds of all workers, which
counts the threads of tensorstore too. Peak memory is that of the largest worker (VmHWM).

Targets: 80 Mvoxel/s per worker, at most 2 GB a worker, at most 1.15 times the time per voxel in the larger volume; a
graph for a teravoxel, without the work, built and scheduled in a minute and 4 GB.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from distributed import Client, LocalCluster

import dvid_dask
from dvid_dask import ops
from dvid_dask.boxes import Box
from dvid_dask.ops import job
from dvid_dask.ops.bricks import plan_bricks
from dvid_dask.ops.progress import Progress

DATA = Path(__file__).parents[2] / "shared" / "data" / "connectomics-512.npz"
SMALL, LARGE = (512, 512, 512), (2048, 1024, 1024)
QUICK_SMALL, QUICK_LARGE = (256, 256, 256), (512, 512, 512)
SETTINGS = {"BlockSize": "64,64,64", "MaxDownresLevel": "3"}


# ------------------------------------------------------------------ input


def load_tile(path: Path) -> np.ndarray:
    """512^3 labels, real if the file is there."""
    if path.exists():
        with np.load(path) as data:
            return data["ids"].astype(np.uint64)[data["index"]]
    rng = np.random.default_rng(0)
    seeds = rng.uniform(0, 512, (1500, 3))
    from scipy.spatial import cKDTree

    grid = np.stack(np.meshgrid(*[np.arange(0, 512, 2)] * 3, indexing="ij"), -1).reshape(-1, 3)
    wobble = grid + 12 * np.sin(grid[:, ::-1] / 19)
    nearest = cKDTree(seeds).query(wobble, workers=-1)[1].reshape(256, 256, 256)
    return (nearest + 1).astype(np.uint64).repeat(2, 0).repeat(2, 1).repeat(2, 2)


def write_input(tile: np.ndarray, shape: tuple[int, int, int], path: Path) -> None:
    """The tile repeated, the labels of each copy offset; background stays 0."""
    out = np.lib.format.open_memmap(path, "w+", np.uint64, shape)
    step = int(tile.max())
    for number, box in enumerate(Box.of_shape(shape).split(tile.shape)):
        part = tile[tuple(slice(0, n) for n in box.shape)]
        out[box.slices()] = np.where(part, part + np.uint64(number * step), 0)
    out.flush()


# ------------------------------------------------------------------ measuring


@dataclass
class Run:
    """One measurement."""

    seconds: float
    cpu: float
    peak: float
    bytes: int


@contextlib.contextmanager
def cluster_of(workers: int) -> Iterator[Client]:
    """Processes of one thread each."""
    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=":0", memory_limit=0) as cluster,
        Client(cluster) as client,
    ):
        yield client


def worker_cpu() -> float:
    return time.process_time()


def worker_peak() -> float:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1e6 for line in status if line.startswith("VmHWM"))


def folder_bytes(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def fill_page_cache(path: Path) -> None:
    """Read the file once, so that what is measured is the work and not the disk, as far as it fits in memory."""
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 24):
            pass


def measure(client: Client, action: Callable[[], object], folder: Path, path: Path) -> Run:
    fill_page_cache(path)
    cpu = sum(client.run(worker_cpu).values())
    start = time.perf_counter()
    action()
    seconds = time.perf_counter() - start
    cpu = sum(client.run(worker_cpu).values()) - cpu
    return Run(seconds, cpu, max(client.run(worker_peak).values()), folder_bytes(folder))


def ingest(path: Path, folder: Path, client: Client) -> None:
    seg = dvid_dask.create(str(folder), compact="never").new_repo("bench").new_instance("labelmap", "seg", SETTINGS)
    ops.ingest(str(path), seg, client=client, progress=False)


def zarr_spec(folder: Path, shape: tuple[int, int, int]) -> dict[str, Any]:
    blosc = {"cname": "zstd", "clevel": 1, "shuffle": "shuffle", "typesize": 8}
    return {
        "driver": "zarr3",
        "kvstore": folder.as_uri() + "/",
        "metadata": {
            "shape": list(shape),
            "data_type": "uint64",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [64, 64, 64]}},
            "codecs": [
                {"name": "bytes", "configuration": {"endian": "little"}},
                {"name": "blosc", "configuration": blosc},
            ],
        },
        "create": True,
        "open": True,
    }


def write_zarr_brick(spec: dict[str, Any], path: str, box: Box) -> None:
    import tensorstore as ts

    source = np.load(path, mmap_mode="r")
    ts.open(spec).result()[box.slices()].write(source[box.slices()]).result()


def plain_zarr(path: Path, folder: Path, client: Client, shape: tuple[int, int, int]) -> None:
    spec = zarr_spec(folder, shape)
    write_zarr_brick(spec, str(path), Box.of((0, 0, 0), (64, 64, 64)))
    boxes = list(Box.of_shape(shape).split((256, 256, 256)))
    client.gather([client.submit(write_zarr_brick, spec, str(path), b, pure=False) for b in boxes])


# ------------------------------------------------------------------ a teravoxel


class Nothing:
    """A phase of tasks that do nothing."""

    def __init__(self, title: str, count: int) -> None:
        self.title, self.count = title, count

    def weight(self, index: int) -> int:
        """All alike."""
        return 1

    def finished(self) -> set[int]:
        """None."""
        return set()

    def worker(self) -> Callable[[int], dict[str, int]]:
        """What does nothing."""
        return nothing

    def inputs(self, indices: object) -> None:
        """None."""
        return


def nothing(index: int) -> dict[str, int]:
    return {"voxels": index}


def teravoxel(client: Client) -> str:
    """What it takes to plan, build and schedule the graph; peak memory is of this process: client and scheduler."""
    start = time.perf_counter()
    plan = plan_bricks(Box.of_shape((10_240, 10_240, 10_240)), (64, 64, 64), levels=7, itemsize=8)
    phases = [Nothing("bricks", g.count) for g in plan.grids] + [Nothing("index", plan.blocks * 48 >> 21)]
    for phase in phases:
        job.execute(phase, client, Progress(False))
    tasks, seconds = sum(p.count for p in phases), time.perf_counter() - start
    return f"{tasks:,} tasks of a teravoxel planned and scheduled in {seconds:.1f} s, peak {worker_peak():.2f} GB"


# ------------------------------------------------------------------ report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="256^3 and 512^3 only")
    parser.add_argument("--folder", help="where to work; removed afterwards")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--no-baseline", action="store_true", help="don't write plain zarr")
    parser.add_argument("--teravoxel", action="store_true", help="the graph of a teravoxel only")
    args = parser.parse_args()
    if args.teravoxel:
        with cluster_of(2) as client:
            print(teravoxel(client))
        return
    folder = Path(tempfile.mkdtemp(prefix="dvid-dask-bench-", dir=args.folder))
    try:
        run_all(folder, args.data, args.quick, not args.no_baseline)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_all(folder: Path, data: Path, quick: bool, baseline: bool) -> None:
    tile = load_tile(data)
    print(f"input: {'real' if data.exists() else 'made'} labels, {len(np.unique(tile)):,} in a tile of 512^3")
    shapes = (QUICK_SMALL, QUICK_LARGE) if quick else (SMALL, LARGE)
    names = ("volume", "workers", "what", "s", "Mvox/s", "a worker", "per CPU", "GB peak", "MB")
    print(" ".join(f"{n:>{w}}" for n, w in zip(names, (18, 7, 22, 7, 7, 8, 8, 7, 7), strict=True)))
    per_voxel: dict[tuple[int, tuple[int, ...]], float] = {}
    for workers in (1, 2):
        for shape in shapes:
            path = folder / f"{'x'.join(map(str, shape))}.npy"
            if not path.exists():
                write_input(tile, shape, path)
            with cluster_of(workers) as client:
                warm = folder / f"warm{workers}-{len(per_voxel)}.npy"
                np.save(warm, tile[:256])  # four bricks: every worker compiles or loads its kernels
                ingest(warm, folder / f"warm{workers}-{len(per_voxel)}", client)
                target = folder / f"store{workers}-{len(per_voxel)}"
                run = measure(client, lambda p=path, t=target, c=client: ingest(p, t, c), target, path)
                per_voxel[workers, shape] = run.seconds / np.prod(shape)
                show(shape, workers, "labels, index, scales", run)
                shutil.rmtree(target)
                if baseline:
                    target = folder / "zarr"
                    plain = measure(
                        client, lambda p=path, t=target, c=client, s=shape: plain_zarr(p, t, c, s), target, path
                    )
                    show(shape, workers, "plain zarr, scale 0", plain)
                    shutil.rmtree(target)
    for workers in (1, 2):
        ratio = per_voxel[workers, shapes[1]] / per_voxel[workers, shapes[0]]
        print(f"time per voxel, larger to smaller volume, {workers} worker(s): {ratio:.2f}")
    # in a process of its own: this one holds the tile
    print(subprocess.run([sys.executable, __file__, "--teravoxel"], check=True, capture_output=True, text=True).stdout)


def show(shape: tuple[int, ...], workers: int, what: str, run: Run) -> None:
    voxels = np.prod(shape) / 1e6
    print(
        f"{' x '.join(map(str, shape)):>18} {workers:>7} {what:>22} {run.seconds:>7.2f} {voxels / run.seconds:>7.0f} "
        f"{voxels / run.seconds / workers:>8.0f} {voxels / run.cpu:>8.0f} {run.peak:>7.2f} {run.bytes / 1e6:>7.1f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
