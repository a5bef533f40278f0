"""Chunks of a neuroglancer volume: their ids, and which shard each is in.

The id of a chunk is its *compressed Morton code*: the bits of x, y and z interleaved, x lowest, where a dimension takes
part only as far as its number of chunks needs bits. With the hash ``identity`` the bits of an id are, from the lowest::

    preshift_bits | minishard_bits | shard_bits

so a shard is a box of chunks, each side a power of two. Coordinates count chunks from the first voxel of the volume.

Source: ``src/datasource/precomputed/sharded.md`` and ``volume.md`` of google/neuroglancer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.formats.errors import FormatError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["Sharding", "chunk_ids", "chunks_of_ids", "choose_sharding"]

Point = tuple[int, int, int]

TYPE = "neuroglancer_uint64_sharded_v1"
_MINISHARD_BITS = 9  # 512 chunks: an index of up to 12 kB is read to find one of them
_KEYS = ("preshift_bits", "minishard_bits", "shard_bits")


def _bits(grid_zyx: Sequence[int]) -> list[tuple[int, int]]:
    """Axis (0 is z) and bit that each bit of an id stands for, lowest first."""
    if len(grid_zyx) != 3 or any(n < 1 for n in grid_zyx):
        raise ValueError(f"no grid of {tuple(grid_zyx)} chunks (z, y, x)")
    need = [(int(n) - 1).bit_length() for n in grid_zyx]
    order = [(axis, bit) for bit in range(max(need)) for axis in (2, 1, 0) if bit < need[axis]]
    if len(order) > 64:
        raise ValueError(f"a grid of {tuple(grid_zyx)} chunks (z, y, x) needs ids of more than 64 bits")
    return order


def chunk_ids(chunk_zyx: ArrayLike, grid_zyx: Sequence[int]) -> NDArray[np.uint64]:
    """Ids of chunks.

    Parameters
    ----------
    chunk_zyx
        int (n, 3): chunks, counted from the volume's first.
    grid_zyx
        Chunks of the volume in each dimension.

    Raises
    ------
    ValueError
        If a chunk lies outside, or the grid needs more than 64 bits.

    Examples
    --------
    >>> chunk_ids([[0, 3, 2]], (2, 4, 16))
    array([26], dtype=uint64)
    """
    chunks = np.asarray(chunk_zyx, np.int64).reshape(-1, 3)
    order = _bits(grid_zyx)
    if chunks.size and ((chunks < 0) | (chunks >= np.array(grid_zyx))).any():
        raise ValueError(f"chunks outside of a grid of {tuple(grid_zyx)} (z, y, x)")
    ids = np.zeros(len(chunks), np.uint64)
    for at, (axis, bit) in enumerate(order):
        ids |= (chunks[:, axis] >> bit & 1).astype(np.uint64) << np.uint64(at)
    return ids


def chunks_of_ids(ids: ArrayLike, grid_zyx: Sequence[int]) -> NDArray[np.int64]:
    """The chunks (n, 3), z y x, of ids; some may lie outside a grid that is no power of two.

    Examples
    --------
    >>> chunks_of_ids([26], (2, 4, 16))
    array([[0, 3, 2]])
    """
    given = np.asarray(ids, np.uint64).reshape(-1)
    chunks = np.zeros((len(given), 3), np.int64)
    for at, (axis, bit) in enumerate(_bits(grid_zyx)):
        chunks[:, axis] |= (given >> np.uint64(at) & np.uint64(1)).astype(np.int64) << bit
    return chunks


@dataclass(frozen=True)
class Sharding:
    """How chunks are put together into files.

    Examples
    --------
    >>> sharding = Sharding(9, 3, 6)
    >>> sharding.shard_shape((32, 64, 64))
    (16, 16, 16)
    """

    preshift_bits: int
    minishard_bits: int
    shard_bits: int

    def shard_shape(self, grid_zyx: Sequence[int]) -> Point:
        """Chunks of a shard (z, y, x): shards begin at multiples of it.

        Raises
        ------
        FormatError
            If the shards can't tell all chunks apart, so that one of them would be several boxes.
        """
        order = _bits(grid_zyx)
        total = self.preshift_bits + self.minishard_bits + self.shard_bits
        if len(order) > total:
            raise FormatError(
                f"sharding of {total} bits, but a grid of {tuple(grid_zyx)} chunks (z, y, x) needs {len(order)}: "
                "raise shard_bits"
            )
        sides = [0, 0, 0]
        for axis, _ in order[: self.preshift_bits + self.minishard_bits]:
            sides[axis] += 1
        z, y, x = (1 << s for s in sides)
        return z, y, x

    def shard_file(self, chunk_id: int) -> str:
        """Name of the file that holds a chunk.

        Examples
        --------
        >>> Sharding(9, 3, 6).shard_file(0b101_111_000000000)
        '05.shard'
        """
        number = chunk_id >> (self.preshift_bits + self.minishard_bits)
        return f"{number:0{-(-self.shard_bits // 4) or 1}x}.shard"

    def to_json(self) -> dict[str, Any]:
        """As ``info`` has it."""
        return {
            "@type": TYPE,
            "preshift_bits": self.preshift_bits,
            "minishard_bits": self.minishard_bits,
            "shard_bits": self.shard_bits,
            "hash": "identity",
            "minishard_index_encoding": "gzip",
            "data_encoding": "gzip",
        }

    @classmethod
    def from_json(cls, given: Any) -> Sharding:
        """From an ``info``.

        Raises
        ------
        FormatError
            If it isn't ``neuroglancer_uint64_sharded_v1`` with the hash ``identity``, or its numbers can't be right.

        Examples
        --------
        >>> Sharding.from_json(Sharding(9, 6, 15).to_json()).shard_bits
        15
        """
        if not isinstance(given, Mapping) or given.get("@type") != TYPE:
            raise FormatError(f"sharding must have '@type' {TYPE!r}")
        if given.get("hash") != "identity":
            raise FormatError(f"sharding with hash {given.get('hash')!r}: only 'identity' keeps neighbours together")
        numbers = [given.get(k) for k in _KEYS]
        for key, n in zip(_KEYS, numbers, strict=True):
            if isinstance(n, bool) or not isinstance(n, int) or not 0 <= n <= 64:
                raise FormatError(f"sharding: {key} must be a number from 0 to 64, got {n!r}")
        preshift, minishard, shard = (int(n or 0) for n in numbers)
        if preshift + minishard + shard > 64:
            raise FormatError("sharding: the bits of an id are more than 64 in all")
        return cls(preshift, minishard, shard)


def choose_sharding(grid_zyx: Sequence[int], chunks_per_shard: int) -> Sharding:
    """Shards of up to so many chunks, and minishards of 512.

    Parameters
    ----------
    grid_zyx
        Chunks of the volume in each dimension.
    chunks_per_shard
        Rounded down to a power of two.

    Examples
    --------
    >>> choose_sharding((160, 160, 160), 4096)
    Sharding(preshift_bits=9, minishard_bits=3, shard_bits=12)
    """
    total = len(_bits(grid_zyx))
    within = min(total, int(math.log2(max(1, chunks_per_shard))))
    preshift = min(_MINISHARD_BITS, within)
    return Sharding(preshift, within - preshift, total - within)
