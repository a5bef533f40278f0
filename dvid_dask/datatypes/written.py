"""Which blocks of a volume lie in a tree, known in memory: for volumes whose other blocks lie elsewhere.

Who reads a box of such a volume must know whether blocks of it were written. To look for each costs as much as reading
the box. So all of them are listed once, when looking has cost as much as that, and the list follows the commits that
tell which keys they change; after others it begins anew.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from dvid_dask.boxes import Box
from dvid_dask.formats.distinct import distinct
from dvid_dask.versions.space import Space, prefix_stop

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.store import View

__all__ = ["BlockNames", "Written", "written_blocks"]

BlockNames: TypeAlias = "Callable[[Sequence[bytes]], NDArray[np.integer]]"
"""Block coordinates (n, 3; z, y, x) of keys, relative to the instance."""

LIMIT = 1 << 18
"""Most blocks that are remembered, 8 bytes each."""

_LOOK = 16
"""Keys that are listed in the time in which a box is looked up."""

_SIZE = 1 << 16  # bytes that a list counts as, before anybody knows how long it will be

_NONE = np.empty((0, 3), np.int64)


class _Blocks(NamedTuple):
    """Blocks, as numbers in the order of z, y, x within the box around all of them."""

    around: Box
    codes: NDArray[np.int64]
    layers: frozenset[int]

    @classmethod
    def _made(cls, around: Box, codes: NDArray[np.int64]) -> _Blocks:
        _, ny, nx = around.shape
        layers = distinct(codes // max(1, ny * nx)) + around.start[0]
        return cls(around, codes, frozenset(layers.tolist()))

    @classmethod
    def of(cls, blocks: NDArray[np.integer]) -> _Blocks | None:
        """Blocks (n, 3); None if the box around them has too many for numbers of 64 bits."""
        if not len(blocks):
            return cls(Box((0, 0, 0), (0, 0, 0)), np.empty(0, np.int64), frozenset())
        around = Box.of(blocks.min(axis=0).tolist(), blocks.max(axis=0).tolist())
        around = Box.of(around.start, [v + 1 for v in around.stop])
        return None if around.size >= 1 << 63 else cls._made(around, distinct(_numbers(around, blocks)))

    def changed(self, added: NDArray[np.integer], removed: NDArray[np.integer]) -> _Blocks | None:
        """The blocks after some became more and others fewer; None as for `of`."""
        codes = self.codes
        gone = removed[_within(removed, self.around)]
        if len(gone):
            codes = np.setdiff1d(codes, distinct(_numbers(self.around, gone)), assume_unique=True)
        if _within(added, self.around).all():
            codes = distinct(np.concatenate([codes, _numbers(self.around, added)])) if len(added) else codes
            return _Blocks._made(self.around, codes)
        return _Blocks.of(np.concatenate([self._unpacked(codes), added]))

    def inside(self, cells: Box) -> NDArray[np.int64]:
        """Those in a box, (n, 3) in the order of z, y, x."""
        (az, ay, ax), (bz, by, bx) = self.around
        (z0, y0, x0), (z1, y1, x1) = cells
        z0, y0, x0, z1, y1, x1 = max(z0, az), max(y0, ay), max(x0, ax), min(z1, bz), min(y1, by), min(x1, bx)
        # most boxes are not even in a layer where something was written
        if z0 >= z1 or y0 >= y1 or x0 >= x1 or self.layers.isdisjoint(range(z0, z1)):
            return _NONE
        ny, nx = by - ay, bx - ax
        rows = np.arange(y0 - ay, y1 - ay)
        if z1 - z0 > 1:
            rows = (rows + np.arange(z0 - az, z1 - az)[:, None] * ny).ravel()
        else:
            rows += (z0 - az) * ny
        rows *= nx
        first = self.codes.searchsorted(rows + (x0 - ax))
        after = self.codes.searchsorted(rows + (x1 - ax))
        if (first == after).all():
            return _NONE
        spans = zip(first.tolist(), after.tolist(), strict=True)
        return self._unpacked(np.concatenate([self.codes[a:b] for a, b in spans if a < b]))

    def _unpacked(self, codes: NDArray[np.int64]) -> NDArray[np.int64]:
        _, ny, nx = self.around.shape
        rows, x = np.divmod(codes, max(nx, 1))
        z, y = np.divmod(rows, max(ny, 1))
        blocks: NDArray[np.int64] = np.stack([z, y, x], axis=1) + np.array(self.around.start)
        return blocks


def _within(blocks: NDArray[np.integer], box: Box) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = np.all((blocks >= np.array(box.start)) & (blocks < np.array(box.stop)), axis=1)
    return inside


def _numbers(around: Box, blocks: NDArray[np.integer]) -> NDArray[np.int64]:
    _, ny, nx = around.shape
    z, y, x = (blocks.astype(np.int64) - np.array(around.start)).T
    numbers: NDArray[np.int64] = (z * ny + y) * nx + x
    return numbers


class Written:
    """The blocks of one scale that lie in a tree.

    Parameters
    ----------
    prefix
        What their keys in the tree begin with.
    cut
        Bytes of it that are the instance's.
    names
        Tells the blocks of keys.
    """

    def __init__(self, prefix: bytes, cut: int, names: BlockNames) -> None:
        self._prefix, self._cut, self._names = prefix, cut, names
        self._lock = threading.Lock()
        self._known: tuple[View, _Blocks] | None = None
        self._cost: int | None = None
        self._spent = 0

    def inside(self, view: View, cells: Box) -> NDArray[np.int64] | None:
        """Blocks in a box of blocks that lie in the tree in a state, (n, 3) in z, y, x order; None: look for them."""
        known = self._known
        if known is None or known[0] is not view:
            known = self._at(view)
            if known is None:
                return None
        return known[1].inside(cells)

    def _at(self, view: View) -> tuple[View, _Blocks] | None:
        if not self._lock.acquire(blocking=False):
            return None  # another thread makes the list: to look is faster than to wait
        try:
            known = self._known
            if known is not None:
                return known if known[0] is view else self._moved(known, view)
            return self._listed(view)
        finally:
            self._lock.release()

    def _listed(self, view: View) -> tuple[View, _Blocks] | None:
        """The list, when what was spent without one would have paid for it."""
        stop = prefix_stop(self._prefix)
        self._spent += _LOOK
        if self._cost is None or self._spent >= self._cost:
            self._cost = view.measure(self._prefix, stop).keys
        if self._spent < self._cost or self._cost > LIMIT:
            return None
        blocks = _Blocks.of(self._blocks_of(list(view.keys(self._prefix, stop))))
        if blocks is not None:
            self._known = view, blocks
        return self._known

    def _moved(self, known: tuple[View, _Blocks], view: View) -> tuple[View, _Blocks] | None:
        """The list in another state."""
        changed = view.changed_since(known[0])
        if changed is None:
            return None
        mine = [key for key in changed if key.startswith(self._prefix)]
        later = view.epoch > known[0].epoch
        if not later:
            return None if mine else known
        blocks: _Blocks | None = known[1]
        if mine:
            there = np.array([value is not None for value in view.get_many(mine)])
            new = self._blocks_of(mine)
            blocks = known[1].changed(new[there], new[~there])
        self._known = None if blocks is None else (view, blocks)
        return self._known

    def _blocks_of(self, keys: list[bytes]) -> NDArray[np.integer]:
        return self._names([key[self._cut :] for key in keys]) if keys else _NONE


def written_blocks(space: Space, mark: bytes, prefix: bytes, names: BlockNames) -> Written | None:
    """What is known of the blocks of a scale in a state of an instance; None: not one was written.

    Parameters
    ----------
    space
        The state.
    mark
        A key that is there if a block of the scale was ever written, and not removed while one is.
    prefix
        What the keys of the blocks begin with.
    names
        Tells the blocks of keys.
    """
    view, name = space.view, (space.prefix, mark)
    try:
        return view.kept[name]  # type: ignore[no-any-return]
    except KeyError:
        pass
    whole, cut = space.prefix + prefix, len(space.prefix)

    def make(_: bytes, value: bytes | None) -> tuple[Written | None, int]:
        return (None, 1) if value is None else (Written(whole, cut, names), _SIZE)

    # forgotten by itself after commits that don't say what they change
    found: Written | None = view.decoded("written blocks", [space.prefix + mark], make)[0]
    view.kept[name] = found
    return found
