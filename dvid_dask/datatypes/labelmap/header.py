"""The header of a body's index: its sums, and who changed it last."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from dvid_dask.datatypes.labelmap.errors import DamagedDataError

__all__ = ["Header", "Stamp"]

_FIXED = struct.Struct("<BQQQQIQHHH")
_VERSION = 1


@dataclass(frozen=True)
class Stamp:
    """Who changed a body last."""

    mutation: int = 0
    time: str = ""
    user: str = ""
    app: str = ""


@dataclass(frozen=True)
class Header:
    """Sums of a body's index."""

    voxels: int = 0
    blocks: int = 0
    rows: int = 0
    supervoxels: int = 0
    buckets: int = 0  # 0: the rows are in the record
    stamp: Stamp = Stamp()

    @property
    def paged(self) -> bool:
        """Whether the rows are in pages."""
        return self.buckets > 0

    def encode(self) -> bytes:
        """The header's bytes; rows of a small body follow."""
        texts = [t.encode()[:0xFFFF] for t in (self.stamp.time, self.stamp.user, self.stamp.app)]
        return _FIXED.pack(
            _VERSION,
            self.voxels,
            self.blocks,
            self.rows,
            self.supervoxels,
            self.buckets,
            self.stamp.mutation,
            *(len(t) for t in texts),
        ) + b"".join(texts)

    @staticmethod
    def peek(value: bytes) -> tuple[int, bool, int]:
        """Voxels, whether the rows are in pages, and where the header ends; quicker than `decode`."""
        if len(value) < _FIXED.size or value[0] != _VERSION:
            Header.decode(value)
        _, voxels, _, _, _, buckets, _, a, b, c = _FIXED.unpack_from(value)
        return voxels, buckets > 0, _FIXED.size + a + b + c

    @classmethod
    def decode(cls, value: bytes) -> tuple[Header, int]:
        """The header and where it ends."""
        if len(value) < _FIXED.size or value[0] != _VERSION:
            raise DamagedDataError(
                f"a body's index record of version {value[:1].hex() or 'nothing'}, expected {_VERSION}"
            )
        _, voxels, blocks, rows, svs, buckets, mutation, *lengths = _FIXED.unpack_from(value)
        texts, at = [], _FIXED.size
        for n in lengths:
            texts.append(value[at : at + n].decode(errors="replace"))
            at += n
        return cls(voxels, blocks, rows, svs, buckets, Stamp(mutation, *texts)), at
