"""Block coordinates as keys: packed into a label index, as Morton codes, as DVID's keys. All vectorised.

Arrays of coordinates are int32 (n, 3), z y x.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dvid_dask.formats._jit import kernel
from dvid_dask.formats.errors import FormatError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "block_keys",
    "decode_block_keys",
    "morton_argsort",
    "morton_decode",
    "morton_encode",
    "morton_words",
    "pack_blocks",
    "unpack_blocks",
]

PACKED_LIMIT = 1 << 20
"""Packed coordinates have a 20-bit magnitude."""


def _coordinates(zyx: ArrayLike) -> NDArray[np.int64]:
    given = np.asarray(zyx)
    if given.size and given.dtype.kind not in "iu":
        raise TypeError(f"coordinates are integers (n, 3), got {given.dtype}")
    return given.reshape(-1, 3).astype(np.int64)


def _shifted(zyx: ArrayLike) -> NDArray[np.int64]:
    """Coordinates + 2**31, which are not negative and sort alike."""
    c = _coordinates(zyx)
    if c.size and not (int(c.min()) >= -(1 << 31) and int(c.max()) < 1 << 31):
        raise ValueError("block coordinates must fit a signed 32-bit integer")
    return c + (1 << 31)


def pack_blocks(zyx: ArrayLike) -> NDArray[np.uint64]:
    """Pack block coordinates as in the keys of a LabelIndex protobuf.

    ``z << 42 | y << 21 | x``, each field a sign bit above a 20-bit magnitude.

    Parameters
    ----------
    zyx
        int (n, 3), magnitudes below 2**20.

    Raises
    ------
    ValueError
        If a magnitude doesn't fit.

    Examples
    --------
    >>> [hex(k) for k in pack_blocks([[3, 2, 2], [-3, -2, -1]])]
    ['0xc0000400002', '0x40000e0000500001']
    """
    c = _coordinates(zyx)
    magnitude = np.abs(c)
    if c.size and int(magnitude.max()) >= PACKED_LIMIT:
        worst = c[np.argmax(magnitude.max(1))].tolist()
        raise ValueError(f"block {worst} (z, y, x) doesn't fit a label index: magnitudes must be below {PACKED_LIMIT}")
    fields = (magnitude | (c < 0).astype(np.int64) << 20).astype(np.uint64)
    packed: NDArray[np.uint64] = fields[:, 0] << np.uint64(42) | fields[:, 1] << np.uint64(21) | fields[:, 2]
    return packed


def unpack_blocks(packed: ArrayLike) -> NDArray[np.int32]:
    """Block coordinates, int32 (n, 3) z y x, from their packed form; the unused top bit is ignored.

    Examples
    --------
    >>> unpack_blocks([13194143727618, 0x40000E0000500001])
    array([[ 3,  2,  2],
           [-3, -2, -1]], dtype=int32)
    """
    p = np.asarray(packed, np.uint64).reshape(-1)
    out = np.empty((p.size, 3), np.int32)
    for axis, shift in enumerate((42, 21, 0)):
        field = (p >> np.uint64(shift)).astype(np.int64) & 0x1FFFFF
        magnitude = field & 0xFFFFF
        out[:, axis] = np.where(field & 0x100000, -magnitude, magnitude)
    return out


def _spread(v: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The low 21 bits of v, each followed by two zero bits to its left."""
    x = v & np.uint64(0x1FFFFF)
    for shift, keep in (
        (32, 0x1F00000000FFFF),
        (16, 0x1F0000FF0000FF),
        (8, 0x100F00F00F00F00F),
        (4, 0x10C30C30C30C30C3),
        (2, 0x1249249249249249),
    ):
        x = (x | x << np.uint64(shift)) & np.uint64(keep)
    return x


