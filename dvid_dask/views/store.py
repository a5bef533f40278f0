"""A view as a zarr store: read-only, in this process, for zarr-python and what builds on it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from zarr.abc.store import OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

    from .precomputed import PrecomputedView
    from .zarr import ZarrView

__all__ = ["ViewStore"]


class ViewStore(Store):
    """What zarr-python reads a view through; see `ZarrView` for an example.

    It pickles with its view, so that Dask's workers read the same state.

    Parameters
    ----------
    view : ZarrView or PrecomputedView
    """

    def __init__(self, view: ZarrView | PrecomputedView) -> None:
        super().__init__(read_only=True)
        self.view = view
        self._is_open = True

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ViewStore)
            and type(other.view) is type(self.view)
            and other.view.token == self.view.token
            and other.view.volume.instance == self.view.volume.instance
            and other.view.volume.supervoxels == self.view.volume.supervoxels
        )

    def __hash__(self) -> int:
        return hash((self.view.token, self.view.volume.instance))

    def __repr__(self) -> str:
        return f"ViewStore({type(self.view).__name__} of {self.view.volume.instance!r})"

    supports_writes: bool = False
    supports_deletes: bool = False
    supports_listing: bool = True

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """The value of a key, or a part of it."""
        found = await asyncio.to_thread(self.view.get, key)
        if found is None:
            return None
        data = found[0]
        if isinstance(byte_range, RangeByteRequest):
            data = data[byte_range.start : byte_range.end]
        elif isinstance(byte_range, OffsetByteRequest):
            data = data[byte_range.offset :]
        elif isinstance(byte_range, SuffixByteRequest):
            data = data[-byte_range.suffix :]
        return prototype.buffer.from_bytes(data)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Parts of the values of keys."""
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def exists(self, key: str) -> bool:
        """Whether anything lies there."""
        return await asyncio.to_thread(self.view.get, key) is not None

    async def set(self, key: str, value: Buffer) -> None:
        """Refused: a view is read-only."""
        self._check_writable()

    async def delete(self, key: str) -> None:
        """Refused: a view is read-only."""
        self._check_writable()

    async def list(self) -> AsyncIterator[str]:
        """All keys but those of chunks."""
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """All keys that begin so, but those of chunks."""
        todo = [""]
        while todo:
            folder = todo.pop()
            for name in self.view.children(folder):
                path = f"{folder}/{name}" if folder else name
                if name in ("zarr.json", "info"):
                    if path.startswith(prefix):
                        yield path
                else:
                    todo.append(path)

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Names right below a folder, but those of chunks."""
        for name in self.view.children(prefix.rstrip("/")):
            yield name
