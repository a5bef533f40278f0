"""Grids as a file: one or more segments, each a header, what is in it, and the grids, compressed or not.

::

    segment   magic "NanoVDB2", version, number of grids, codec | per grid: 176 bytes about it, its name | the grids

NanoVDB reads such files and raw grids alike; NVIDIA Warp's ``Volume.load_from_nvdb`` and tools that list what is in
a file want the header. Segments can be joined: a file of many grids is written one segment after the other.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.formats.nanovdb.layout import FILE_HEADER, FILE_MAGIC, FILE_META, GRID, TREE, VERSION, Codec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["encode_file", "segment"]

_LEVEL = 1


def segment(grid: NDArray[np.uint8], *, compress: bool = False) -> Iterator[bytes | memoryview]:
    """A file, or a part of one, that holds a grid, in pieces.

    Parameters
    ----------
    grid
        From `dvid_dask.formats.nanovdb.encode_index_grid` or `encode_value_grid`.
    compress
        With NanoVDB's codec ``ZIP``. Upper nodes are mostly zeros: the file of a small body shrinks to a hundredth.

    Examples
    --------
    >>> from dvid_dask.formats.nanovdb import encode_index_grid, leaves_of_voxels
    >>> grid = encode_index_grid(leaves_of_voxels([[1, 2, 3]]))
    >>> sum(map(len, segment(grid))) - len(grid)
    193
    """
    body: memoryview | bytes = grid.data
    packed = b""
    if compress:
        body = zlib.compress(grid.data, _LEVEL)
        packed = len(body).to_bytes(8, "little")
    yield _about(grid, len(packed) + len(body), Codec.ZIP if compress else Codec.NONE)
    if packed:
        yield packed
    yield body


def encode_file(*grids: NDArray[np.uint8], compress: bool = False) -> bytes:
    """A file of grids, a segment for each.

    Examples
    --------
    >>> from dvid_dask.formats.nanovdb import encode_index_grid, leaves_of_voxels, read_grids
    >>> names = ["a", "b"]
    >>> grids = [encode_index_grid(leaves_of_voxels([[1, 2, 3]]), name=n) for n in names]
    >>> [g.name for g in read_grids(encode_file(*grids, compress=True))]
    ['a', 'b']
    """
    return b"".join(part for grid in grids for part in segment(grid, compress=compress))


def _about(grid: NDArray[np.uint8], size: int, codec: Codec) -> bytes:
    head = grid[: GRID.itemsize].view(GRID)[0]
    tree = grid[GRID.itemsize : GRID.itemsize + TREE.itemsize].view(TREE)[0]
    name = name_of(grid)
    header = np.zeros(1, FILE_HEADER)
    header["magic"], header["version"], header["grids"], header["codec"] = FILE_MAGIC, VERSION, 1, codec
    meta = np.zeros(1, FILE_META)
    root = GRID.itemsize + int(tree["offset"][3])
    about: dict[str, Any] = {
        "grid_size": len(grid),
        "file_size": size,
        "name_key": name_key(name),
        "voxels": tree["voxels"],
        "type": head["type"],
        "class": head["class"],
        "world_bbox": head["world_bbox"],
        "index_bbox": grid[root : root + 24].view("<i4").reshape(2, 3),
        "voxel_size": head["voxel_size"],
        "name_size": len(name) + 1,
        "nodes": [*tree["nodes"], 1],
        "codec": codec,
        "blind_count": head["blind_count"],
        "version": VERSION,
    }
    for field, value in about.items():
        meta[field] = value
    return header.tobytes() + meta.tobytes() + name + b"\0"


def name_of(grid: NDArray[np.uint8]) -> bytes:
    """The whole name of a grid that was written here."""
    from dvid_dask.formats.nanovdb.layout import BLIND, BlindClass, GridFlags

    head = grid[: GRID.itemsize].view(GRID)[0]
    if head["flags"] & GridFlags.LONG_NAME:
        at = int(head["blind_offset"])
        blind = grid[at : at + BLIND.itemsize].view(BLIND)[0]
        if blind["class"] == BlindClass.GRID_NAME:
            start = at + int(blind["offset"])
            return grid[start : start + int(blind["count"]) - 1].tobytes()
    return bytes(head["name"])


def name_key(name: bytes) -> int:
    """NanoVDB's hash of a name, by which files are searched.

    Examples
    --------
    >>> name_key(b""), name_key(b"ab")
    (0, 6597)
    """
    key = 0
    for byte in name:
        overflow = key >> 56
        key = (key * 67 + byte + overflow) & 0xFFFFFFFFFFFFFFFF
    return key