def _gather(v: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Undo `_spread`."""
    x = v & np.uint64(0x1249249249249249)
    for shift, keep in (
        (2, 0x10C30C30C30C30C3),
        (4, 0x100F00F00F00F00F),
        (8, 0x1F0000FF0000FF),
        (16, 0x1F00000000FFFF),
        (32, 0x1FFFFF),
    ):
        x = (x | x >> np.uint64(shift)) & np.uint64(keep)
    return x


def _interleave(c: NDArray[np.uint64], shift: int) -> NDArray[np.uint64]:
    z, y, x = (_spread(c[:, axis] >> np.uint64(shift)) for axis in range(3))
    woven: NDArray[np.uint64] = z << np.uint64(2) | y << np.uint64(1) | x
    return woven


def morton_words(zyx: ArrayLike) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Morton codes as (high 32 bits, low 64 bits), which sort like the codes.

    The 96 bits interleave those of ``coordinate + 2**31``, z before y before x, so that all int32 coordinates have
    a code and negative ones come first.

    Parameters
    ----------
    zyx
        int (n, 3) within int32.

    Examples
    --------
    >>> high, low = morton_words([[-(2**31)] * 3, [0, 0, 0], [0, 0, 1]])
    >>> [(hex(h), hex(w)) for h, w in zip(high, low)]
    [('0x0', '0x0'), ('0xe0000000', '0x0'), ('0xe0000000', '0x1')]
    """
    shifted = _shifted(zyx).astype(np.uint64)
    low63, high33 = _interleave(shifted, 0), _interleave(shifted, 21)
    return high33 >> np.uint64(1), high33 << np.uint64(63) | low63


def morton_encode(zyx: ArrayLike) -> NDArray[np.uint8]:
    """Morton codes as bytes that sort like the codes: neighbours in space are neighbours in a tree of keys.

    Parameters
    ----------
    zyx
        int (n, 3) within int32.

    Returns
    -------
    NDArray[uint8]
        (n, 12), big-endian; ``keys[i].tobytes()`` is a key.

    Examples
    --------
    >>> morton_encode([[0, 0, 0], [0, 1, -1]])[:, [0, 1, 10, 11]].tolist()
    [[224, 0, 0, 0], [196, 146, 146, 75]]
    """
    c = _shifted(zyx)
    out = np.empty((len(c), 12), np.uint8)
    _write_morton(c, out)
    return out


@kernel
def _write_morton(shifted: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
    """`morton_words`, byte by byte: eight levels of three bits are three bytes."""
    for i in range(shifted.shape[0]):
        for part in range(4):
            word = 0
            for bit in range(8):
                level = 31 - 8 * part - bit
                for axis in range(3):
                    word = word << 1 | (shifted[i, axis] >> level) & 1
            out[i, 3 * part] = np.uint8(word >> 16)
            out[i, 3 * part + 1] = np.uint8(word >> 8 & 0xFF)
            out[i, 3 * part + 2] = np.uint8(word & 0xFF)


def morton_decode(keys: NDArray[np.uint8] | bytes) -> NDArray[np.int32]:
    """Block coordinates, int32 (n, 3) z y x, from Morton keys.

    Parameters
    ----------
    keys
        uint8 (n, 12), or the keys one after the other.

    Raises
    ------
    FormatError
        If the bytes are not whole keys.

    Examples
    --------
    >>> morton_decode(morton_encode([[5, -6, 7]]))
    array([[ 5, -6,  7]], dtype=int32)
    """
    data = _keys(keys, "Morton")
    high = data[:, :4].copy().view(">u4").astype(np.uint64).reshape(-1)
    low = data[:, 4:].copy().view(">u8").astype(np.uint64).reshape(-1)
    high33 = high << np.uint64(1) | low >> np.uint64(63)
    out = np.empty((high.size, 3), np.int32)
    for axis in range(3):
        shift = np.uint64(2 - axis)
        value = _gather(high33 >> shift) << np.uint64(21) | _gather(low >> shift)
        out[:, axis] = value.astype(np.int64) - (1 << 31)
    return out


def morton_argsort(zyx: ArrayLike) -> NDArray[np.intp]:
    """The order that sorts blocks along the Morton curve.

    Examples
    --------
    >>> morton_argsort([[1, 1, 1], [0, 0, 2], [0, 0, 1]])
    array([2, 0, 1])
    """
    high, low = morton_words(zyx)
    return np.lexsort((low, high))


def block_keys(zyx: ArrayLike) -> NDArray[np.uint8]:
    """DVID's 12-byte keys of blocks: z, y, x each as big-endian uint32 of the value + 2**31.

    Examples
    --------
    >>> block_keys([[3, 2, 1]]).tobytes().hex(" ", 4)
    '80000003 80000002 80000001'
    """
    return _shifted(zyx).astype(">u4").view(np.uint8).reshape(-1, 12)


def decode_block_keys(keys: NDArray[np.uint8] | bytes) -> NDArray[np.int32]:
    """Block coordinates, int32 (n, 3) z y x, from DVID's 12-byte keys.

    Raises
    ------
    FormatError
        If the bytes are not whole keys.

    Examples
    --------
    >>> decode_block_keys(bytes.fromhex("7fffffff8000000080000005"))
    array([[-1,  0,  5]], dtype=int32)
    """
    words = np.ascontiguousarray(_keys(keys, "block")).view(">u4").astype(np.int64)
    return (words - (1 << 31)).astype(np.int32)


def _keys(keys: NDArray[np.uint8] | bytes, kind: str) -> NDArray[np.uint8]:
    data = np.frombuffer(keys, np.uint8) if isinstance(keys, bytes) else keys
    if data.dtype != np.uint8 or data.size % 12:
        raise FormatError(f"{kind} keys have 12 bytes each, got {data.size} of {data.dtype}")
    return data.reshape(-1, 12)
