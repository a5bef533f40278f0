"""Meshes of a segmentation: Mvoxel/s and peak memory, beside scikit-image label by label.

    python benchmarks/meshes.py VOLUME.npz [--size 256] [--workers 2] [--folder FOLDER]

VOLUME.npz is a segmentation as ``ids[index]``, z y x. It is written to a store; then all its bodies are meshed at
scales 0 and 1, without simplification and with a tenth of the triangles kept, each in processes of its own. The
baseline is what one would write first: the whole array decoded, and for each label marching cubes on the mask of its
bounding box, with the same simplification; on as many processes, which share the array.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import shutil
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from _report import clock, duration, machine, table

import dvid_dask
from dvid_dask import ops


def fill(folder: Path, volume: Path, size: int) -> None:
    """A store with the first `size` voxels of the volume on each side."""
    held = np.load(volume)
    labels = held["ids"][held["index"][:size, :size, :size]].astype(np.uint64)
    with dvid_dask.create(str(folder / "store"), compact="never") as ds:
        repo = ds.new_repo("bench")
        seg = repo.new_instance("labelmap", "seg", {"MaxDownresLevel": "1", "VoxelSize": "4,4,40"})
        ops.ingest(labels, seg, progress=False)
        repo["master"].commit()


Row = tuple[float, float, float, int, int]
_BOTH = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)


def peak() -> float:
    """MB that this process, or the largest of its children, has held."""
    return max(resource.getrusage(who).ru_maxrss for who in _BOTH) / 1024


def spent() -> float:
    """Seconds of CPU that this process and its finished children have used."""
    return sum(resource.getrusage(who).ru_utime + resource.getrusage(who).ru_stime for who in _BOTH)


def ours(folder: str, scale: int, keep: float, workers: int, edge: int) -> Row:
    """Seconds, seconds of CPU, MB that the largest process held, meshes and triangles."""
    from distributed import Client, LocalCluster

    seg = dvid_dask.open(f"{folder}/store", read_only=True).repos.named("bench")["master"]["seg"]
    out = f"{folder}/ours"
    shutil.rmtree(out, ignore_errors=True)
    with LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as c:
        # compiled loops and libraries are loaded before the clock runs
        for worker in c.scheduler_info()["workers"]:
            c.submit(warm, workers=[worker], pure=False).result()
        before = spent() + sum(c.run(spent).values())
        with clock() as time:
            report = ops.mesh(seg, out, scale=scale, keep=keep, format="ngmesh", edge=edge, progress=False)
        cpu = spent() + sum(c.run(spent).values()) - before
        used = max(c.run(peak).values())
    return time.seconds, cpu, used, report.labels, report.triangles


def warm() -> None:
    """Load what meshes need."""
    from dvid_dask.formats.meshes.mesh import simplified
    from dvid_dask.formats.meshes.surfaces import Piece, surfaces

    voxels = np.zeros((20, 20, 20), np.uint64)
    voxels[2:18, 2:18, 2:18] = 1
    for _, places, faces in surfaces(voxels, 1):
        simplified(Piece(places / 2, faces, len(faces)), 0.1)


_whole: np.ndarray = np.empty(0)


def plain_label(given: tuple[int, tuple[slice, ...], float, str]) -> int:
    """One label by scikit-image, from the array of the parent process."""
    import pyfqmr
    from skimage.measure import marching_cubes

    number, box, keep, out = given
    mask = np.pad(_whole[box] == number, 1)
    vertices, faces, _, _ = marching_cubes(mask.astype(np.float32), 0.49, allow_degenerate=False)
    if keep < 1 and len(faces) * keep > 64:
        simplifier = pyfqmr.Simplify()
        simplifier.setMesh(vertices.astype(np.float64), faces)
        simplifier.simplify_mesh(target_count=int(len(faces) * keep), verbose=False)
        vertices, faces, _ = simplifier.getMesh()
    with open(f"{out}/{number}.ngmesh", "wb") as file:
        file.write(len(vertices).to_bytes(4, "little"))
        file.write(vertices.astype("<f4").tobytes() + faces.astype("<u4").tobytes())
    return len(faces)


def plain(folder: str, scale: int, keep: float, workers: int) -> Row:
    """As `ours`."""
    from scipy.ndimage import find_objects

    global _whole
    seg = dvid_dask.open(f"{folder}/store", read_only=True).repos.named("bench")["master"]["seg"]
    out = Path(folder) / "plain"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    start, stop = seg.extents.at_scale(scale)
    shape = [b - a for a, b in zip(start, stop, strict=True)]
    before = spent()
    with clock() as time:
        labels = seg.read(start, shape, scale=scale)
        ids, numbers = np.unique(labels, return_inverse=True)
        _whole = numbers.reshape(labels.shape).astype(np.int32) + (ids[0] != 0)
        del labels, numbers
        boxes = [(n + 1, box, keep, str(out)) for n, box in enumerate(find_objects(_whole)) if box is not None]
        # fork shares the array; nothing of the store is used in the children
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork")) as pool:
            counts = list(pool.map(plain_label, boxes, chunksize=8))
    return time.seconds, spent() - before, peak(), len(counts), sum(counts)


def apart(function: str, *args: object) -> Row:
    """A run in a fresh process, so that its memory is its own."""
    import json
    import subprocess

    here = Path(__file__)
    code = f"import json, meshes; print(json.dumps(meshes.{function}(*{args!r})))"
    done = subprocess.run([sys.executable, "-c", code], cwd=here.parent, check=True, capture_output=True, text=True)
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("volume", type=Path)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--edge", type=int, default=256)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        fill(folder, options.volume, options.size)
        rows = []
        for scale in (0, 1):
            voxels = (options.size >> scale) ** 3 / 1e6
            for keep in (1.0, 0.1):
                for name, made in (
                    ("scikit-image", apart("plain", str(folder), scale, keep, options.workers)),
                    ("ops.mesh", apart("ours", str(folder), scale, keep, options.workers, options.edge)),
                ):
                    seconds, cpu, memory, labels, triangles = made
                    rows.append(
                        [
                            f"{scale}", f"{keep:g}", name, duration(seconds), duration(cpu), f"{voxels / seconds:.1f}",
                            f"{labels:,}", f"{triangles:,}", f"{memory:,.0f} MB",
                        ]
                    )  # fmt: skip
        columns = ["scale", "keep", "", "time", "CPU", "Mvoxel/s", "meshes", "triangles", "peak"]
        machine()
        table(f"meshes of {options.size}^3 voxels, {options.workers} processes", columns, rows)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
