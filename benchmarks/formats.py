"""What a label block costs: bytes and speed per core, beside other ways to keep segmentations.

    python benchmarks/formats.py            # about a minute
    python benchmarks/formats.py --full     # all 512 blocks of the largest sample

Real segmentations (FIB-19 and CX samples of DVID's test data, a 512^3 volume of connectomics) are read from the folder
that DVID_DASK_SHARED names; without it a synthetic one is made. Everything runs on one thread, a block of 64^3 uint64
voxels at a time into warm memory, but for the rows that say otherwise. Speeds are the best of several rounds.
"""

from __future__ import annotations

import argparse
import gzip
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blosc2
import compressed_segmentation
import crackle
import numpy as np
from _report import console, machine, table

from dvid_dask.formats import compressed_segmentation as segmentation
from dvid_dask.formats import label_blocks as lb
from dvid_dask.formats import label_index, nanovdb, rles
from dvid_dask.formats.block_stream import block_to_payload
from dvid_dask.formats.compression import gzip_compress, gzip_decompress, zstd_compress, zstd_decompress

SHAPE = (64, 64, 64)
VOXELS = 64**3
SHARED = Path(os.environ.get("DVID_DASK_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"


def best(work: Callable[[], Any], seconds: float = 0.6) -> float:
    """The fastest of as many runs as fit into the time, at least two after a first to warm up."""
    work()
    fastest, runs, end = float("inf"), 0, time.perf_counter() + seconds
    while runs < 2 or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        fastest = min(fastest, time.perf_counter() - start)
        runs += 1
    return fastest


def synthetic(side: int) -> np.ndarray:
    """Cells around random seeds, about as large as pieces of neurites."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(side, dtype=np.float32)] * 3, indexing="ij"), -1)
    out = np.zeros((side,) * 3, np.uint64)
    nearest = np.full(out.shape, np.inf, np.float32)
    for label in range(1, side // 2):
        stretch = rng.uniform(0.3, 1.5, 3).astype(np.float32)
        distance = (((grid - rng.uniform(0, side, 3).astype(np.float32)) * stretch) ** 2).sum(-1)
        closer = distance < nearest
        out[closer] = 10**9 + label * 7919
        nearest[closer] = distance[closer]
    return out


def samples(full: bool) -> dict[str, list[np.ndarray]]:
    """Blocks by name of the sample."""
    found: dict[str, list[np.ndarray]] = {}
    for path in sorted(SHARED.glob("*-64x64x64-sample?.dat.gz")):
        name = path.name.split("-64x")[0] + " " + path.name[-8:-7]
        found[name] = [np.frombuffer(gzip.decompress(path.read_bytes()), "<u8").reshape(SHAPE).copy()]
    largest = SHARED / "connectomics-512.npz"
    if largest.exists():
        with np.load(largest) as z:
            index = z["index"] if full else z["index"][128:384, 128:384, 128:384]
            volume = z["ids"].astype(np.uint64)[index]
        found["connectomics"] = tiles(volume)
    if not found:
        console.print("no real samples found: a synthetic segmentation stands in")
        found["synthetic"] = tiles(synthetic(128))
    return found


def tiles(volume: np.ndarray) -> list[np.ndarray]:
    corners = np.ndindex(*(n // 64 for n in volume.shape))
    return [
        np.ascontiguousarray(volume[64 * z : 64 * z + 64, 64 * y : 64 * y + 64, 64 * x : 64 * x + 64])
        for z, y, x in corners
    ]


# ------------------------------------------------------------------ codecs


def blosc(block: np.ndarray) -> bytes:
    return bytes(
        blosc2.compress2(
            block, typesize=8, codec=blosc2.Codec.ZSTD, clevel=5, filters=[blosc2.Filter.BITSHUFFLE], nthreads=1
        )
    )


def codecs(out: np.ndarray) -> dict[str, tuple[Callable[[np.ndarray], bytes], Callable[[bytes], Any]]]:
    """Encoder of an array, decoder to an array (into `out` where the library can), by name."""
    raw = 8 * VOXELS
    return {
        "label block": (lb.encode_block, lambda b: lb.decode_block(b, out)),
        "label block + zstd": (
            lambda a: zstd_compress(lb.encode_block(a)),
            lambda b: lb.decode_block(zstd_decompress(b, raw), out),
        ),
        "label block + gzip": (
            lambda a: gzip_compress(lb.encode_block(a)),
            lambda b: lb.decode_block(gzip_decompress(b, raw), out),
        ),
        "zstd of uint64": (
            lambda a: zstd_compress(a.data.cast("B")),
            lambda b: np.frombuffer(zstd_decompress(b, raw), np.uint64),
        ),
        "blosc2 zstd bitshuffle": (blosc, lambda b: blosc2.decompress2(b, dst=out, nthreads=1)),
        "c_segmentation package": (
            lambda a: compressed_segmentation.compress(a.T, order="F"),
            lambda b: compressed_segmentation.decompress(b, SHAPE, np.uint64, order="F").T,
        ),
        "c_segmentation, ours": (segmentation.encode, lambda b: segmentation.decode(b, SHAPE)),
        "crackle": (
            lambda a: crackle.compress(a, parallel=1),
            lambda b: crackle.decompress(b, parallel=1),
        ),
    }


def compare_codecs(name: str, blocks: list[np.ndarray]) -> None:
    out = np.empty(SHAPE, np.uint64)
    rows: list[list[str]] = []
    ours: tuple[float, float, float] | None = None
    for codec, (encode, decode) in codecs(out).items():
        packed = [encode(b) for b in blocks]
        for block, data in zip(blocks, packed, strict=True):
            got = decode(data)
            if not np.array_equal(np.asarray(out if got is None else got).reshape(SHAPE), block):
                raise SystemExit(f"{codec} doesn't give back the voxels of {name}")
        size = sum(map(len, packed)) / len(packed)
        voxels = VOXELS * len(blocks) / 1e6
        writing = voxels / best(lambda e=encode: [e(b) for b in blocks])
        reading = voxels / best(lambda d=decode, p=packed: [d(b) for b in p])
        ours = ours or (size, writing, reading)
        rows.append([
            codec, f"{size:,.0f}", f"{size / ours[0]:.2f}", f"{writing:,.0f}", f"{writing / ours[1]:.2f}",
            f"{reading:,.0f}", f"{reading / ours[2]:.2f}",
        ])  # fmt: skip
    table(
        f"{name}: {len(blocks)} block{'s' * (len(blocks) > 1)} of 64^3",
        ["codec", "bytes a block", "ratio", "encode Mvoxel/s", "ratio", "decode Mvoxel/s", "ratio"],
        rows,
        "ratios are to the first row",
    )


# ------------------------------------------------------------------ work on blocks


def compare_operations(name: str, blocks: list[np.ndarray]) -> None:
    """What never needs the voxels, beside doing it on the voxels."""
    out = np.empty(SHAPE, np.uint64)
    packed = [lb.encode_block(b) for b in blocks]
    bodies = [lb.labels(b) // np.uint64(2) for b in packed]
    common = [int(b[np.argmax(c)]) for b, c in (lb.count(p) for p in packed)]
    eight = (packed * 8)[:8] if len(packed) < 8 else packed[:8]
    mapping = np.unique(np.concatenate([lb.labels(b) for b in packed]))

    def voxels_of(b: bytes) -> np.ndarray:
        return lb.decode_block(b, out)

    def unique() -> None:
        for b in packed:
            np.unique(voxels_of(b), return_counts=True)

    def through_array() -> None:
        for b, t in zip(packed, bodies, strict=True):
            v = voxels_of(b)
            lb.remap_array(v, mapping, mapping // np.uint64(2))
            lb.encode_block(v)
            del t

    work: dict[str, tuple[Callable[[], Any], int]] = {
        "count": (lambda: [lb.count(b) for b in packed], len(packed)),
        "  as np.unique of the voxels": (unique, len(packed)),
        "to bodies: replace_labels": (
            lambda: [lb.replace_labels(b, t) for b, t in zip(packed, bodies, strict=True)],
            len(packed),
        ),
        "  as decode, remap, encode": (through_array, len(packed)),
        "to bodies as sent (gzip)": (
            lambda: [block_to_payload(b, "blocks", table=t) for b, t in zip(packed, bodies, strict=True)],
            len(packed),
        ),
        "to the voxels as sent (lz4)": (lambda: [block_to_payload(b, "lz4") for b in packed], len(packed)),
        "check": (lambda: [lb.check_block(b) for b in packed], len(packed)),
        "normalize": (lambda: [lb.normalize(b) for b in packed], len(packed)),
        "mask of one label": (lambda: [lb.mask(b, [k]) for b, k in zip(packed, common, strict=True)], len(packed)),
        "runs of one label": (
            lambda: [rles.rles_from_blocks([b], [[0, 0, 0]], [k]) for b, k in zip(packed, common, strict=True)],
            len(packed),
        ),
        "down-sample 8 blocks to 1": (lambda: lb.downsample(eight, None, SHAPE), 8),
        "  as dense arrays": (
            lambda: [lb.downsample_array(voxels_of(b)) for b in eight],
            8,
        ),
    }
    rows = []
    for what, (run, n) in work.items():
        seconds = best(run, 0.3)
        rows.append([what, f"{seconds / n * 1e6:,.1f}", f"{n * VOXELS / seconds / 1e6:,.0f}"])
    table(f"{name}: work on blocks", ["operation", "us a block", "Mvoxel/s"], rows)


def bricks(volume: np.ndarray) -> None:
    """Ingest's loop: all blocks of a brick in one call, by threads."""
    rows = []
    out = np.empty_like(volume)
    blocks = lb.encode_blocks(volume, SHAPE)
    corners = [[64 * i for i in c] for c in np.ndindex(*(n // 64 for n in volume.shape))]
    for what, run in {
        "encode_blocks": lambda: lb.encode_blocks(volume, SHAPE),
        "encode_and_count": lambda: lb.encode_and_count(volume, SHAPE),
        "count_blocks": lambda: lb.count_blocks(volume, SHAPE),
        "decode_blocks_into": lambda: lb.decode_blocks_into(blocks, corners, out),
    }.items():
        speeds = []
        for threads in (1, 2):

            def together(n: int = threads, run: Callable[[], Any] = run) -> None:
                workers = [threading.Thread(target=run) for _ in range(n)]
                for w in workers:
                    w.start()
                for w in workers:
                    w.join()

            speeds.append(threads * volume.size / best(together, 0.8) / 1e6)
        rows.append([what, f"{speeds[0]:,.0f}", f"{speeds[1]:,.0f}"])
    table(
        f"A brick of {' x '.join(map(str, volume.shape))} voxels, strided, {volume.nbytes / 1e6:.0f} MB",
        ["call", "1 thread Mvoxel/s", "2 threads Mvoxel/s"],
        rows,
    )


def indices(rows: int) -> None:
    rng = np.random.default_rng(0)
    block = rng.integers(-300, 300, (rows, 3)).astype(np.int32)
    index = label_index.LabelIndex(
        7, block, rng.integers(1, 2**40, rows, np.uint64), rng.integers(1, VOXELS, rows).astype(np.uint32)
    )
    data = label_index.encode_index(index)
    index = label_index.decode_index(data)
    table(f"Label index of {rows:,} rows", ["what", "ms"], [
        ["encode", f"{best(lambda: label_index.encode_index(index)) * 1e3:,.0f}"],
        ["decode", f"{best(lambda: label_index.decode_index(data)) * 1e3:,.0f}"],
    ])  # fmt: skip


def grids(name: str, blocks: list[np.ndarray]) -> None:
    """NanoVDB grids of all of a body's blocks: leaves, the grid's bytes, its checksum, a file, and back."""
    side = max(1, round(len(blocks) ** (1 / 3)))
    packed = [lb.encode_block(b) for b in blocks]
    corners = [(i // side**2, i // side % side, i % side) for i in range(len(blocks))]
    # the larger half of each block's labels: many leaves with a border in them
    bodies = [t[np.argsort(c)[len(c) // 2 :]] for t, c in (lb.count(p) for p in packed)]
    bodies = [np.sort(b) for b in bodies]

    def leaves() -> list[Any]:
        return [
            nanovdb.leaves_of_block(b, c, k, ascending=True) for b, c, k in zip(packed, corners, bodies, strict=True)
        ]

    def dense() -> None:
        for b, c, k in zip(packed, corners, bodies, strict=True):
            nanovdb.leaves_of_mask(lb.mask(b, k), [64 * v for v in c])

    parts = leaves()
    body = nanovdb.Leaves.of(parts)
    gray = np.zeros(body.voxels, np.uint8)
    grid = nanovdb.encode_index_grid(body)
    whole = grid.tobytes()
    box = np.zeros((64 * side,) * 3, np.uint8)
    every = np.arange(len(body))
    rows = []
    for what, run in {
        "leaves of label blocks": leaves,
        "  through dense masks": dense,
        "leaves in order of the tree": lambda: nanovdb.Leaves.of(parts),
        "index grid": lambda: nanovdb.encode_index_grid(body, checksum="none"),
        "  with its checksum": lambda: nanovdb.encode_index_grid(body),
        "  and a channel of uint8": lambda: nanovdb.encode_index_grid(body, channels={"em": gray}),
        "grid of uint8 values": lambda: nanovdb.encode_value_grid(body, gray, checksum="none"),
        "file, ZIP": lambda: nanovdb.encode_file(grid, compress=True),
        "values of an image, gathered": lambda: body.gather(box, (0, 0, 0), every, gray),
        "read and checked": lambda: nanovdb.read_grids(whole),
        "runs of a grid": body.runs,
    }.items():
        seconds = best(run, 0.4)
        rows.append([what, f"{len(body) / seconds / 1e6:,.2f}", f"{body.voxels / seconds / 1e6:,.0f}"])
    table(
        f"{name}: a NanoVDB grid of {len(body):,} leaves, {body.voxels / 1e6:,.1f} Mvoxel, {len(whole) / 1e6:,.1f} MB",
        ["what", "Mleaf/s", "Mvoxel/s"],
        rows,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="all blocks of the largest sample")
    full = parser.parse_args().full
    machine()
    found = samples(full)
    for name, blocks in found.items():
        compare_codecs(name, blocks)
    name, blocks = max(found.items(), key=lambda item: len(item[1]))
    compare_operations(name, blocks)
    grids(name, blocks)
    n = round(len(blocks) ** (1 / 3))
    volume = np.concatenate(
        [np.concatenate([np.concatenate(blocks[(z * n + y) * n :][:n], 2) for y in range(n)], 1) for z in range(n)], 0
    )
    bricks(volume)
    indices(1_000_000)


if __name__ == "__main__":
    main()
