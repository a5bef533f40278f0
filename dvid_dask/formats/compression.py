"""Compressed bytes whose expansion is bounded, and the header DVID puts before stored values.

Every decompressor takes the most bytes it may produce and raises `FormatError` when the data wants more, is cut
off or corrupt. All of them release the GIL.

LZ4 is always the raw block format without frame or size (DVID's choice), Snappy the raw format, gzip RFC 1952.
gzip is written by libdeflate: at the default level the size of zlib's in a fifth of its time.
"""

from __future__ import annotations

import struct
import threading
import zlib
from typing import TYPE_CHECKING, Any, Literal, cast

import cramjam
import imagecodecs
import numpy as np
import zstandard

from dvid_dask.formats._bytes import Buffer
from dvid_dask.formats.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable


__all__ = [
    "Checksum",
    "Compression",
    "deserialize",
    "gzip_compress",
    "gzip_decompress",
    "lz4_compress",
    "lz4_decompress",
    "serialize",
    "snappy_compress",
    "snappy_decompress",
    "unwrap",
    "zstd_compress",
    "zstd_decompress",
]

Compression = Literal["none", "snappy", "gzip", "lz4", "jpeg"]
Checksum = Literal["none", "crc32"]

# how much one compressed byte can become at most, by format; a claim beyond it is a lie
_LZ4_RATIO = 255
_SNAPPY_RATIO = 64
_DEFLATE_RATIO = 1032

_NUMBERS: dict[Compression, int] = {"none": 0, "snappy": 1, "gzip": 2, "lz4": 4, "jpeg": 5}
_COMPRESSIONS = {number: name for name, number in _NUMBERS.items()}


def _bounded(name: str, data: Buffer, max_output: int, ratio: int, decompress: Callable[[Any, Any], int]) -> bytes:
    room: Any = np.empty(min(max_output, ratio * max(len(data), 1)), np.uint8)
    try:
        n = decompress(data, room)
    except cramjam.DecompressionError as e:
        raise FormatError(f"{name}: not {max_output} bytes or less of intact data: {e}") from None
    return bytes(room[:n].data)


# ------------------------------------------------------------------ gzip


def gzip_compress(data: Buffer, level: int = 6) -> bytes:
    """Compress to one gzip member.

    Parameters
    ----------
    data
        Bytes.
    level
        1 (fast) to 12 (small).

    Examples
    --------
    >>> import gzip
    >>> gzip.decompress(gzip_compress(b"supervoxel"))
    b'supervoxel'
    """
    return bytes(imagecodecs.gzip_encode(cast(bytes, data), level=level))


def gzip_decompress(data: Buffer, max_output: int) -> bytes:
    """Decompress all members of a gzip file.

    Parameters
    ----------
    data
        One or more gzip members and nothing else.
    max_output
        The most bytes it may expand to.

    Raises
    ------
    FormatError
        If it is no intact gzip file or would expand to more.

    Examples
    --------
    >>> gzip_decompress(gzip_compress(bytes(100)), 100) == bytes(100)
    True
    """
    if len(data) < 18:
        raise FormatError(f"gzip: {len(data)} bytes, but the smallest file has 18")
    # The size at the end is right for a single member below 4 GiB; it is only a hint of how much room to make.
    hint: int = struct.unpack_from("<I", data, len(data) - 4)[0]
    if hint <= min(max_output, _DEFLATE_RATIO * len(data)):
        room: Any = np.empty(hint, np.uint8)
        try:
            n = cramjam.gzip.decompress_into(data, room)
        except cramjam.DecompressionError:
            pass  # corrupt or of several members: the slow way tells
        else:
            return bytes(room[:n].data)
    return _gunzip(data, max_output)


