"""Label indices: which supervoxels a body has in which blocks, as columns and as DVID's protobuf.

In memory an index is columns, one row per block and supervoxel; on the wire the messages ``LabelIndex`` and
``LabelIndices`` of ``dvid.proto``, whose maps are slow to fill from Python: here the wire format is written and read
by compiled loops, a million rows in tenths of a second.

``indices-compressed`` is a stream of records: ``uint64 nbytes, uint64 label``, then nbytes of a LabelIndex with DVID's
value header, LZ4 (`dvid_dask.formats.compression.serialize`); nbytes = 0 for a label without index.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from dvid_dask.formats import _label_index_kernels as kernels
from dvid_dask.formats._bytes import Buffer, as_uint8
from dvid_dask.formats.compression import deserialize, serialize
from dvid_dask.formats.coordinates import PACKED_LIMIT, pack_blocks, unpack_blocks
from dvid_dask.formats.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

__all__ = [
    "LabelIndex",
    "decode_index",
    "decode_indices",
    "encode_index",
    "encode_indices",
    "encode_record",
    "iter_records",
]

_RECORD = struct.Struct("<2Q")


@dataclass
class LabelIndex:
    """The index of one body.

    Attributes
    ----------
    label
        The body.
    block_zyx
        int32 (n, 3): block of each row.
    supervoxel
        uint64 (n,)
    count
        uint32 (n,): voxels of the supervoxel in the block.
    surface_mutid
        uint64 (n,) or None: the mutation that last changed the body's surface in the block, the same in all rows
        of a block.
    last_mutid, last_mod_time, last_mod_user, last_mod_app
        The last mutation, the time as RFC 3339.
    """

    label: int = 0
    block_zyx: NDArray[np.int32] = field(default_factory=lambda: np.empty((0, 3), np.int32))
    supervoxel: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    count: NDArray[np.uint32] = field(default_factory=lambda: np.empty(0, np.uint32))
    surface_mutid: NDArray[np.uint64] | None = None
    last_mutid: int = 0
    last_mod_time: str = ""
    last_mod_user: str = ""
    last_mod_app: str = ""


_UNSORTED = -2


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _sort_keys(block_zyx: NDArray[np.int32]) -> NDArray[np.uint64]:
    """One number per block that sorts as z, y, x; magnitudes are below 2**20."""
    shifted = (block_zyx.astype(np.int64) + (1 << 20)).astype(np.uint64)
    keys: NDArray[np.uint64] = shifted[:, 0] << np.uint64(42) | shifted[:, 1] << np.uint64(21) | shifted[:, 2]
    return keys


def encode_index(index: LabelIndex) -> bytes:
    """An index as a ``LabelIndex`` message.

    Parameters
    ----------
    index
        Rows in any order; they are written by block (z, y, x) and supervoxel.

    Raises
    ------
    ValueError
        If columns differ in length, a row repeats, or a block's magnitude is 2**20 or more.

    Examples
    --------
    >>> columns = {"block_zyx": np.array([[3, 2, 1]]), "supervoxel": np.array([7]), "count": np.array([100])}
    >>> encode_index(LabelIndex(7, **columns)).hex()
    '0a10088180808280800312060a04080710641007'
    """
    blocks = np.ascontiguousarray(index.block_zyx, np.int32).reshape(-1, 3)
    supervoxels = np.ascontiguousarray(index.supervoxel, np.uint64)
    counts = np.ascontiguousarray(index.count, np.uint32)
    surface = (
        np.empty(0, np.uint64) if index.surface_mutid is None else np.ascontiguousarray(index.surface_mutid, np.uint64)
    )
    if not len(blocks) == supervoxels.size == counts.size or surface.size not in (0, len(blocks)):
        raise ValueError(f"columns of {len(blocks)}, {supervoxels.size}, {counts.size} and {surface.size} rows")
    packed = np.empty(len(blocks), np.uint64)
    found = kernels.pack_keys(blocks, supervoxels, PACKED_LIMIT, packed)
    if found >= 0:
        pack_blocks(blocks)  # says what is wrong
    if found == _UNSORTED:
        order = np.lexsort((supervoxels, *blocks.T[::-1]))
        blocks, supervoxels, counts = blocks[order], supervoxels[order], counts[order]
        surface = surface[order] if surface.size else surface
        if kernels.pack_keys(blocks, supervoxels, PACKED_LIMIT, packed) == _UNSORTED:
            raise ValueError("a supervoxel is listed twice in a block")
    parts = [kernels.encode_blocks(packed, supervoxels, counts, surface).tobytes()]
    for number, value in ((2, index.label), (3, index.last_mutid)):
        if value:
            parts += bytes((number << 3,)), _varint(value)
    for number, text in ((4, index.last_mod_time), (5, index.last_mod_user), (6, index.last_mod_app)):
        if text:
            data = text.encode()
            parts += bytes((number << 3 | 2,)), _varint(len(data)), data
    return b"".join(parts)


def _ascends(keys: NDArray[np.uint64], supervoxels: NDArray[np.uint64]) -> bool:
    """Whether rows are sorted by key, then supervoxel, without repeats."""
    a, b = keys[:-1], keys[1:]
    return bool(((a < b) | ((a == b) & (supervoxels[:-1] < supervoxels[1:]))).all())


def decode_index(data: Buffer) -> LabelIndex:
    """An index from a ``LabelIndex`` message.

    Returns
    -------
    LabelIndex
        Rows sorted by block (z, y, x) and supervoxel. Where the message repeats a key of a map, the last one counts,
        as protobuf says. Blocks without supervoxels are not kept, rows with a count of 0 are.

    Raises
    ------
    FormatError
        If the bytes are no such message.

    Examples
    --------
    >>> index = decode_index(bytes.fromhex("0a10088180808280800312060a04080710641007"))
    >>> index.label, index.block_zyx, index.supervoxel, index.count
    (7, array([[3, 2, 1]], dtype=int32), array([7], dtype=uint64), array([100], dtype=uint32))
    """
    buf = as_uint8(data)
    n = kernels.count_rows(buf)
    if n < 0:
        raise FormatError("label index: not a LabelIndex message")
    entries, counts, texts = np.empty(n, np.int64), np.empty(n, np.uint32), np.zeros((3, 2), np.int64)
    packed, supervoxels, surface = np.empty(n, np.uint64), np.empty(n, np.uint64), np.empty(n, np.uint64)
    intact, label, mutid = kernels.decode(buf, entries, packed, supervoxels, counts, surface, texts)
    if not intact:
        raise FormatError("label index: not a LabelIndex message")
    blocks = unpack_blocks(packed)
    keys = _sort_keys(blocks)
    if not _ascends(keys, supervoxels):
        keep = _last_of_each(keys, entries, supervoxels)
        blocks, supervoxels, counts, surface = blocks[keep], supervoxels[keep], counts[keep], surface[keep]
    try:
        time, user, app = (bytes(buf[a:b].data).decode() for a, b in texts.tolist())
    except UnicodeDecodeError:
        raise FormatError("label index: a text is not UTF-8") from None
    return LabelIndex(
        label=int(label),
        block_zyx=blocks,
        supervoxel=supervoxels,
        count=counts,
        surface_mutid=surface if surface.any() else None,
        last_mutid=int(mutid),
        last_mod_time=time,
        last_mod_user=user,
        last_mod_app=app,
    )


def _last_of_each(
    keys: NDArray[np.uint64], entries: NDArray[np.int64], supervoxels: NDArray[np.uint64]
) -> NDArray[np.intp]:
    """Rows to keep, sorted: those of a block's last entry, and of these the last of each supervoxel."""
    order = np.lexsort((supervoxels, entries, keys))  # stable: equal rows stay in order of the message
    k, e, s = keys[order], entries[order], supervoxels[order]
    new_block = np.append(k[1:] != k[:-1], True)
    last_entry = np.repeat(e[new_block], np.diff(np.flatnonzero(new_block), prepend=-1))
    new_row = np.append((k[1:] != k[:-1]) | (e[1:] != e[:-1]) | (s[1:] != s[:-1]), True)
    kept: NDArray[np.intp] = order[(e == last_entry) & new_row]
    return kept


