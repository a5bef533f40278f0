"""The label index: for every body its blocks, supervoxels and voxel counts, in pages.

A small body is one value: a header and all its rows. A body of more than `SMALL` rows has

* a header (sums, who changed it last),
* a page per region of 16 x 16 x 16 blocks with the rows of that region (`pages`),
* a table of its supervoxels in hash buckets (`buckets`): voxels of each, and a box of the regions it occurs in.

So an edit reads and writes the parts of pages whose blocks it changes, the buckets of the supervoxels it changes and
the header, however large the body is.

An update *sets* counts, it doesn't add to them: repeating it changes nothing.

The header is rewritten with every edit: pages are found by a scan of their prefix, and scans inside a
transaction aren't validated at commit, reads of the header are.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np

from dvid_dask.datatypes.labelmap import keys
from dvid_dask.datatypes.labelmap.buckets import (
    Bucket,
    bucket_changes,
    bucket_of,
    bucket_table,
    change_bucket,
    no_supervoxels,
    split_bucket,
)
from dvid_dask.datatypes.labelmap.columns import pack_groups, unpack
from dvid_dask.datatypes.labelmap.errors import DamagedDataError
from dvid_dask.datatypes.labelmap.header import Header, Stamp
from dvid_dask.datatypes.labelmap.pages import change_page, page_rows, page_rows_of, page_table, write_page
from dvid_dask.datatypes.labelmap.rows import COLUMNS, Rows, distinct_blocks, first_of_block, overlay_table
from dvid_dask.formats import label_index
from dvid_dask.formats._jit import kernel
from dvid_dask.formats.distinct import distinct, distinct_rows, is_among

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from dvid_dask.datatypes.base import TxSpace
    from dvid_dask.datatypes.labelmap.spaces import AnySpace

__all__ = ["BUCKET", "SHRINK", "SMALL", "Box", "Header", "Index", "Stamp", "Supervoxels", "write_new_bodies"]

T = TypeVar("T")

SMALL = 512
"""Most rows that live in the body's record itself."""

SHRINK = 128
"""A paged body with fewer rows becomes small again."""

BUCKET = 128
"""Supervoxels per bucket, on average."""

_BATCH = 256  # pages read at a time
_BOX_LIMIT = 4096  # regions of a supervoxel's box that are looked up one by one

Box = tuple[tuple[int, int, int], tuple[int, int, int]]
"""Inclusive block coordinates (z, y, x), first and last."""


@dataclass(frozen=True)
class Supervoxels:
    """Supervoxels of a body, ascending, and their voxels."""

    id: NDArray[np.uint64]
    voxels: NDArray[np.uint64]


# ------------------------------------------------------------------ pieces of stored tables


_NO_ROWS = np.empty((COLUMNS, 0), np.uint64)


def _rows_of(value: bytes) -> Rows:
    """The rows of a small body."""
    return Rows.from_table(unpack(value, COLUMNS))


def _packed(table: NDArray[np.uint64]) -> bytes:
    return pack_groups(table, np.array([0, table.shape[1]]))[0]


def _sums_by_supervoxel(rows: Rows) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    svs, where = np.unique(rows.supervoxel, return_inverse=True)
    sums = np.zeros(len(svs), np.int64)
    np.add.at(sums, where, rows.count.astype(np.int64))
    return svs, sums


def _as_index(body: int, header: Header, rows: Rows) -> label_index.LabelIndex:
    stamp = header.stamp
    return label_index.LabelIndex(
        body,
        rows.block_zyx,
        rows.supervoxel,
        rows.count,
        rows.surface,
        stamp.mutation,
        stamp.time,
        stamp.user,
        stamp.app,
    )


def _header_in(_: bytes, value: bytes | None) -> tuple[Header | None, int]:
    return (None, 0) if value is None else (Header.decode(value)[0], 400)


def _as_stored(_: bytes, value: bytes | None) -> tuple[bytes | None, int]:
    return value, 0 if value is None else len(value)


def _has_own(key: bytes, value: bytes | None) -> tuple[bool | None, int]:
    """Whether a body has a supervoxel of its own id; None if its record doesn't tell, since it is paged."""
    if value is None:
        return False, 0
    header, end = Header.decode(value)
    if header.paged:
        return None, 0
    return bool((unpack(value[end:], COLUMNS)[3] == np.uint64(keys.body_of(key))).any()), 0


