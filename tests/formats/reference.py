"""Slow, obvious forms of the formats, written from their descriptions, and bytes that lie."""

import base64
import gzip
import json
import os
import resource
import struct
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from dvid_dask.formats.errors import FormatError

SHARED = Path(os.environ.get("DVID_DASK_SHARED", Path(__file__).resolve().parents[3] / "shared"))


# ------------------------------------------------------------------ recorded vectors and real data


def vectors(kind):
    """Recorded inputs and outputs of DVID's label code."""
    path = SHARED / "conformance" / "vectors" / "labels_vectors.json.gz"
    if not path.exists():
        pytest.skip(f"no recorded vectors: {path} is missing; DVID_DASK_SHARED says where they are")
    return [v for v in json.loads(gzip.decompress(path.read_bytes())) if v["kind"] == kind]


def gz64(text):
    return gzip.decompress(base64.b64decode(text))


def real_samples():
    """Real segmentations of 64^3, by name."""
    data = SHARED / "data"
    paths = sorted(data.glob("*-64x64x64-sample?.dat.gz"))
    if not paths:
        pytest.skip(f"no real samples in {data}; DVID_DASK_SHARED says where they are")
    return {p.name: np.frombuffer(gzip.decompress(p.read_bytes()), "<u8").reshape(64, 64, 64) for p in paths}


# ------------------------------------------------------------------ label blocks


def bits_for(n):
    return (n - 1).bit_length() if n > 1 else 0


def write_block(grid_xyz, table, subblocks, trailing=b""):
    """A block from its parts; subblocks are (table positions, 512 local indices), in zyx order."""
    out = struct.pack("<4I", *grid_xyz, len(table)) + b"".join(struct.pack("<Q", label) for label in table)
    if len(table) > 1:
        out += b"".join(struct.pack("<H", len(positions)) for positions, _ in subblocks)
        out += b"".join(struct.pack("<I", p) for positions, _ in subblocks for p in positions)
        for positions, values in subblocks:
            width = bits_for(len(positions))
            if width:
                text = "".join(format(v, f"0{width}b") for v in values)
                out += int(text, 2).to_bytes(64 * width, "big")
    return out + trailing


def encode_block(volume):
    """The canonical block: ascending table, first appearance inside a sub-block."""
    nz, ny, nx = volume.shape
    table = sorted({int(v) for v in volume.flat})
    subblocks = []
    for z in range(0, nz, 8):
        for y in range(0, ny, 8):
            for x in range(0, nx, 8):
                voxels = [int(v) for v in volume[z : z + 8, y : y + 8, x : x + 8].flat]
                local = list(dict.fromkeys(voxels))
                subblocks.append(([table.index(v) for v in local], [local.index(v) for v in voxels]))
    return write_block((nx // 8, ny // 8, nz // 8), table, subblocks)


def decode_block(data):
    gx, gy, gz, n = struct.unpack_from("<4I", data)
    table = np.frombuffer(data, "<u8", n, 16)
    out = np.zeros((gz * 8, gy * 8, gx * 8), np.uint64)
    if n == 1:
        out[:] = table[0]
        return out
    nsub = gx * gy * gz
    at = 16 + 8 * n
    ns = np.frombuffer(data, "<u2", nsub, at)
    at += 2 * nsub
    index = np.frombuffer(data, "<u4", int(ns.sum()), at)
    at += 4 * len(index)
    first = 0
    for s in range(nsub):
        z, y, x = 8 * (s // (gx * gy)), 8 * (s // gx % gy), 8 * (s % gx)
        count = int(ns[s])
        width = bits_for(count)
        values = np.zeros(512, int)
        if width:
            bits = np.unpackbits(np.frombuffer(data, np.uint8, 64 * width, at)).reshape(512, width)
            values = bits @ (1 << np.arange(width)[::-1])
            at += 64 * width
        if count:
            out[z : z + 8, y : y + 8, x : x + 8] = table[index[first + values]].reshape(8, 8, 8)
        first += count
    return out


def downsample(volume):
    out = np.zeros([(n + 1) // 2 for n in volume.shape], np.uint64)
    for z, y, x in np.ndindex(out.shape):
        votes = Counter(volume[2 * z : 2 * z + 2, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].ravel().tolist())
        votes.pop(0, None)
        if votes:
            out[z, y, x] = min(votes, key=lambda label: (-votes[label], label))
    return out


def blobs(rng, shape, labels, scale=6):
    """Something like a segmentation: nearest of some seeds, coarse noise of labels."""
    coarse = rng.integers(0, len(labels), [-(-n // scale) for n in shape])
    for axis in range(3):
        coarse = coarse.repeat(scale, axis)
    return np.asarray(labels, np.uint64)[coarse[tuple(slice(n) for n in shape)]]


# ------------------------------------------------------------------ runs


def voxels_of(runs):
    """Voxels (z, y, x) of runs, as a set."""
    return {(z, y, x + i) for x, y, z, n in np.asarray(runs).tolist() for i in range(n)}


def are_normal(runs):
    """Sorted by z, y, x and maximal."""
    rows = np.asarray(runs).tolist()
    for a, b in zip(rows[:-1], rows[1:], strict=True):
        if (a[2], a[1]) > (b[2], b[1]) or ((a[2], a[1]) == (b[2], b[1]) and a[0] + a[3] >= b[0]):
            return False
    return all(n > 0 for *_, n in rows)


# ------------------------------------------------------------------ hostile bytes


def mangled(data, rng, n=150):
    """Cut off, bit-flipped, with lying 32-bit numbers, extended, and random bytes."""
    data = bytes(data)
    for cut in {0, 1, len(data) // 2, max(len(data) - 1, 0)} | set(rng.integers(0, len(data) + 1, n // 5).tolist()):
        yield data[:cut]
    lies = [0, 1, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 20, 513, 65536]
    head = min(len(data), 256)
    for _ in range(n):
        b = bytearray(data)
        for _ in range(int(rng.integers(1, 4))):
            if len(b):
                where = int(rng.integers(0, head if rng.random() < 0.6 else len(b)))
                b[where] ^= 1 << int(rng.integers(0, 8))
        yield bytes(b)
        b = bytearray(data)
        where = int(rng.integers(0, max(head - 4, 1)))
        b[where : where + 4] = struct.pack("<I", lies[int(rng.integers(0, len(lies)))])
        yield bytes(b)
    for size in (0, 1, 3, 4, 12, 16, 20, 24, 25, 100, 1000):
        yield rng.bytes(size)
    yield data + rng.bytes(7)
    yield data * 2


@contextmanager
def memory_within(megabytes):
    """The process's peak memory grows by no more than this."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < megabytes, f"peak memory grew by {grown:.0f} MB"


def only_format_errors(decode, cases, megabytes=400):
    """Run every case; FormatError is the only way to fail. Returns how many were refused."""
    refused = 0
    with memory_within(megabytes):
        for case in cases:
            try:
                decode(case)
            except FormatError:
                refused += 1
    return refused
