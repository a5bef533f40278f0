"""Reading annotations: elements by box, region, body and tag, as columns and as dataframes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.datatypes.annotation import keys, reload, state
from dvid_dask.datatypes.annotation.blocks import elements_at, in_blocks, scan_blocks, stored_blocks
from dvid_dask.datatypes.annotation.elements import Elements, find
from dvid_dask.datatypes.annotation.filing import LabelSource
from dvid_dask.datatypes.annotation.kinds import KINDS
from dvid_dask.datatypes.annotation.lists import Lists, Record
from dvid_dask.datatypes.annotation.state import State
from dvid_dask.datatypes.annotation.tables import frame
from dvid_dask.datatypes.annotation.tally import part_of
from dvid_dask.datatypes.base import Datatype, Space, TxSpace
from dvid_dask.datatypes.events import FiledPart
from dvid_dask.errors import BadRequest

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

    AnySpace = Space | TxSpace

__all__ = ["Reads"]

_INT32 = 1 << 31
_RECORDS = 4096  # lists of bodies looked at together


class Reads(Datatype):
    """What an annotation tells at a version."""

    # ------------------------------------------------------------------ what it follows

    @property
    def source(self) -> LabelSource | None:
        """The segmentation whose bodies its elements are filed under."""
        held = self.repo.state().by_data_uuid
        for data_uuid in self.info.syncs:
            if data_uuid in held:
                partner: Any = self.version.instance(held[data_uuid])
                if hasattr(partner, "labels_in") and getattr(partner, "locates", True):
                    return partner  # type: ignore[no-any-return]
        return None

    def _wanted_state(self) -> State:
        source = self.source
        if source is not None:
            return State(source.info.data_uuid, source.block_shape)
        held = self.repo.state().by_data_uuid
        for data_uuid in self.info.syncs:
            size = held[data_uuid].settings.get("BlockSize") if data_uuid in held else None
            if size:
                return State("", (int(size[2]), int(size[1]), int(size[0])))
        return State("", (64, 64, 64))

    def _state(self, space: AnySpace) -> State:
        return state.read_state(space) or self._wanted_state()

    @property
    def block_shape(self) -> tuple[int, int, int]:
        """Voxels of a block (z, y, x): as in the segmentation that it followed at its first element, else 64 each."""
        return self._state(self.view()).shape

    @property
    def needs_reload(self) -> bool:
        """Whether lists of bodies and tags may be others than elements and segmentation say; see `reload`.

        So it is when it follows another segmentation than when its first element came, and when lists were stored as
        given.
        """
        view = self.view()
        held = state.read_state(view)
        return (held is not None and held != self._wanted_state()) or next(reload.given_lists(view), None) is not None

    # ------------------------------------------------------------------ reading

    def scan(self) -> Iterator[tuple[NDArray[np.int32], Elements, NDArray[np.int64]]]:
        """All blocks in the order of z, y, x, many at a time.

        Yields
        ------
        block_zyx, elements, borders
            int32 (n, 3); elements of all, block after block; int64 (n + 1,), where those of each begin.
        """
        return scan_blocks(self.view())

    def scan_box(
        self, offset_zyx: Sequence[int], shape_zyx: Sequence[int]
    ) -> Iterator[tuple[NDArray[np.int32], Elements, NDArray[np.int64]]]:
        """As `scan`, of the stored blocks that have voxels of a box."""
        view = self.view()
        size = self._state(view).shape
        start = [int(o) // b for o, b in zip(offset_zyx, size, strict=True)]
        stop = [(int(o) + int(n) - 1) // b + 1 for o, n, b in zip(offset_zyx, shape_zyx, size, strict=True)]
        for blocks in stored_blocks(view, start, stop):
            for at in range(0, len(blocks), 1024):
                some = blocks[at : at + 1024]
                values = view.get_many(keys.blocks(some))
                there = some[np.array([v is not None for v in values], np.bool_)]
                if len(there):
                    yield there, *in_blocks(view, there)

    def block_count(self) -> int:
        """How many blocks are stored, those without elements too."""
        return sum(1 for _ in self.view().keys(keys.BLOCK))

    def in_box(self, offset_zyx: Sequence[int], shape_zyx: Sequence[int]) -> Iterator[Elements]:
        """Elements in a box of voxels, some blocks at a time, in the order of blocks z, y, x."""
        low = np.array([int(v) for v in offset_zyx], np.int64)
        high = low + np.array([int(v) for v in shape_zyx], np.int64)
        if len(low) != 3 or len(high) != 3:
            raise BadRequest("a box has an offset and a shape of three numbers (z, y, x)")
        if (high <= low).any():
            return
        for _, held, _ in self.scan_box(offset_zyx, shape_zyx):
            inside = ((held.zyx >= low) & (held.zyx < high)).all(axis=1)
            if bool(inside.any()):
                yield held[np.flatnonzero(inside)]

    def in_roi(self, name: str, version: Any = None) -> Iterator[Elements]:
        """Elements of all blocks of a region, in the order of blocks z, y, x, some at a time.

        Parameters
        ----------
        name
            Of an ROI instance.
        version
            Where to look the region up; this version by default.

        Raises
        ------
        BadRequest
            If there is no such ROI, or its blocks have another size.
        """
        at = self.version if version is None else version
        found: Any = at[name] if name in at else None  # noqa: SIM401  a version is no mapping
        if found is None or found.typename != "roi":
            raise BadRequest(f"there is no ROI named {name[:80]!r}")
        view = self.view()
        shape = self._state(view).shape
        region = found.pin()
        if tuple(region.block_shape) != tuple(shape):
            raise BadRequest(
                f"blocks of ROI {name!r} are {region.block_shape} (z, y, x), those of {self.name!r} {shape}: "
                "they have to be the same"
            )
        return self._in_region(view, region)

    @staticmethod
    def _in_region(view: Space, region: Any) -> Iterator[Elements]:
        bounds = region.z_bounds
        if bounds is None:
            return
        low, high = (int(bounds[0]), -_INT32, -_INT32), (int(bounds[1]) + 1, _INT32, _INT32)
        for blocks in stored_blocks(view, low, high):
            chosen = blocks[region.contains_blocks(blocks)]
            for at in range(0, len(chosen), 1024):
                held, _ = in_blocks(view, chosen[at : at + 1024])
                if len(held):
                    yield held

    def listed(self, body: int) -> Iterator[Elements]:
        """The list of a body, some pages at a time: elements without relationships, their supervoxels as `key`."""
        return Lists(self.view(), keys.label).scan(_label(body))

    def tagged(self, tag: str) -> Iterator[Elements]:
        """The list of a tag, some pages at a time: elements without relationships."""
        return Lists(self.view(), keys.tag).scan(tag)

    def related(self, listed: Elements) -> tuple[Elements, NDArray[np.int64]]:
        """The elements of blocks around those of a list, and for each of the list its place among them, -1 for none."""
        view = self.view()
        held = elements_at(view, listed.zyx, self._state(view).shape)
        return held, find(held.zyx, listed.zyx)

    def at(self, zyx: ArrayLike) -> Elements:
        """The elements of the blocks of some positions int (n, 3)."""
        view = self.view()
        return elements_at(view, np.asarray(zyx, np.int32).reshape(-1, 3), self._state(view).shape)

    # ------------------------------------------------------------------ as tables

    def elements(self, offset_zyx: Sequence[int] | None = None, shape_zyx: Sequence[int] | None = None) -> pd.DataFrame:
        """Elements in a box of voxels, or all, as a dataframe.

        Returns
        -------
        pandas.DataFrame
            Columns ``z``, ``y``, ``x`` (int32), ``kind`` (categorical), ``tags`` (lists), ``prop`` (dicts), ``rels``
            (lists of (kind, z, y, x)).
        """
        if offset_zyx is None or shape_zyx is None:
            return frame(Elements.join([held for _, held, _ in self.scan()]), rels=True)
        return frame(Elements.join(list(self.in_box(offset_zyx, shape_zyx))), rels=True)

    def of_label(self, body: int, *, supervoxels: bool = False) -> pd.DataFrame:
        """Elements in a body as a dataframe: columns as `elements`, without ``rels``.

        Parameters
        ----------
        body
            Its id.
        supervoxels
            Whether to add the column ``supervoxel`` (uint64).
        """
        held = Elements.join(list(self.listed(body)))
        table = frame(held)
        if supervoxels:
            table["supervoxel"] = held.key
        return table

    def of_tag(self, tag: str) -> pd.DataFrame:
        """Elements with a tag as a dataframe: columns as `elements`, without ``rels``."""
        return frame(Elements.join(list(self.tagged(tag))))

    def count(self, body: int) -> dict[str, int]:
        """How many elements of each kind a body has; no element is read."""
        lists = Lists(self.view(), keys.label)
        return dict(zip(KINDS, lists.record(_label(body)).counts.tolist(), strict=True))

    def tag_names(self) -> Iterator[str]:
        """All tags that elements have, in byte order."""
        return (keys.tag_of(key) for key in self.view().keys(keys.TAG))

    def label_counts(self, space: AnySpace | None = None) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.int64]]]:
        """Elements of each kind in each body, from the directories of lists alone.

        Parameters
        ----------
        space
            Where to read: a mutation's space, or this version's present state.

        Yields
        ------
        bodies, counts
            uint64 (n,), ascending, and int64 (n, 5), a column per kind of `kinds.KINDS`.
        """
        for bodies, records in self._records(self.view() if space is None else space):
            yield np.array(bodies, np.uint64), np.stack([record.counts for record in records])

    def filed_parts(self, space: AnySpace | None = None) -> Iterator[FiledPart]:
        """All elements by the body that they are in, in parts, of sign 1; `space` as for `label_counts`."""
        space = self.view() if space is None else space
        lists = Lists(space, keys.label)
        for bodies, records in self._records(space):
            for body, record in zip(bodies, records, strict=True):
                for elements in lists.scan_record(record):
                    yield part_of(body, elements)

    @staticmethod
    def _records(space: AnySpace) -> Iterator[tuple[list[int], list[Record]]]:
        bodies: list[int] = []
        records: list[Record] = []
        for key, value in space.scan(keys.LABEL):
            bodies.append(keys.label_of(key))
            records.append(Record.decode(value))
            if len(bodies) == _RECORDS:
                yield bodies, records
                bodies, records = [], []
        if bodies:
            yield bodies, records


def _label(body: int) -> int:
    if not 1 <= body < 2**64:
        raise BadRequest(f"label {body} is background or out of range: expected 1 to 2**64 - 1")
    return body
