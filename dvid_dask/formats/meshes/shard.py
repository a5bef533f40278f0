"""Shards of multi-resolution meshes: many meshes in one file, found by two indices.

A shard holds the meshes whose id has the shard's number in certain bits; the bits below them say in which of its
minishards. The fragments of a mesh lie right before its manifest, which alone is in the index.

Source: ``src/datasource/precomputed/sharded.md`` and ``meshes.md`` of google/neuroglancer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.formats.compression import gzip_compress, gzip_decompress
from dvid_dask.formats.errors import FormatError
from dvid_dask.formats.meshes.multires import decode_manifest
from dvid_dask.formats.sharding import Sharding

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["decode_shard", "encode_shard", "mesh_sharding", "shard_name", "shard_of", "sharding_json"]

_PER_SHARD = 1 << 10  # meshes in a shard, about
_PER_MINISHARD = 1 << 4
_MOST_BITS = 12  # of the number of a shard
_MAX_INDEX = 1 << 30


def mesh_sharding(meshes: int) -> Sharding:
    """Shards for about so many meshes, whose ids are spread evenly.

    Examples
    --------
    >>> mesh_sharding(1_000_000)
    Sharding(preshift_bits=0, minishard_bits=6, shard_bits=10)
    """
    bits = max(0, (max(1, meshes) - 1) // _PER_SHARD).bit_length()
    minishard = (_PER_SHARD // _PER_MINISHARD - 1).bit_length()
    return Sharding(0, minishard, min(bits, _MOST_BITS))


def sharding_json(sharding: Sharding) -> dict[str, Any]:
    """As ``info`` has it: manifests are small, and stay as they are."""
    return {**sharding.to_json(), "data_encoding": "raw"}


def shard_of(label: int, sharding: Sharding) -> int:
    """Number of the shard that a mesh lies in."""
    return label >> sharding.preshift_bits + sharding.minishard_bits & (1 << sharding.shard_bits) - 1


def shard_name(number: int, sharding: Sharding) -> str:
    """Name of its file.

    Examples
    --------
    >>> shard_name(10, Sharding(0, 6, 9))
    '00a.shard'
    """
    return f"{number:0{-(-sharding.shard_bits // 4)}x}.shard"


def encode_shard(meshes: Iterable[tuple[int, bytes, bytes]], sharding: Sharding) -> bytes:
    """The meshes of one shard as a file.

    Parameters
    ----------
    meshes
        Id, manifest and fragments of each, ids ascending.
    sharding
        Says in which minishard each is.
    """
    count = 1 << sharding.minishard_bits
    held: list[list[tuple[int, bytes, bytes]]] = [[] for _ in range(count)]
    for mesh in meshes:
        held[mesh[0] >> sharding.preshift_bits & count - 1].append(mesh)
    data: list[bytes] = []
    indices: list[bytes] = []
    at = 0
    for group in held:
        rows = np.zeros((3, len(group)), np.uint64)
        end, last = 0, 0
        for i, (label, manifest, fragments) in enumerate(group):
            start = at + len(fragments)
            rows[:, i] = label - last, start - end, len(manifest)
            at = end = start + len(manifest)
            last = label
            data += [fragments, manifest]
        indices.append(gzip_compress(rows.astype("<u8").tobytes()) if group else b"")
    ends = at + np.cumsum([0, *map(len, indices)])
    head = np.stack([ends[:-1], ends[1:]], axis=1).astype("<u8")
    return b"".join([head.tobytes(), *data, *indices])


def decode_shard(data: bytes, sharding: Sharding) -> dict[int, tuple[bytes, bytes]]:
    """Manifest and fragments of each mesh of a shard.

    Raises
    ------
    FormatError
        The bytes are no such file.
    """
    base = 16 << sharding.minishard_bits
    if len(data) < base:
        raise FormatError(f"{len(data)} bytes are no shard with {base} bytes of index")
    found = {}
    for start, end in np.frombuffer(data[:base], "<u8").reshape(-1, 2).tolist():
        if not start <= end <= len(data) - base:
            raise FormatError(f"the index of a minishard from {start} to {end} in a shard of {len(data) - base} bytes")
        if start == end:
            continue
        index = gzip_decompress(data[base + start : base + end], _MAX_INDEX)
        if len(index) % 24:
            raise FormatError(f"the index of a minishard has {len(index)} bytes")
        labels, starts, sizes = _running(np.frombuffer(index, "<u8").reshape(3, -1))
        for label, at, size in zip(labels, starts, sizes, strict=True):
            manifest = data[base + at : base + at + size]
            before = sum(int(s.sum()) for s in decode_manifest(manifest).sizes)
            if before > at:
                raise FormatError(f"the fragments of mesh {label} would begin before the shard's data")
            found[label] = manifest, data[base + at - before : base + at]
    return found


def _running(rows: NDArray[np.uint64]) -> tuple[list[int], list[int], list[int]]:
    """Ids, starts and sizes from an index of differences."""
    sizes = rows[2]
    ends_before = np.concatenate([np.zeros(1, np.uint64), np.cumsum(sizes)[:-1]])
    starts = np.cumsum(rows[1]) + ends_before
    return np.cumsum(rows[0]).tolist(), starts.tolist(), sizes.tolist()
