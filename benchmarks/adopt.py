"""What it costs to read a volume through an instance that stands on it, beside reading the volume itself.

    python benchmarks/adopt.py [--quick] [--folder FOLDER] [--only FORMAT]

The demo's synthetic EM lies as zarr 2 and 3 and OME-Zarr (64^3 chunks, zstd), N5, precomputed (64^3, sharded with gzip,
and a JPEG file for each chunk) and HDF5 on disk. The same boxes are read in turn by tensorstore (h5py for HDF5), opened
by hand with a cache of the same size, and by `read_box` of an adopted instance: whole chunks, boxes anywhere, slices.
Each box is read once by each, so that what is compared is decoding and not caches; the order of both changes. Times are
medians; ratios are those of the medians, and of the sums of CPU seconds of all threads, which other work on the machine
disturbs less.

    unedited      nothing was written
    edits away    201 blocks were written elsewhere

Then the same over HTTP from one connection: raw boxes, and chunks of the zarr view, of the adopted instance and of a
copy that was ingested. Target: unedited at most 1.2.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tensorstore as ts
from _images import gray_volume
from _report import console, duration, machine, table
from http_api import Client, served

import dvid_dask
from dvid_dask import ops
from dvid_dask.bases.readers import forget
from dvid_dask.bases.remote import CACHE_BYTES
from dvid_dask.formats import ome_zarr

Box = tuple[tuple[int, ...], tuple[int, ...]]


def write_volumes(folder: Path, gray: np.ndarray) -> dict[str, tuple[str, Callable[[], Any]]]:
    """The volume in each format: its path, and how to open it by hand as an array of z, y, x."""
    chunk = [64, 64, 64]

    def opened(spec: dict[str, Any], **more: Any) -> Any:
        context = ts.Context({"cache_pool": {"total_bytes_limit": CACHE_BYTES}})
        return ts.open(spec, context=context, recheck_cached_data="open", **more).result()

    def kvstore(name: str) -> str:
        return (folder / name).as_uri() + "/"

    zarr3 = {"driver": "zarr3", "kvstore": kvstore("em.zarr")}
    metadata = {
        "shape": list(gray.shape), "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        "codecs": [{"name": "zstd", "configuration": {"level": 1}}],
    }  # fmt: skip
    opened({**zarr3, "metadata": metadata}, create=True).write(gray).result()
    zarr2 = {"driver": "zarr", "kvstore": kvstore("em.zarr2")}
    metadata2 = {"shape": list(gray.shape), "chunks": chunk, "dtype": "|u1", "compressor": {"id": "zstd", "level": 1}}
    opened({**zarr2, "metadata": metadata2}, create=True).write(gray).result()
    ome = {"driver": "zarr3", "kvstore": kvstore("em.ome.zarr/s0")}
    opened({**ome, "metadata": metadata}, create=True).write(gray).result()
    held = ome_zarr.attributes("em", [(0, (0, 0, 0))], (8, 8, 8), ["nanometer"] * 3, labels=False)
    group = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": held}}
    (folder / "em.ome.zarr" / "zarr.json").write_text(json.dumps(group))
    n5 = {"driver": "n5", "kvstore": kvstore("em.n5")}
    metadata = {
        "dimensions": list(gray.shape[::-1]), "dataType": "uint8", "blockSize": chunk,
        "compression": {"type": "zstd", "level": 1},
    }  # fmt: skip
    opened({**n5, "metadata": metadata}, create=True).write(gray.T).result()
    shards = {
        "@type": "neuroglancer_uint64_sharded_v1", "preshift_bits": 3, "minishard_bits": 3, "shard_bits": 3,
        "hash": "identity", "data_encoding": "gzip", "minishard_index_encoding": "gzip",
    }  # fmt: skip
    pre = {"driver": "neuroglancer_precomputed", "kvstore": kvstore("em")}
    scale = {
        "size": list(gray.shape[::-1]), "resolution": [8, 8, 8], "chunk_size": chunk, "encoding": "raw",
        "sharding": shards,
    }  # fmt: skip
    multi = {"type": "image", "data_type": "uint8", "num_channels": 1}
    array = opened({**pre, "multiscale_metadata": multi, "scale_metadata": scale}, create=True)
    array[..., 0].write(gray.T).result()
    files = {"driver": "neuroglancer_precomputed", "kvstore": kvstore("em.files")}
    scale = {"size": scale["size"], "resolution": [8, 8, 8], "chunk_size": chunk, "encoding": "jpeg"}
    array = opened({**files, "multiscale_metadata": multi, "scale_metadata": scale}, create=True)
    array[..., 0].write(gray.T).result()
    with h5py.File(folder / "em.h5", "w") as file:
        file.create_dataset("gray", data=gray, chunks=tuple(chunk), compression="gzip", compression_opts=1)
    # HDF5 shares what it caches of a file among all who opened it
    shutil.copy(folder / "em.h5", folder / "other.h5")
    return {
        "zarr 2": ("em.zarr2", lambda: opened(zarr2)),
        "zarr 3": ("em.zarr", lambda: opened(zarr3)),
        "OME-Zarr": ("em.ome.zarr", lambda: opened(ome)),
        "N5": ("em.n5", lambda: opened(n5).T),
        "precomputed, sharded": ("em", lambda: opened(pre)[..., 0].T),
        "precomputed, files": ("em.files", lambda: opened(files)[..., 0].T),
        "HDF5": ("em.h5", lambda: h5py.File(folder / "other.h5", "r", rdcc_nbytes=1 << 24, rdcc_nslots=10007)["gray"]),
    }


def boxes_of(kind: str, shape: tuple[int, ...], rng: np.random.Generator, count: int) -> list[Box]:
    """Boxes (start, size) that have no chunk in common where they are whole chunks."""
    if kind == "64^3, whole chunks":
        cells = np.indices([n // 64 for n in shape]).reshape(3, -1).T * 64
        return [(tuple(at), (64, 64, 64)) for at in rng.permutation(cells)[:count].tolist()]
    if kind == "128^3, whole chunks":
        cells = np.indices([n // 128 for n in shape]).reshape(3, -1).T * 128
        return [(tuple(at), (128, 128, 128)) for at in rng.permutation(cells)[:count].tolist()]
    size = (100, 100, 100) if kind == "100^3, anywhere" else (1, min(512, shape[1]), min(512, shape[2]))
    out = []
    for _ in range(count):
        out.append((tuple(int(rng.integers(0, n - s + 1)) for n, s in zip(shape, size, strict=True)), size))
    return out


def read_by_hand(array: Any, box: Box) -> np.ndarray:
    index = tuple(slice(a, a + n) for a, n in zip(*box, strict=True))
    return array[index] if isinstance(array, h5py.Dataset) else array[index].read(order="C").result()


def paired(by_hand: Callable[[Box], Any], ours: Callable[[Box], Any], boxes: list[Box]) -> tuple[Any, Any]:
    """Seconds and CPU seconds (n, 2) of each box read in both ways."""
    spent: tuple[list[Any], list[Any]] = ([], [])
    for i, box in enumerate(boxes):
        for which in (0, 1) if i % 2 else (1, 0):
            began, cpu = time.perf_counter(), time.process_time()
            (by_hand, ours)[which](box)
            spent[which].append((time.perf_counter() - began, time.process_time() - cpu))
    return np.array(spent[0]), np.array(spent[1])


def in_process(folder: Path, gray: np.ndarray, count: int, only: str | None) -> None:
    volumes = write_volumes(folder, gray)
    for format, (name, open_it) in volumes.items():
        if only not in (None, format):
            continue
        rows = []
        for state in ("unedited", "edits away"):
            repo = dvid_dask.create(str(folder / f"store-{name}-{state}"), compact="never").new_repo()
            image = ops.adopt(str(folder / name), repo["master"], "em", settings={"BlockSize": "64,64,64"})
            if state == "edits away":
                z, y, x = gray.shape
                image.write(np.zeros((64, 64 * 10, 64 * 20), np.uint8), (z + 64, y, x))
                image.write(np.zeros((64, 64, 64), np.uint8), (0, y + 64, 0))
            for kind in ("64^3, whole chunks", "128^3, whole chunks", "100^3, anywhere", "512^2, slices"):
                array = open_it()
                boxes = boxes_of(kind, gray.shape, np.random.default_rng(0), count)
                forget()
                image.read_box(*boxes[0])
                read_by_hand(array, boxes[0])
                first, second = paired(
                    lambda box, array=array: read_by_hand(array, box),
                    lambda box, image=image: image.read_box(*box),
                    boxes[1:],
                )
                if isinstance(array, h5py.Dataset):
                    array.file.close()
                hand, here = (statistics.median(part[:, 0]) for part in (first, second))
                cpu = second[:, 1].sum() / first[:, 1].sum()
                rows.append([state, kind, duration(hand), duration(here), f"{here / hand:.2f}", f"{cpu:.2f}"])
        heads = ["state", "boxes", "by hand", "adopted", "ratio", "of CPU"]
        table(f"Read through an image adopted of {format}", heads, rows)


def over_http(folder: Path, gray: np.ndarray, count: int) -> None:
    store = folder / "served"
    repo = dvid_dask.create(str(store), compact="never").new_repo()
    settings = {"BlockSize": "64,64,64"}
    ops.adopt(str(folder / "em.zarr"), repo["master"], "adopted", settings=settings)
    copy = repo.new_instance("uint8blk", "copy", settings)
    ops.ingest(gray, copy, progress=False)
    rows = []
    with served(store, 0) as (address, _):
        client = Client(address)
        paths = {
            "raw 64^3": [
                f"raw/0_1_2/64_64_64/{x}_{y}_{z}"
                for (z, y, x), _ in boxes_of("64^3, whole chunks", gray.shape, np.random.default_rng(1), count)
            ],
            "zarr chunks": [
                f"zarr/s0/c/{z // 64}/{y // 64}/{x // 64}"
                for (z, y, x), _ in boxes_of("64^3, whole chunks", gray.shape, np.random.default_rng(2), count)
            ],
        }
        for kind, wanted in paths.items():
            get = {
                name: lambda path, name=name: client("GET", f"/api/node/{repo.root}/{name}/{path}")
                for name in ("copy", "adopted")
            }
            for one in get.values():
                one(wanted[0])
            first, second = paired(get["copy"], get["adopted"], wanted[1:])  # type: ignore[arg-type]
            copy_s, here = (statistics.median(part[:, 0]) for part in (first, second))
            rows.append([kind, duration(copy_s), duration(here), f"{here / copy_s:.2f}"])
    table("GET, 64^3 blocks of zarr 3", ["", "of a copy", "adopted", "ratio"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small volume, few boxes")
    parser.add_argument("--folder", type=Path, help="where to write; by default a temporary one")
    parser.add_argument("--only", help="one format, like 'HDF5'")
    options = parser.parse_args()
    machine()
    gray = gray_volume(options.quick)
    console.print(f"{gray.shape} voxels (z, y, x)")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        count = 40 if options.quick else 100
        in_process(Path(folder), gray, count, options.only)
        over_http(Path(folder), gray, count)


if __name__ == "__main__":
    main()
