"""Keys of a labelmap inside its instance's key space: a class letter, then what identifies the value.

=====  =====================================  =========================================================
class  key                                    value
=====  =====================================  =========================================================
``B``  scale (1), Morton code of block (12)   zstd of the label block; one that is absent reads as zeros
``I``  body (8)                               index of a body: header, and the rows of a small one
``P``  body (8), Morton code of region (12)   page of a large body: rows of 16 x 16 x 16 blocks
``S``  body (8), bucket (4)                   supervoxels of a large body
``M``  supervoxel >> 10 (8)                   mapping of 1024 consecutive ids
``V``  version (4), mutation (8)              supervoxels that a mutation split
``X``  name                                   extents and the largest label of this version; with a version (4) the
                                              largest label written at that version itself (labelarray)
=====  =====================================  =========================================================

Numbers are big-endian, so keys sort as the numbers do. Blocks of zeros are stored where somebody wrote them, since
DVID's clients are told of them (``blocks``, and a split may run over them); bulk jobs leave them out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dvid_dask.formats.coordinates import morton_decode, morton_encode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "BLOCK",
    "BODY",
    "EXTENTS",
    "MAPPING",
    "MAPPING_BITS",
    "MAX_LABEL",
    "MAX_LABEL_SLOTS",
    "OWN_MAX",
    "SPLIT",
    "blocks",
    "blocks_of",
    "body",
    "body_of",
    "bucket",
    "buckets",
    "mapping",
    "mapping_page_of",
    "max_label",
    "own_max",
    "page_keys",
    "pages",
    "regions_of",
    "scale_prefix",
    "split",
    "splits",
]

BLOCK = b"B"
BODY = b"I"
_PAGE = b"P"
_BUCKET = b"S"
MAPPING = b"M"
SPLIT = b"V"
EXTENTS = b"Xextents"
MAX_LABEL = b"Xmax"
OWN_MAX = b"Xown"

MAPPING_BITS = 10
"""A mapping page holds 2**10 consecutive ids."""

MAX_LABEL_SLOTS = 8
"""The largest label is kept in slots by mutation, so that concurrent mutations rarely write the same key."""


def scale_prefix(scale: int) -> bytes:
    """Prefix of all blocks of a scale."""
    return BLOCK + bytes([scale])


def blocks(scale: int, block_zyx: ArrayLike) -> list[bytes]:
    """Keys of blocks (z, y, x) of a scale.

    Examples
    --------
    >>> [k.hex() for k in blocks(1, [[0, 0, 3]])]
    ['4201e00000000000000000000009']
    """
    return _with_morton(scale_prefix(scale), block_zyx)


def _with_morton(prefix: bytes, zyx: ArrayLike) -> list[bytes]:
    codes = morton_encode(zyx)
    data, n = codes.tobytes(), len(codes)
    return [prefix + data[12 * i : 12 * i + 12] for i in range(n)]


def blocks_of(block_keys: Sequence[bytes]) -> NDArray[np.int32]:
    """Coordinates (z, y, x) of block keys."""
    return morton_decode(b"".join(k[-12:] for k in block_keys))


def body(label: int) -> bytes:
    """Key of a body's index record."""
    return BODY + label.to_bytes(8, "big")


def body_of(key: bytes) -> int:
    """The body of an index record's key."""
    return int.from_bytes(key[1:9], "big")


def pages(label: int) -> bytes:
    """Prefix of a body's index pages."""
    return _PAGE + label.to_bytes(8, "big")


def page_keys(label: int, region_zyx: ArrayLike) -> list[bytes]:
    """Keys of a body's pages for these regions."""
    return _with_morton(pages(label), region_zyx)


def regions_of(keys: Sequence[bytes]) -> NDArray[np.int32]:
    """Regions (z, y, x) of page keys."""
    return blocks_of(keys)


def buckets(label: int) -> bytes:
    """Prefix of a body's supervoxel table."""
    return _BUCKET + label.to_bytes(8, "big")


def bucket(label: int, number: int) -> bytes:
    """Key of one bucket of a body's supervoxel table."""
    return buckets(label) + number.to_bytes(4, "big")


def mapping(page: int) -> bytes:
    """Key of a mapping page."""
    return MAPPING + page.to_bytes(8, "big")


def mapping_page_of(key: bytes) -> int:
    """The page number of a mapping page's key."""
    return int.from_bytes(key[1:9], "big")


def splits(vid: int) -> bytes:
    """Prefix of the splits of supervoxels made at a version."""
    return SPLIT + vid.to_bytes(4, "big")


def split(vid: int, mutation: int) -> bytes:
    """Key of the supervoxels that a mutation of a version split."""
    return splits(vid) + mutation.to_bytes(8, "big")


def max_label(slot: int) -> bytes:
    """Key of one slot of the version's largest label."""
    return MAX_LABEL + bytes([48 + slot % MAX_LABEL_SLOTS])


def own_max(vid: int) -> bytes:
    """Key of the largest label written at a version itself."""
    return OWN_MAX + vid.to_bytes(4, "big")