def _gunzip(data: Buffer, max_output: int) -> bytes:
    parts: list[bytes] = []
    left = max_output
    rest: Buffer = data
    while rest:
        member = zlib.decompressobj(wbits=31)
        try:
            part = member.decompress(rest, left + 1)
        except zlib.error as e:
            raise FormatError(f"gzip: {e}") from None
        if len(part) > left:
            raise FormatError(f"gzip: expands to more than {max_output} bytes")
        if not member.eof:
            raise FormatError("gzip: the data is cut off")
        parts.append(part)
        left -= len(part)
        rest = member.unused_data
    return b"".join(parts)


# ------------------------------------------------------------------ LZ4, Snappy, zstd


def lz4_compress(data: Buffer) -> bytes:
    """Compress to one raw LZ4 block, which doesn't say how long the data was."""
    return bytes(cramjam.lz4.compress_block(data, store_size=False))


def lz4_decompress(data: Buffer, max_output: int) -> bytes:
    """Decompress a raw LZ4 block.

    Raises
    ------
    FormatError
        If it is corrupt or would expand to more than `max_output` bytes.

    Examples
    --------
    >>> lz4_decompress(lz4_compress(b"abc" * 100), 300) == b"abc" * 100
    True
    """
    return _bounded("LZ4", data, max_output, _LZ4_RATIO, cramjam.lz4.decompress_block_into)


def snappy_compress(data: Buffer) -> bytes:
    """Compress to the raw Snappy format."""
    return bytes(cramjam.snappy.compress_raw(data))


def snappy_decompress(data: Buffer, max_output: int) -> bytes:
    """Decompress the raw Snappy format.

    Raises
    ------
    FormatError
        If it is corrupt or would expand to more than `max_output` bytes.

    Examples
    --------
    >>> snappy_decompress(snappy_compress(b"abc" * 100), 300) == b"abc" * 100
    True
    """
    return _bounded("Snappy", data, max_output, _SNAPPY_RATIO, cramjam.snappy.decompress_raw_into)


class _Zstd(threading.local):
    """Contexts of a thread: making one takes longer than it takes to work on a small value."""

    def __init__(self) -> None:
        self.decompressor = zstandard.ZstdDecompressor()
        self.compressors: dict[int, zstandard.ZstdCompressor] = {}

    def compressor(self, level: int) -> zstandard.ZstdCompressor:
        """The thread's compressor of a level."""
        held = self.compressors.get(level)
        if held is None:
            held = self.compressors[level] = zstandard.ZstdCompressor(level=level)
        return held


_zstd = _Zstd()


def zstd_compress(data: Buffer, level: int = 3) -> bytes:
    """Compress to one zstd frame that records the size of the data."""
    return _zstd.compressor(level).compress(data)


def zstd_decompress(data: Buffer, max_output: int) -> bytes:
    """Decompress a zstd frame.

    Raises
    ------
    FormatError
        If the data is not one intact frame or would expand to more than `max_output` bytes.

    Examples
    --------
    >>> zstd_decompress(zstd_compress(b"abc" * 100), 300) == b"abc" * 100
    True
    """
    try:
        size = zstandard.frame_content_size(data)  # -1: its header doesn't say
    except zstandard.ZstdError as e:
        raise FormatError(f"zstd: not a frame, or its header is cut off: {e}") from None
    if size > max_output:
        raise FormatError(f"zstd: expands to {size} bytes, more than {max_output}")
    try:
        # memory that isn't written is not taken, so a lying size costs address space only
        return _zstd.decompressor.decompress(data, max_output_size=max(1, max_output), allow_extra_data=False)
    except zstandard.ZstdError as e:
        raise FormatError(f"zstd: not {max_output} bytes or less of intact data: {e}") from None


# ------------------------------------------------------------------ DVID's value header


