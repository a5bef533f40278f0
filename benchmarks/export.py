"""How fast a labelmap goes out as a neuroglancer volume, in shards of compressed_segmentation.

    python benchmarks/export.py [--edge 512] [--data connectomics-512.npz]

Input is the real volume of `--data` if that file is there, else a made one; a third of its supervoxels is merged into
bodies. Compared in one run, on the same machine, all with the same sharding and gzip:

- the export: scale 0, label blocks to chunks without voxels in between;
- the same through voxels: bricks read as bodies from the store, written by tensorstore's driver;
- the driver alone: tensorstore writes the array of bodies from memory, without any store to read from.

Then one core's rate of the kernel, against decoding a block and encoding its voxels.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from _report import amount, clock, files_and_bytes, machine, table
from ingest import DATA, load_tile

import dvid_dask
from dvid_dask import ops
from dvid_dask.datatypes.labelmap import LabelMap
from dvid_dask.datatypes.labelmap.blocks import blocks_in_box, read_blocks
from dvid_dask.formats import compressed_segmentation, label_blocks

BLOCK = (64, 64, 64)


def make(labels: np.ndarray, folder: Path) -> LabelMap:
    repo = dvid_dask.create(str(folder), compact="never").new_repo("bench")
    seg = repo.new_instance("labelmap", "seg", {"BlockSize": "64,64,64", "MaxDownresLevel": "0"})
    ops.ingest(labels, seg, progress=False)
    names = np.unique(labels)
    names = names[names > 0]
    seg.set_mappings(names[1::3], names[: len(names[1::3]) * 3 : 3])
    return seg


def driver(folder: Path, info: dict[str, Any]) -> Any:
    """A new volume like that of an ``info``, by tensorstore."""
    import tensorstore as ts

    (scale,) = info["scales"]
    chunk = scale.pop("chunk_sizes")[0]
    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": folder.as_uri() + "/",
        "multiscale_metadata": {k: info[k] for k in ("type", "data_type", "num_channels")},
        "scale_metadata": {**scale, "chunk_size": chunk},
        "create": True,
    }
    return ts.open(spec).result()[..., 0].transpose([2, 1, 0])


def write_shards(target: Any, shape: tuple[int, ...], read: Any) -> None:
    """Shard by shard, each in a transaction, as the driver is meant to be used; here all is one shard."""
    import tensorstore as ts

    with ts.Transaction() as transaction:
        out = target.with_transaction(transaction)
        for z in range(0, shape[0], 64):
            out[z : z + 64] = read(z)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edge", type=int, default=512)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--folder", help="where to work; removed afterwards")
    args = parser.parse_args()
    machine()
    folder = Path(tempfile.mkdtemp(prefix="dvid-dask-bench-", dir=args.folder))
    try:
        labels = np.ascontiguousarray(load_tile(args.data)[: args.edge, : args.edge, : args.edge])
        run(labels, folder, "real" if args.data.exists() else "made")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(labels: np.ndarray, folder: Path, kind: str) -> None:
    seg = make(labels, folder / "store")
    array = seg.array()
    bodies = array[:, :, :]
    corner = np.ascontiguousarray(labels[:64, :64, :64])
    compressed_segmentation.from_label_block(label_blocks.encode_block(corner))  # compiled, or loaded
    rows, rates = [], []

    def report(name: str, path: Path, seconds: float) -> None:
        rates.append(bodies.size / 1e6 / seconds)
        size = files_and_bytes(path)[1]
        rows.append([name, f"{seconds:.2f}", f"{rates[-1]:,.0f}", amount(size), f"{rates[0] / rates[-1]:.1f}"])

    path = folder / "export"
    with clock() as c:
        ops.export(seg, str(path), format="precomputed", progress=False)
    report("export, block by block", path, c.seconds)
    ways = {
        "export through voxels": lambda z: array[z : z + 64, :, :],
        "tensorstore's driver alone": lambda z: bodies[z : z + 64],
    }
    for i, (name, read) in enumerate(ways.items()):
        path = folder / f"way{i}"
        target = driver(path, json.loads((folder / "export" / "info").read_text()))
        with clock() as c:
            write_shards(target, bodies.shape, read)
        report(name, path, c.seconds)
        assert np.array_equal(target.read().result(), bodies)
    shape = " x ".join(map(str, bodies.shape))
    table(
        f"labelmap of {shape} {kind} labels to a sharded neuroglancer volume",
        ["way", "s", "Mvoxel/s", "on disk", "export is faster by"],
        rows,
        "bodies, scale 0, compressed_segmentation, gzip in shards",
    )
    kernels(seg)


def kernels(seg: LabelMap) -> None:
    grid = [n // b for n, b in zip(seg.array().shape, BLOCK, strict=True)]
    blocks = [b for _, part in read_blocks(seg.view(), seg.layout, 0, blocks_in_box((0, 0, 0), grid)) for b in part]
    with clock() as straight:
        ours = [compressed_segmentation.from_label_block(b) for b in blocks]
    with clock() as dense:
        theirs = [compressed_segmentation.encode(label_blocks.decode_block(b)) for b in blocks]
    voxels = len(blocks) * np.prod(BLOCK) / 1e6
    sizes = [sum(len(c) for c in chunks if c is not None) for chunks in (ours, theirs)]
    rows = [
        [name, f"{voxels / c.seconds:,.0f}", amount(size / len(blocks))]
        for name, c, size in zip(("block to chunk", "block to voxels to chunk"), (straight, dense), sizes, strict=True)
    ]
    table("one core", ["way", "Mvoxel/s", "a chunk, before gzip"], rows)


if __name__ == "__main__":
    main()