def _header_of(rows: Rows, stamp: Stamp) -> Header:
    """The header of a small body with these sorted rows."""
    return Header(rows.voxels, len(distinct_blocks(rows)), len(rows), len(distinct(rows.supervoxel)), 0, stamp)


@kernel
def _regions_in(table: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Where the rows of each region begin, and their end; nothing if rows aren't sorted by region, block and id."""
    n = table.shape[1]
    starts = np.empty(n + 1, np.int64)
    count = 0
    for i in range(n):
        new = i == 0
        if i > 0:
            order = 0
            for c in range(3):
                if order == 0 and table[c, i] >> np.uint64(4) != table[c, i - 1] >> np.uint64(4):
                    order = 1 if table[c, i] > table[c, i - 1] else -1
                    new = True
            for c in range(4):
                if order == 0 and table[c, i] != table[c, i - 1]:
                    order = 1 if table[c, i] > table[c, i - 1] else -1
            if order < 0:
                return starts[:0]
        if new:
            starts[count] = i
            count += 1
    starts[count] = n
    return starts[: count + 1]


def _by_region(rows: Rows) -> tuple[NDArray[np.uint64], NDArray[np.int32], list[int]]:
    """The table of rows by region, block and id; the regions (z, y, x) in zyx order; where the rows of each begin."""
    table = rows.table()
    starts = _regions_in(table)
    if len(rows) and not len(starts):
        order = np.lexsort((table[3], *table[2::-1], *(table[2::-1] >> np.uint64(4))))
        table = np.ascontiguousarray(table[:, order])
        starts = _regions_in(table)
    firsts = table[:3, starts[:-1]].astype(np.int64) - (1 << 31)
    return table, (firsts.T >> 4).astype(np.int32), starts.tolist()


def _in_box(rows: Rows, box: Box | None) -> Rows:
    if box is None or not len(rows):
        return rows
    low, high = np.array(box[0]), np.array(box[1])
    return rows[((rows.block_zyx >= low) & (rows.block_zyx <= high)).all(axis=1)]


def _clip_regions(regions: NDArray[np.int32], box: Box | None) -> NDArray[np.int32]:
    if box is None or not len(regions):
        return regions
    low, high = np.array(box[0]) >> 4, np.array(box[1]) >> 4
    chosen: NDArray[np.int32] = regions[((regions >= low) & (regions <= high)).all(axis=1)]
    return chosen


# ------------------------------------------------------------------ read


class Index:
    """The label index in one state of the instance's key space. Bodies that don't exist have no rows.

    Parameters
    ----------
    space
        A pinned view for reading, or the space of a transaction for `update` and the like.
    """

    def __init__(self, space: AnySpace) -> None:
        self._space = space

    def header(self, body: int) -> Header | None:
        """Sums of a body, or None if it has no index."""
        return self.headers([body])[0]

    def headers(self, bodies: Iterable[int]) -> list[Header | None]:
        """`header` of many bodies in one read."""
        return self._space.decoded("header", [keys.body(b) for b in bodies], _header_in)

    def has_own_supervoxel(self, labels: Sequence[int]) -> list[bool]:
        """For each label whether a body of that id has a supervoxel of that id."""
        found = self._space.decoded("own", [keys.body(label) for label in labels], _has_own)
        return [
            bool(self.voxels_of(label, [label])[0]) if own is None else own
            for label, own in zip(labels, found, strict=True)
        ]

    def whole(self, body: int) -> tuple[Header, Rows] | None:
        """`header` and `rows` of a body in one read; None if it has no index."""
        record = self._record(body)
        if record is None or not record[0].paged:
            return record
        return record[0], self.rows(body)

    def message(self, body: int) -> bytes | None:
        """The index of a small body as a ``LabelIndex`` message, kept once made; b"" if there is none. Large: None."""

        def make(_: bytes, value: bytes | None) -> tuple[bytes | None, int]:
            if value is None:
                return b"", 0
            header, end = Header.decode(value)
            if header.paged:
                return None, 0
            made = label_index.encode_index(_as_index(body, header, _rows_of(value[end:])))
            return made, len(made)

        return self._space.decoded("message", [keys.body(body)], make)[0]

    def described(self, body: int) -> label_index.LabelIndex | None:
        """The whole index of a body; None if it has none."""
        held = self.whole(body)
        return None if held is None else _as_index(body, *held)

    def _record(self, body: int) -> tuple[Header, Rows] | None:
        """Header and, for a small body, its rows."""
        value = self._space.decoded("record", [keys.body(body)], _as_stored)[0]
        if value is None:
            return None
        header, end = Header.decode(value)
        return header, Rows.empty() if header.paged else _rows_of(value[end:])

    def rows(self, body: int, box: Box | None = None) -> Rows:
        """All rows of a body, sorted by block (z, y, x) and supervoxel. For bodies of any size use `layers`."""
        return Rows.concatenate(list(self.layers(body, box)))

    def layers(self, body: int, box: Box | None = None, thickness: int = 16) -> Iterator[Rows]:
        """The rows in slabs of blocks, ascending in z: sorted in each slab, and so altogether.

        Parameters
        ----------
        body
            Its id.
        box
            Only blocks in this box, if given.
        thickness
            Blocks in z of a slab of a paged body: a multiple of 16. Slabs start at multiples of it.
        """
        record = self._record(body)
        if record is None:
            return
        header, rows = record
        if not header.paged:
            yield _in_box(rows, box)
            return
        regions = _clip_regions(self.regions(body), box)
        slab = regions[:, 0] // (thickness // 16)
        for level in distinct(slab).tolist():
            parts = [_in_box(p, box) for p in self._pages(body, regions[slab == level])]
            yield Rows.concatenate(parts).sorted()

    def regions(self, body: int) -> NDArray[np.int32]:
        """int32 (n, 3): regions (z, y, x) of 16 x 16 x 16 blocks in which a paged body has a page."""
        return keys.regions_of(list(self._space.keys(keys.pages(body))))

    def _pages(self, body: int, regions: NDArray[np.int32]) -> Iterator[Rows]:
        page_keys = keys.page_keys(body, regions)
        for batch in _batches(page_keys):
            for value in self._space.get_many(batch):
                if value is not None:
                    yield page_rows(value)

    def scan_rows(self, body: int) -> Iterator[Rows]:
        """The rows page by page, in no particular order of pages."""
        record = self._record(body)
        if record is None:
            return
        if not record[0].paged:
            yield record[1]
            return
        yield from self._pages(body, self.regions(body))

    def supervoxels(self, body: int) -> Supervoxels | None:
        """All supervoxels of a body, ascending, with their voxels; None if the body has no index."""
        record = self._record(body)
        if record is None:
            return None
        header, rows = record
        if not header.paged:
            svs, sums = _sums_by_supervoxel(rows)
            return Supervoxels(svs, sums.astype(np.uint64))
        table = Bucket.read([value for _, value in self._space.scan(keys.buckets(body))])
        if not len(table):
            raise DamagedDataError(f"body {body} has pages but no table of its supervoxels: check the label index")
        return Supervoxels(table.id, table.voxels.astype(np.uint64))

    def voxels_of(self, body: int, supervoxels: ArrayLike) -> NDArray[np.uint64]:
        """Voxels of each given supervoxel in the body; 0 for those it doesn't have."""
        wanted = np.asarray(supervoxels, np.uint64).reshape(-1)
        found = self._lookup(body, wanted)
        at = np.searchsorted(found.id, wanted)
        hit = np.zeros(len(wanted), np.bool_)
        inside = at < len(found)
        hit[inside] = found.id[at[inside]] == wanted[inside]
        out = np.zeros(len(wanted), np.uint64)
        out[hit] = found.voxels[at[hit]].astype(np.uint64)
        return out

    def counts_of(self, body: int, pairs: Rows) -> NDArray[np.int64]:
        """Voxels stored for each (block, supervoxel) pair, 0 for those there are not; their own counts don't matter.

        Of a paged body only the pages of these blocks are read.
        """
        record = self._record(body)
        if record is None or not len(pairs):
            return np.zeros(len(pairs), np.int64)
        header, stored = record
        if header.paged:
            regions = distinct_rows(pairs.block_zyx >> 4).astype(np.int32)
            stored = Rows.concatenate(list(self._pages(body, regions)))
        both = Rows.concatenate([stored, pairs])
        order = np.lexsort((both.supervoxel, *both.block_zyx.T[::-1]))  # stable: a pair comes after what is stored
        both = both[order]
        follows = np.zeros(len(both), np.bool_)
        follows[1:] = (both.supervoxel[1:] == both.supervoxel[:-1]) & ~first_of_block(both.block_zyx)[1:]
        before = np.r_[np.int64(0), both.count[:-1].astype(np.int64)]
        asked = order >= len(stored)
        counts = np.zeros(len(pairs), np.int64)
        counts[order[asked] - len(stored)] = np.where(follows, before, 0)[asked]
        return counts

    def _lookup(self, body: int, wanted: NDArray[np.uint64]) -> Bucket:
        """Rows of the supervoxel table for those of the wanted that the body has, ascending."""
        record = self._record(body)
        if record is None:
            return no_supervoxels()
        header, rows = record
        if not header.paged:
            svs, sums = _sums_by_supervoxel(rows)
            keep = is_among(svs, wanted)
            return Bucket.without_boxes(svs[keep], sums[keep])
        numbers = dict.fromkeys(bucket_of(wanted, header.buckets).tolist())
        tables = self._space.decoded("bucket", [keys.bucket(body, n) for n in numbers], bucket_table)
        return Bucket.find(tables, wanted)

    def rows_of(self, body: int, supervoxels: ArrayLike) -> Rows:
        """The sorted rows of some supervoxels of a body; of a paged body only their regions are read."""
        return Rows.concatenate(list(self.scan_rows_of(body, supervoxels))).sorted()

    def scan_rows_of(self, body: int, supervoxels: ArrayLike) -> Iterator[Rows]:
        """`rows_of` page by page."""
        wanted = distinct(np.asarray(supervoxels, np.uint64))
        record = self._record(body)
        if record is None:
            return
        header, rows = record
        if not header.paged:
            yield rows[is_among(rows.supervoxel, wanted)]
            return
        page_keys = keys.page_keys(body, self._regions_of(body, self._lookup(body, wanted).box))
        for batch in _batches(page_keys):
            for value in self._space.get_many(batch):
                if value is not None and len(rows := page_rows_of(value, wanted)):
                    yield rows

    def _regions_of(self, body: int, boxes: NDArray[np.int64]) -> NDArray[np.int32]:
        """Regions that may have rows of supervoxels with these region boxes."""
        if not len(boxes):
            return np.empty((0, 3), np.int32)
        if len(boxes) == 1 and (boxes[0, :3] == boxes[0, 3:]).all():
            return boxes[:, :3].astype(np.int32)  # as most supervoxels
        if int((boxes[:, 3:] - boxes[:, :3] + 1).prod(axis=1).sum()) <= _BOX_LIMIT:
            grids = [np.indices(b[3:] - b[:3] + 1).reshape(3, -1).T + b[:3] for b in distinct_rows(boxes)]
            return distinct_rows(np.concatenate(grids)).astype(np.int32)
        regions = self.regions(body)
        inside = np.zeros(len(regions), np.bool_)
        for b in distinct_rows(boxes):
            inside |= ((regions >= b[:3]) & (regions <= b[3:])).all(axis=1)
        return regions[inside]

    def extent(self, body: int) -> Box | None:
        """First and last block (z, y, x) of a body in each dimension, from the pages at its faces only."""
        record = self._record(body)
        if record is None:
            return None
        header, rows = record
        if header.paged:
            regions = self.regions(body)
            face = (regions == regions.min(axis=0)) | (regions == regions.max(axis=0))
            rows = Rows.concatenate(list(self._pages(body, regions[face.any(axis=1)])))
        if not len(rows):
            return None
        (az, ay, ax), (bz, by, bx) = rows.block_zyx.min(axis=0).tolist(), rows.block_zyx.max(axis=0).tolist()
        return (az, ay, ax), (bz, by, bx)

    def bodies(self, start: int = 0, stop: int | None = None) -> Iterator[int]:
        """Ids of all bodies with an index in [start, stop), ascending."""
        last = None if stop is None else keys.body(stop)
        for key in self._space.keys(keys.BODY, start=keys.body(start), stop=last):
            yield keys.body_of(key)

    def scan(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, Header]]:
        """`bodies` with their headers."""
        last = None if stop is None else keys.body(stop)
        for key, value in self._space.scan(keys.BODY, start=keys.body(start), stop=last):
            yield keys.body_of(key), Header.decode(value)[0]

    def scan_all_rows(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, Rows]]:
        """The rows of all bodies with an id in [start, stop): of a large body page by page."""
        last = None if stop is None else keys.body(stop)
        for key, value in self._space.scan(keys.BODY, start=keys.body(start), stop=last):
            body = keys.body_of(key)
            header, end = Header.decode(value)
            if not header.paged:
                yield body, _rows_of(value[end:])
                continue
            for page in self._pages(body, self.regions(body)):
                yield body, page

    # -------------------------------------------------------------- write

    @property
    def _tx(self) -> TxSpace:
        space = self._space
        if not hasattr(space, "put"):
            raise TypeError("this label index is open for reading; changes need the space of a transaction")
        return cast("TxSpace", space)

    def update(self, body: int, changes: Rows, *, stamp: Stamp | None = None, surface: int | None = None) -> Header:
        """Set counts of (block, supervoxel) pairs of a body; a count of 0 removes the pair.

        Parameters
        ----------
        body
            Its id; it comes to be if it had no index and is deleted when its last row goes.
        changes
            The pairs, any order.
        stamp
            Who changed the body; unchanged if not given.
        surface
            Mutation id to mark all blocks named in `changes` with.

        Returns
        -------
        Header
            The sums after the change.
        """
        value = self._space.get(keys.body(body))
        header, end = (Header(), 0) if value is None else Header.decode(value)
        stamp = header.stamp if stamp is None else stamp
        if header.paged:
            return self._update_pages(body, header, changes, stamp, surface)
        old = _NO_ROWS if value is None else unpack(value[end:], COLUMNS)
        table = overlay_table(old, changes.sorted().table(), surface).table
        if table.shape[1] > SMALL:
            return self._update_pages(body, Header(buckets=1), Rows.from_table(table), stamp, None)
        if not table.shape[1]:
            self._tx.delete(keys.body(body))
            return Header(stamp=stamp)
        header = _header_of(Rows.from_table(table), stamp)
        self._tx.put(keys.body(body), header.encode() + _packed(table))
        return header

    def _update_pages(self, body: int, header: Header, changes: Rows, stamp: Stamp, surface: int | None) -> Header:
        tx = self._tx
        voxels, blocks, count = header.voxels, header.blocks, header.rows
        table, regions, starts = _by_region(changes)
        change = np.zeros(len(changes), np.int64)
        for at in range(0, len(regions), _BATCH):
            page_keys = keys.page_keys(body, regions[at : at + _BATCH])
            for i, (key, value) in enumerate(zip(page_keys, tx.get_many(page_keys), strict=True), start=at):
                a, b = starts[i], starts[i + 1]
                done = change_page(value, table[:, a:b], surface)
                change[a:b] = done.change
                voxels += done.voxels
                blocks += done.blocks
                count += done.rows
                if done.value is not None:
                    tx.put(key, done.value)
                elif value is not None:
                    tx.delete(key)
        svs, buckets = self._update_buckets(body, header, *bucket_changes(table, change, header.buckets))
        header = Header(voxels, blocks, count, svs, buckets, stamp)
        if not count:
            tx.delete(keys.body(body))
            return Header(stamp=stamp)
        tx.put(keys.body(body), header.encode())
        return self._shrink(body, header) if count < SHRINK else header

    def _update_buckets(
        self, body: int, header: Header, numbers: list[int], changes: NDArray[np.uint64]
    ) -> tuple[int, int]:
        """Apply changes of the supervoxel table, by bucket; returns (supervoxels, buckets)."""
        tx, svs, buckets = self._tx, header.supervoxels, header.buckets
        ends = itertools.accumulate(sum(1 for _ in group) for _, group in itertools.groupby(numbers))
        parts = list(itertools.pairwise([0, *ends]))
        for batch in _batches(parts):
            bucket_keys = [keys.bucket(body, numbers[a]) for a, _ in batch]
            tables = tx.decoded("bucket", bucket_keys, bucket_table)
            for (a, b), key, table in zip(batch, bucket_keys, tables, strict=True):
                after, more = change_bucket(table, changes[:, a:b])
                svs += more
                self._put_bucket(key, after, table.shape[1] > 0)
        while svs > buckets * BUCKET:
            buckets = self._split_bucket(body, buckets)
        return svs, buckets

    def _put_bucket(self, key: bytes, value: bytes | None, existed: bool) -> None:
        if value is not None:
            self._tx.put(key, value)
        elif existed:
            self._tx.delete(key)

    def _split_bucket(self, body: int, buckets: int) -> int:
        """Add one bucket; its rows come from the one that linear hashing splits next."""
        source = buckets - (1 << (buckets.bit_length() - 1))
        key = keys.bucket(body, source)
        value = self._tx.get(key)
        stays, moves = split_bucket(value, buckets, buckets + 1)
        self._put_bucket(key, stays, value is not None)
        self._put_bucket(keys.bucket(body, buckets), moves, False)
        return buckets + 1

    def _shrink(self, body: int, header: Header) -> Header:
        rows = Rows.concatenate(list(self._pages(body, self.regions(body)))).sorted()
        self._tx.delete_prefix(keys.pages(body))
        self._tx.delete_prefix(keys.buckets(body))
        header = replace(header, buckets=0)
        self._tx.put(keys.body(body), header.encode() + _packed(rows.table()))
        return header

    def stamp(self, body: int, stamp: Stamp) -> None:
        """Note who changed a body, without changing its rows."""
        value = self._space.get(keys.body(body))
        if value is not None:
            header, end = Header.decode(value)
            self._tx.put(keys.body(body), replace(header, stamp=stamp).encode() + value[end:])

    def delete(self, body: int) -> None:
        """Remove a body's index."""
        header = self.header(body)
        if header is None:
            return
        self._tx.delete(keys.body(body))
        if header.paged:
            self._tx.delete_prefix(keys.pages(body))
            self._tx.delete_prefix(keys.buckets(body))

    def replace(self, body: int, rows: Rows, stamp: Stamp) -> None:
        """Set a body's index as a whole; no rows delete it."""
        self.delete(body)
        if len(rows):
            self.update(body, rows, stamp=stamp)

    def move(self, source: int, target: int, *, stamp: Stamp, surface: int | None) -> None:
        """Add all rows of a body to another and delete its index; page by page.

        A body that is new gets the pages as they are, and the supervoxel table too: it knows nothing of the body's id.
        """
        value = self._space.get(keys.body(source))
        if value is None:
            return
        header, _ = Header.decode(value)
        if header.paged and self._space.get(keys.body(target)) is None:
            self._copy_pages(source, target, surface)
            self._tx.put(keys.body(target), replace(header, stamp=stamp).encode())
        else:
            for batch in _batches(self.scan_rows(source)):
                self.update(target, Rows.concatenate(batch), stamp=stamp, surface=surface)
        self.delete(source)

    def _copy_pages(self, source: int, target: int, surface: int | None) -> None:
        tx = self._tx
        for batch in _batches(self.regions(source), 32):
            regions = np.array(batch, np.int32)
            values = tx.get_many(keys.page_keys(source, regions))
            for key, page in zip(keys.page_keys(target, regions), values, strict=True):
                if page is None:
                    continue
                if surface is not None:
                    table = page_table(page)
                    table[5] = surface
                    page = write_page(table)
                tx.put(key, page)
        prefix = keys.buckets(source)
        for key, table_part in tx.scan(prefix):
            tx.put(keys.buckets(target) + key[len(prefix) :], table_part)