def serialize(data: Buffer, compression: Compression, checksum: Checksum = "none") -> bytes:
    """Compress a value and put DVID's one-byte header before it.

    ``compression << 5 | checksum << 3``, then the CRC-32 of the payload if asked for (gzip has its own and never
    gets one), then the payload; that of LZ4 starts with the uint32 size of the data. Nothing stays nothing.

    Parameters
    ----------
    data
        The value.
    compression
        ``none``, ``snappy``, ``gzip``, ``lz4``; or ``jpeg`` for data that already is one.
    checksum
        ``none`` or ``crc32``.

    Examples
    --------
    >>> serialize(b"body", "none", "crc32").hex(" ")
    '08 b2 0b a8 db 62 6f 64 79'
    >>> serialize(bytes(50), "lz4")[:5].hex(" ")
    '80 32 00 00 00'
    """
    if len(data) == 0:
        return b""
    if compression in ("none", "jpeg"):
        payload = bytes(data)
    elif compression == "snappy":
        payload = snappy_compress(data)
    elif compression == "gzip":
        payload = gzip_compress(data)
    elif compression == "lz4":
        payload = struct.pack("<I", len(data)) + lz4_compress(data)
    else:
        raise ValueError(f"unknown compression {compression!r}; one of {', '.join(_NUMBERS)}")
    if checksum not in ("none", "crc32"):
        raise ValueError(f"unknown checksum {checksum!r}; none or crc32")
    first = _NUMBERS[compression] << 5
    if checksum == "none" or compression == "gzip":
        return bytes((first,)) + payload
    return struct.pack("<BI", first | 1 << 3, zlib.crc32(payload)) + payload


def unwrap(value: Buffer) -> tuple[Compression, bytes]:
    """Take DVID's header off a value without decompressing it.

    Returns
    -------
    compression, payload
        ``none`` and nothing for an empty value.

    Raises
    ------
    FormatError
        If the header is unknown or the checksum is wrong.

    Examples
    --------
    >>> unwrap(serialize(b"body", "none", "crc32"))
    ('none', b'body')
    """
    if len(value) == 0:
        return "none", b""
    number, check, reserved = value[0] >> 5, value[0] >> 3 & 3, value[0] & 7
    if number not in _COMPRESSIONS or check > 1 or reserved:
        raise FormatError(f"value header {value[0]:#04x} is none of DVID's")
    compression = _COMPRESSIONS[number]
    if check == 0 or compression == "gzip":
        return compression, bytes(value[1:])
    if len(value) < 5:
        raise FormatError("value: the checksum is cut off")
    payload = bytes(value[5:])
    if zlib.crc32(payload) != int.from_bytes(value[1:5], "little"):
        raise FormatError("value: the checksum doesn't match")
    return compression, payload


def deserialize(value: Buffer, max_output: int) -> bytes:
    """The data of a value with DVID's header.

    Parameters
    ----------
    value
        Header and payload. JPEG payloads are images, see `unwrap`.
    max_output
        The most bytes it may expand to.

    Raises
    ------
    FormatError
        If the header is unknown, the checksum wrong, the payload corrupt, an image or too large.

    Examples
    --------
    >>> deserialize(serialize(b"body", "gzip"), 4)
    b'body'
    """
    compression, payload = unwrap(value)
    if compression == "snappy":
        return snappy_decompress(payload, max_output)
    if compression == "gzip":
        return gzip_decompress(payload, max_output)
    if compression == "lz4":
        return _lz4_sized(payload, max_output)
    if compression == "jpeg":
        raise FormatError("value: a JPEG image, not bytes")
    if len(payload) > max_output:
        raise FormatError(f"value: {len(payload)} bytes, more than {max_output}")
    return payload


def _lz4_sized(payload: bytes, max_output: int) -> bytes:
    if len(payload) < 4:
        raise FormatError("value: the LZ4 size is cut off")
    size = int.from_bytes(payload[:4], "little")
    if size > max_output or (len(payload) - 4 > max_output and size == 0):
        raise FormatError(f"value: LZ4 of {size or len(payload) - 4} bytes, more than {max_output}")
    if size == 0:  # old values are stored uncompressed
        return payload[4:]
    data = lz4_decompress(payload[4:], size)
    if len(data) != size:
        raise FormatError(f"value: LZ4 of {size} bytes holds {len(data)}")
    return data
