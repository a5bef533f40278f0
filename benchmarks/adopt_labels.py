"""What it costs to adopt a segmentation instead of ingesting it, and to read it where it lies.

    python benchmarks/adopt_labels.py [--quick] [--folder FOLDER] [--data connectomics-512.npz]

The real volume of `--data` (512^3) if that file is there, else a made one, lies as sharded precomputed
(compressed_segmentation, 64^3 chunks, with three coarser scales) and as zarr 3 (64^3, zstd, one scale) on disk. Each is
adopted and ingested in this process, with the same four scales and label index; bytes are those of the store.

Then the same boxes are read in turn by tensorstore, opened by hand with a cache of the same size, and by `read` of the
adopted instance, each box once, the order of both changing:

    unedited      nothing was edited
    edits away    blocks were written elsewhere, so each read has to look for them
    merged        then half of all bodies were merged: every voxel is looked up

Label blocks, which have to be encoded, are read beside those of the ingested copy. Times are medians, ratios those of
the sums, of seconds and of CPU seconds of all threads. Target: unedited at most 1.2.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from _report import clock, duration, files_and_bytes, machine, table
from ingest import DATA, load_tile

import dvid_dask
from dvid_dask import ops
from dvid_dask.bases.readers import forget
from dvid_dask.bases.remote import CACHE_BYTES
from dvid_dask.datatypes.labelmap import LabelMap
from dvid_dask.formats.label_blocks import downsample_array

SETTINGS = {"BlockSize": "64,64,64", "MaxDownresLevel": "3"}
KINDS = {"64^3, whole chunks": 64, "128^3, whole chunks": 128, "100^3, anywhere": 100}

Box = tuple[tuple[int, ...], tuple[int, ...]]


def opened(spec: dict[str, Any], **more: Any) -> Any:
    context = ts.Context({"cache_pool": {"total_bytes_limit": CACHE_BYTES}})
    return ts.open(spec, context=context, recheck_cached_data="open", **more).result()


def write_volumes(folder: Path, labels: np.ndarray) -> dict[str, Callable[[], Any]]:
    """The volume in each format: how to open it by hand as an array of z, y, x."""
    shards = {
        "@type": "neuroglancer_uint64_sharded_v1", "preshift_bits": 3, "minishard_bits": 3, "shard_bits": 3,
        "hash": "identity", "data_encoding": "gzip", "minishard_index_encoding": "gzip",
    }  # fmt: skip
    where = (folder / "precomputed").as_uri() + "/"
    multi = {"type": "segmentation", "data_type": "uint64", "num_channels": 1}
    voxels = labels
    for scale in range(4):
        metadata = {
            "size": list(voxels.shape[::-1]), "resolution": [8 << scale] * 3, "chunk_size": [64, 64, 64],
            "encoding": "compressed_segmentation", "compressed_segmentation_block_size": [8, 8, 8], "sharding": shards,
        }  # fmt: skip
        spec = {"driver": "neuroglancer_precomputed", "kvstore": where}
        array = opened({**spec, "multiscale_metadata": multi, "scale_metadata": metadata}, create=True)
        array[..., 0].write(voxels.T).result()
        voxels = downsample_array(voxels)
    zarr3 = {"driver": "zarr3", "kvstore": (folder / "zarr 3").as_uri() + "/"}
    metadata = {
        "shape": list(labels.shape), "data_type": "uint64",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [64, 64, 64]}},
        "codecs": [{"name": "bytes"}, {"name": "zstd", "configuration": {"level": 1}}],
    }  # fmt: skip
    opened({**zarr3, "metadata": metadata}, create=True).write(labels).result()
    return {
        "precomputed": lambda: opened({"driver": "neuroglancer_precomputed", "kvstore": where})[..., 0].T,
        "zarr 3": lambda: opened(zarr3),
    }


def boxes_of(edge: int, shape: tuple[int, ...], count: int) -> list[Box]:
    """Boxes (start, size) that have no chunk in common where they are whole chunks."""
    rng = np.random.default_rng(edge)
    if edge % 64 == 0:
        cells = np.indices([n // edge for n in shape]).reshape(3, -1).T * edge
        return [(tuple(at), (edge,) * 3) for at in rng.permutation(cells)[:count].tolist()]
    return [(tuple(int(rng.integers(0, n - edge + 1)) for n in shape), (edge,) * 3) for _ in range(count)]


def by_hand(array: Any, box: Box) -> np.ndarray:
    start, size = box
    found: np.ndarray = array[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))].read(order="C").result()
    return found


def paired(first: Callable[[Box], Any], second: Callable[[Box], Any], boxes: list[Box]) -> tuple[Any, Any]:
    """Seconds and CPU seconds (n, 2) of each box read in both ways."""
    spent: tuple[list[Any], list[Any]] = ([], [])
    for i, box in enumerate(boxes):
        for which in (0, 1) if i % 2 else (1, 0):
            began, cpu = time.perf_counter(), time.process_time()
            (first, second)[which](box)
            spent[which].append((time.perf_counter() - began, time.process_time() - cpu))
    return np.array(spent[0]), np.array(spent[1])


def compared(seg: LabelMap, open_it: Callable[[], Any], edge: int, count: int) -> list[str]:
    """Boxes of an edge read by hand and through the instance."""
    array = open_it()
    boxes = boxes_of(edge, array.shape, count)
    forget()
    by_hand(array, boxes[0])
    seg.read(*boxes[0])
    first, second = paired(lambda box: by_hand(array, box), lambda box: seg.read(*box), boxes[1:])
    times = [duration(statistics.median(part[:, 0])) for part in (first, second)]
    return [*times, *(f"{r:.2f}" for r in second.sum(axis=0) / first.sum(axis=0))]


def encoded(adopted: LabelMap, ingested: LabelMap, count: int) -> list[str]:
    """Label blocks of boxes of eight, from the base and from the store."""

    def blocks(seg: LabelMap) -> Callable[[Box], Any]:
        return lambda box: list(seg.blocks([v // 64 for v in box[0]], [v // 64 + 2 for v in box[0]]))

    forget()
    spent = paired(blocks(ingested), blocks(adopted), boxes_of(128, ingested.extents.shape, count))
    return [duration(statistics.median(part[:, column]) / 8) for part in spent for column in (0, 1)]


def make(folder: Path, format: str, way: str) -> tuple[LabelMap, list[str]]:
    """The volume adopted or ingested into a store of its own, and what that took."""
    store = folder / f"{way} {format}"
    repo = dvid_dask.create(str(store), compact="never").new_repo()
    seg: Any = None
    cpu = time.process_time()
    with clock() as c:
        if way == "adopt":
            seg = ops.adopt(str(folder / format), repo["master"], "seg", "labelmap", settings=SETTINGS, progress=False)
        else:
            seg = repo.new_instance("labelmap", "seg", SETTINGS)
            ops.ingest(str(folder / format), seg, progress=False)
    cpu = time.process_time() - cpu
    voxels = np.prod(seg.extents.shape)
    rate = f"{voxels / 1e6 / c.seconds:.0f} Mvoxel/s"
    size = files_and_bytes(store)[1]
    return seg, [format, way, f"{c.seconds:.2f} s", f"{cpu:.2f} s", rate, f"{size / 1e6:.1f} MB"]


def edit(seg: LabelMap, state: str) -> None:
    if state == "merged":
        bodies = list(seg.bodies())
        seg.merge(bodies[0], bodies[1 : len(bodies) // 2])
    elif state == "edits away":
        z, _, x = seg.extents.stop
        seg.write(np.ones((64, 640, 1280), np.uint64), (-(-z // 64) * 64 + 64, 0, -(-x // 64) * 64))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a volume of 256^3")
    parser.add_argument("--folder", type=Path, help="where to work; by default a temporary folder")
    parser.add_argument("--data", type=Path, default=DATA, help="real labels")
    args = parser.parse_args()
    labels = load_tile(args.data)
    if args.quick:
        labels = np.ascontiguousarray(labels[:256, :256, :256])
    count = 10 if args.quick else 30
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        volumes = write_volumes(folder, labels)
        make(folder, "zarr 3", "adopt")  # kernels are compiled
        (folder / "adopt zarr 3").rename(folder / "warm")
        loads, reads, blocks = [], [], []
        for format, open_it in volumes.items():
            adopted, row = make(folder, format, "adopt")
            loads.append(row)
            ingested, row = make(folder, format, "ingest")
            loads.append(row)
            blocks.append([format, *encoded(adopted, ingested, count)])
            for state in ("unedited", "edits away", "merged"):
                edit(adopted, state)
                reads += [[format, state, kind, *compared(adopted, open_it, n, count)] for kind, n in KINDS.items()]
        machine()
        table("Adopt and ingest, four scales", ["format", "", "time", "CPU", "rate", "store"], loads)
        table("Boxes of voxels", ["format", "state", "boxes", "by hand", "adopted", "ratio", "of CPU"], reads)
        table("Label blocks of 64^3, per block", ["format", "ingested", "CPU", "adopted", "CPU"], blocks)


if __name__ == "__main__":
    main()