def encode_indices(indices: Iterable[LabelIndex]) -> bytes:
    """Indices as a ``LabelIndices`` message.

    Examples
    --------
    >>> encode_indices([LabelIndex(7), LabelIndex(8)]).hex(" ", 4)
    '0a021007 0a021008'
    """
    parts: list[bytes] = []
    for index in indices:
        data = encode_index(index)
        parts += b"\x0a", _varint(len(data)), data
    return b"".join(parts)


def decode_indices(data: Buffer) -> Iterator[LabelIndex]:
    """The indices of a ``LabelIndices`` message, one after the other.

    Raises
    ------
    FormatError
        If the bytes are no such message.

    Examples
    --------
    >>> [index.label for index in decode_indices(encode_indices([LabelIndex(7), LabelIndex(8)]))]
    [7, 8]
    """
    buf = as_uint8(data)
    view = memoryview(data)
    at = 0
    while at < buf.size:
        number, wire, _, start, at = kernels.field(buf, at, buf.size)
        if at < 0:
            raise FormatError("label indices: not a LabelIndices message")
        if number == 1 and wire == kernels.BYTES:
            yield decode_index(view[start:at])


# ------------------------------------------------------------------ indices-compressed


def encode_record(label: int, index: LabelIndex | None) -> bytes:
    """One record of an ``indices-compressed`` stream; None for a label without index.

    Examples
    --------
    >>> encode_record(9, None).hex(" ", 8)
    '0000000000000000 0900000000000000'
    """
    value = b"" if index is None else serialize(encode_index(index), "lz4")
    return _RECORD.pack(len(value), label) + value


def iter_records(data: Buffer, max_index: int = 1 << 31) -> Iterator[tuple[int, LabelIndex | None]]:
    """Labels and indices of an ``indices-compressed`` stream.

    Parameters
    ----------
    data
        The stream.
    max_index
        The most bytes an index message may have.

    Raises
    ------
    FormatError
        If the stream is cut off or an index can't be read.

    Examples
    --------
    >>> [(label, index and index.label) for label, index in iter_records(encode_record(7, LabelIndex(7)))]
    [(7, 7)]
    """
    view = memoryview(data)
    at = 0
    while at < len(view):
        if len(view) - at < _RECORD.size:
            raise FormatError("indices-compressed: ends inside a record's header")
        n, label = _RECORD.unpack_from(view, at)
        at += _RECORD.size
        if n > len(view) - at:
            raise FormatError(f"indices-compressed: label {label} claims {n} bytes, {len(view) - at} follow")
        yield label, decode_index(deserialize(view[at : at + n], max_index)) if n else None
        at += n