def _batches(items: Iterable[T], size: int = _BATCH) -> Iterator[list[T]]:
    it = iter(items)
    while batch := list(itertools.islice(it, size)):
        yield batch


def write_new_bodies(space: TxSpace, bodies: NDArray[np.uint64], rows: Rows, stamp: Stamp | None = None) -> None:
    """Write the index of bodies whole, many at once: of those that have none yet, or of small ones anew.

    Parameters
    ----------
    space
        Space of a transaction.
    bodies
        uint64 (n,): the body of each row.
    rows
        Counts above 0; each (body, block, supervoxel) once.
    stamp
        Who made them; nobody by default.
    """
    stamp = Stamp() if stamp is None else stamp
    order = np.lexsort((rows.supervoxel, *rows.block_zyx.T[::-1], bodies))
    rows, bodies = rows[order], bodies[order]
    if not len(rows):
        return
    new_body = np.r_[True, bodies[1:] != bodies[:-1]]
    starts = np.r_[np.flatnonzero(new_body), len(rows)]
    new_block = new_body | np.r_[True, (rows.block_zyx[1:] != rows.block_zyx[:-1]).any(axis=1)]
    voxels = np.add.reduceat(rows.count.astype(np.int64), starts[:-1]).tolist()
    blocks = np.add.reduceat(new_block.astype(np.int64), starts[:-1]).tolist()
    packed = pack_groups(rows.table(), starts)
    items = []
    for i, (a, b) in enumerate(itertools.pairwise(starts.tolist())):
        body = int(bodies[a])
        if b - a > SMALL:
            Index(space).update(body, rows[a:b], stamp=stamp)
            continue
        svs = 1 if b - a == 1 else len(distinct(rows.supervoxel[a:b]))
        items.append((keys.body(body), Header(voxels[i], blocks[i], b - a, svs, 0, stamp).encode() + packed[i]))
    space.put_many(items)
