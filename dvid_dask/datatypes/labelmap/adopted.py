"""Keys of a labelmap whose voxels lie in a base: blocks that the tree hasn't are made from the base's voxels.

Everybody reads and writes blocks by their keys, through a space. The spaces here look like those of any labelmap; what
they add:

* a block that isn't in the tree, but in the base, is read from there and encoded;
* what is written goes to the tree and hides the base's block; a block that is deleted leaves `HIDDEN` behind;
* a listing has the blocks of both.

Which blocks of the base hold anything but 0 was noted when it was adopted, in the version's tree, so empty ones cost no
look at the base, and a version that has no such note doesn't show the base. Keys beside those of
`dvid_dask.datatypes.labelmap.keys`:

=====  =======================================  =======================================================
class  key                                      value
=====  =======================================  =======================================================
``A``                                           `Adoption`, JSON
``A``  255, scale (1)                           there if a block of the scale was ever edited
``A``  scale (1), Morton code of 4x4x4 (12)     64 bits, big-endian: bit n is the n-th block by its code
=====  =======================================  =======================================================
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from dvid_dask.bases.base import Base
from dvid_dask.boxes import Box, Point
from dvid_dask.datatypes.labelmap import keys
from dvid_dask.datatypes.labelmap.blocks import Layout, compress
from dvid_dask.datatypes.labelmap.threads import batches, parallel
from dvid_dask.datatypes.written import written_blocks
from dvid_dask.errors import Conflict
from dvid_dask.formats import label_blocks
from dvid_dask.formats.distinct import numbered_rows
from dvid_dask.versions.space import Space, TxSpace, prefix_stop

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.datatypes.labelmap.spaces import AnySpace
    from dvid_dask.store import Transaction, View

__all__ = [
    "ADOPTED",
    "AdoptedSpace",
    "AdoptedTxSpace",
    "Adoption",
    "base_at",
    "edited",
    "edited_in",
    "edited_keys",
    "note_adoption",
    "note_blocks",
    "remade",
    "shown",
]

ADOPTED = b"A"
HIDDEN = b"\0"
"""Stands in the tree for a block that was deleted and that the base has."""

_LOCAL = 0x3F  # the bits of a block's code that say which it is of the 64 of its note
_CACHE_BYTES = 64 << 20
_READ_VOXELS = 1 << 24
_NONE = np.empty((0, 3), np.int64)
_AFTER_BLOCKS = bytes([keys.BLOCK[0] + 1])
_SPARSE = 4  # blocks are read one by one where the box around them has this many times as many


class Adoption(msgspec.Struct, frozen=True):
    """What a version knows of the base.

    Attributes
    ----------
    scales
        How many scales are the base's own, scale 0 among them. Coarser ones are in the tree.
    """

    scales: int = 1


def _adoption(_: bytes, value: bytes | None) -> tuple[Adoption | None, int]:
    return (None if value is None else msgspec.json.decode(value, type=Adoption)), 64


def _edits(scale: int) -> bytes:
    """Key that is there if blocks of a scale were edited."""
    return ADOPTED + bytes([255, scale])


def _bits(_: bytes, value: bytes | None) -> tuple[int, int]:
    return (0 if value is None else int.from_bytes(value, "big")), 32


def _note_of(block_key: bytes) -> bytes:
    """Key of the note that has the bit of a block."""
    return ADOPTED + block_key[1:-1] + bytes([block_key[-1] & ~_LOCAL & 0xFF])


def note_adoption(space: TxSpace, adoption: Adoption) -> None:
    """Say in this version that the base is adopted."""
    space.put(ADOPTED, msgspec.json.encode(adoption))


def note_blocks(space: TxSpace, scale: int, block_zyx: NDArray[np.integer[Any]]) -> None:
    """Note blocks of the base that hold something, beside those that are noted already."""
    notes: dict[bytes, int] = {}
    for key in keys.blocks(scale, block_zyx):
        note = _note_of(key)
        notes[note] = notes.get(note, 0) | 1 << (key[-1] & _LOCAL)
    held = space.decoded("adopted", list(notes), _bits)
    for (note, bits), old in zip(notes.items(), held, strict=True):
        space.put(note, (bits | old).to_bytes(8, "big"))


# ------------------------------------------------------------------ blocks of the base


class _Encoded:
    """Blocks of bases in stored form, those used last; for the whole process."""

    def __init__(self, limit: int) -> None:
        self._limit, self._size = limit, 0
        self._held: OrderedDict[tuple[int, bytes], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: tuple[int, bytes]) -> bytes | None:
        with self._lock:
            found = self._held.get(name)
            if found is not None:
                self._held.move_to_end(name)
            return found

    def put(self, name: tuple[int, bytes], value: bytes) -> None:
        with self._lock:
            if name not in self._held:
                self._held[name] = value
                self._size += len(value) + 100
            while self._size > self._limit:
                _, old = self._held.popitem(last=False)
                self._size -= len(old) + 100


_encoded = _Encoded(_CACHE_BYTES)


_names: dict[tuple[Base, Point], int] = {}
_numbers = itertools.count()


def _name_of(base: Base, block_shape: Point) -> int:
    """A number for the blocks of a base: short, as one goes with each block."""
    return _names.setdefault((base, block_shape), next(_numbers))


def base_blocks(base: Base, layout: Layout, block_keys: Sequence[bytes]) -> list[bytes]:
    """Blocks of the base, by their keys, as they would be stored."""
    name = _name_of(base, layout.block_shape)
    found = {key: value for key in block_keys if (value := _encoded.get((name, key))) is not None}
    missing = [key for key in block_keys if key not in found]
    by_scale: dict[int, list[bytes]] = {}
    for key in missing:
        by_scale.setdefault(key[1], []).append(key)
    for scale, wanted in by_scale.items():
        coords = keys.blocks_of(wanted).astype(np.int64)
        for part in _cells(base, layout, scale, coords):
            for i, value in zip(part.tolist(), _encode(base, layout, scale, coords[part]), strict=True):
                found[wanted[i]] = value
                _encoded.put((name, wanted[i]), value)
    return [found[key] for key in block_keys]


def _cells(base: Base, layout: Layout, scale: int, coords: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Numbers of blocks that are read together: those in the same chunks of the base, a piece of memory at most."""
    cell = [max(1, -(-c // b)) for c, b in zip(chunk_of(base, scale), layout.block_shape, strict=True)]
    voxels = int(np.prod(layout.block_shape))
    while voxels * cell[0] * cell[1] * cell[2] > _READ_VOXELS and max(cell) > 1:
        longest = cell.index(max(cell))
        cell[longest] = -(-cell[longest] // 2)
    _, where = numbered_rows(coords // np.array(cell))
    order = np.argsort(where.reshape(-1), kind="stable")
    cuts = np.flatnonzero(np.diff(where.reshape(-1)[order])) + 1
    parts = []
    for part in np.split(order, cuts):
        around = (np.ptp(coords[part], axis=0) + 1).prod()
        parts += np.split(part, len(part)) if around > _SPARSE * len(part) else [part]
    return parts


def chunk_of(base: Base, scale: int) -> Point:
    """Boxes of this shape are cheap to read."""
    level = base.level(scale)
    return base.chunk if level is None else level.shape.chunk


def _encode(base: Base, layout: Layout, scale: int, coords: NDArray[np.int64]) -> list[bytes]:
    """Read the box around blocks; the blocks, encoded."""
    shape = np.array(layout.block_shape)
    first = coords.min(axis=0)
    whole = Box.of(first * shape, (coords.max(axis=0) + 1) * shape)
    voxels = base.read_box(scale, whole.start, whole.shape, np.uint64)

    def encode(block: NDArray[np.int64]) -> bytes:
        at = Box.of(block * shape, (block + 1) * shape).relative(whole.start)
        return compress(label_blocks.encode_blocks(voxels[at.slices()], layout.block_shape)[0])

    return parallel(encode, list(coords), grain=1)


# ------------------------------------------------------------------ spaces


class _Through:
    """What both spaces do with the keys of blocks. The other keys go to the tree as always."""

    __slots__ = ()
    base: Base
    layout: Layout

    def _tree(self) -> Any:
        """The same space without the base."""
        return super()

    def adoption(self) -> Adoption | None:
        """What this version knows of the base; None: nothing."""
        return self._tree().decoded("adoption", [ADOPTED], _adoption)[0]  # type: ignore[no-any-return]

    def _of_base(self, block_keys: Sequence[bytes]) -> list[bool]:
        """Which blocks the base has."""
        adoption = self.adoption()
        if adoption is None:
            return [False] * len(block_keys)
        notes = sorted({_note_of(k) for k in block_keys if k[1] < adoption.scales})
        bits = dict(zip(notes, self._tree().decoded("adopted", notes, _bits), strict=True))
        return [bool(bits.get(_note_of(k), 0) >> (k[-1] & _LOCAL) & 1) for k in block_keys]

    def get(self, key: bytes) -> bytes | None:
        return self.get_many([key])[0]

    def get_many(self, wanted: Sequence[bytes]) -> list[bytes | None]:
        values: list[bytes | None] = self._tree().get_many(wanted)
        absent = [i for i, (k, v) in enumerate(zip(wanted, values, strict=True)) if v is None and _is_block(k)]
        if absent:
            there = self._of_base([wanted[i] for i in absent])
            of_base = [i for i, has in zip(absent, there, strict=True) if has]
            made = base_blocks(self.base, self.layout, [wanted[i] for i in of_base])
            for i, value in zip(of_base, made, strict=True):
                values[i] = value
        return [None if v == HIDDEN and _is_block(k) else v for k, v in zip(wanted, values, strict=True)]

    def tree_many(self, block_keys: Sequence[bytes]) -> list[bytes | None]:
        """Values in the tree alone, `HIDDEN` among them."""
        return self._tree().get_many(block_keys)  # type: ignore[no-any-return]

    def tree_keys(self, prefix: bytes) -> Iterator[bytes]:
        """Keys in the tree alone, those of hidden blocks among them."""
        return self._tree().keys(prefix)  # type: ignore[no-any-return]

    def keys(self, prefix: bytes = b"", start: bytes | None = None, stop: bytes | None = None) -> Iterator[bytes]:
        if prefix and not _is_block(prefix):
            return self._tree().keys(prefix, start, stop)  # type: ignore[no-any-return]
        return (key for key, _ in self._merged(prefix, start, stop))

    def scan(
        self, prefix: bytes = b"", start: bytes | None = None, stop: bytes | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        if prefix and not _is_block(prefix):
            yield from self._tree().scan(prefix, start, stop)
            return
        for batch in batches(self._merged(prefix, start, stop), 256):
            fresh = [key for key, value in batch if value is None]
            made = dict(zip(fresh, base_blocks(self.base, self.layout, fresh), strict=True))
            for key, value in batch:
                yield key, made[key] if value is None else value

    def _merged(self, prefix: bytes, start: bytes | None, stop: bytes | None) -> Iterator[tuple[bytes, bytes | None]]:
        """Keys of tree and base in order, with the values of those in the tree."""
        tree = ((key, value) for key, value in self._tree().scan(prefix, start, stop))
        base = ((key, None) for key in self._base_keys(prefix, start, stop))
        last = b""
        for key, value in heapq.merge(tree, base, key=itemgetter(0)):  # of equal keys the tree's comes first
            if key != last and value != HIDDEN:
                yield key, value
            last = key

    def _base_keys(self, prefix: bytes, start: bytes | None, stop: bytes | None) -> Iterator[bytes]:
        low, high = max(prefix, start or b""), prefix_stop(prefix)
        high = stop if high is None or (stop is not None and stop < high) else high
        adoption = self.adoption()
        for scale in range(0 if adoption is None else adoption.scales):
            blocks = keys.scale_prefix(scale)
            end = prefix_stop(blocks)
            if (high is not None and high <= blocks) or (end is not None and end <= low):
                continue
            first = None if low <= blocks else _note_of(low.ljust(14, b"\0")[:14])
            for note, value in self._tree().scan(ADOPTED + blocks[1:], first, None):
                bits = int.from_bytes(value, "big")
                head = keys.BLOCK + note[1:-1]
                for n in range(64):
                    if bits >> n & 1:
                        key = head + bytes([note[-1] | n])
                        if high is not None and key >= high:
                            return
                        if key >= low:
                            yield key


def _is_block(key: bytes) -> bool:
    return key[:1] == keys.BLOCK


class AdoptedSpace(_Through, Space):
    """A pinned state of a labelmap with a base."""

    __slots__ = ("base", "layout")

    def __init__(self, reader: View, prefix: bytes, base: Base, layout: Layout) -> None:
        super().__init__(reader, prefix)
        self.base, self.layout = base, layout

    def __reduce__(self) -> tuple[Any, ...]:
        return AdoptedSpace, (self._reader, self.prefix, self.base, self.layout)


class AdoptedTxSpace(_Through, TxSpace):
    """A labelmap with a base inside a transaction."""

    __slots__ = ("base", "layout")

    def __init__(self, reader: Transaction, prefix: bytes, base: Base, layout: Layout) -> None:
        super().__init__(reader, prefix)
        self.base, self.layout = base, layout

    def put(self, key: bytes, value: bytes) -> None:
        """Set a key; a block hides that of the base.

        Raises
        ------
        Conflict
            If it is a block, and this version doesn't know the base.
        """
        self.put_many([(key, value)])

    def put_many(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Set many keys, as `put`."""
        listed = list(items)
        if any(_is_block(key) for key, _ in listed) and self.adoption() is None:
            raise Conflict(
                "this version doesn't show the adopted volume: it is being adopted, or was adopted in another version; "
                "voxels can't be written here"
            )
        super().put_many(listed)
        self._note_edits(listed)

    def _note_edits(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        for scale in {key[1] for key, _ in items if _is_block(key)}:
            if super().get(_edits(scale)) is None:
                super().put(_edits(scale), b"1")

    def delete(self, key: bytes) -> None:
        """Remove a key; a block that the base has is hidden."""
        if _is_block(key) and self._of_base([key])[0]:
            super().put(key, HIDDEN)
            self._note_edits([(key, HIDDEN)])
        else:
            super().delete(key)

    def delete_range(self, start: bytes, stop: bytes) -> None:
        """Remove all keys in [start, stop); blocks one by one."""
        if start < _AFTER_BLOCKS and stop > keys.BLOCK:
            self._delete_each(self.keys(b"", start, stop))
        else:
            super().delete_range(start, stop)

    def delete_prefix(self, prefix: bytes) -> None:
        """Remove all keys that begin with `prefix`; blocks one by one."""
        if not prefix or _is_block(prefix):
            self._delete_each(self.keys(prefix))
        else:
            super().delete_prefix(prefix)

    def _delete_each(self, doomed: Iterator[bytes]) -> None:
        for key in list(doomed):
            self.delete(key)


# ------------------------------------------------------------------ for the few who have to tell tree and base apart


def base_at(space: AnySpace, scale: int) -> Base | None:
    """The base that blocks of a scale come from, where the tree hasn't them; None if they all lie in the tree."""
    if not isinstance(space, _Through):
        return None
    adoption = space.adoption()
    return space.base if adoption is not None and scale < adoption.scales else None


def edited_in(space: AnySpace, scale: int, cells: Box) -> NDArray[np.int64] | None:
    """Blocks (n, 3) of a box of blocks that lie in the tree or are hidden there, from memory; None: look for them."""
    if isinstance(space, AdoptedSpace):
        known = written_blocks(space, _edits(scale), keys.scale_prefix(scale), keys.blocks_of)
        return _NONE if known is None else known.inside(space.view, cells)
    if isinstance(space, AdoptedTxSpace) and space.get(_edits(scale)) is None:
        return _NONE
    return None


def edited(space: AnySpace, block_keys: Sequence[bytes]) -> list[bytes | None]:
    """Values of blocks as they lie in the tree: None for those that only the base has, `HIDDEN` for deleted ones."""
    return space.tree_many(block_keys) if isinstance(space, _Through) else space.get_many(block_keys)


def shown(value: bytes) -> bool:
    """Whether a value of `edited` is a block, not one that was deleted."""
    return value != HIDDEN


def edited_keys(space: AnySpace, scale: int) -> Iterator[bytes]:
    """Keys of the blocks of a scale that lie in the tree, or are hidden there."""
    prefix = keys.scale_prefix(scale)
    return space.tree_keys(prefix) if isinstance(space, _Through) else space.keys(prefix)


def remade(space: AnySpace, scale: int, block_keys: Sequence[bytes]) -> list[bool]:
    """Which coarse blocks have to be made anew from all finer ones when some of those change.

    Those that are the base's: it may have made them by another rule than ours.
    """
    if base_at(space, scale) is None:
        return [False] * len(block_keys)
    return [value is None for value in edited(space, block_keys)]
