"""Whether lists of bodies and tags are what elements and segmentation say, in memory bounded by a list's positions.

A list is right if it has as many elements as belong to it, none twice, and each of them lies where the list says and is
as its block has it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, cast

import numpy as np

from dvid_dask.datatypes.annotation import keys
from dvid_dask.datatypes.annotation.blocks import elements_at, scan_blocks
from dvid_dask.datatypes.annotation.edits import equal
from dvid_dask.datatypes.annotation.elements import Elements, find
from dvid_dask.datatypes.annotation.errors import DamagedListError
from dvid_dask.datatypes.annotation.filing import tag_pairs
from dvid_dask.datatypes.annotation.lists import Lists, Record, place_of
from dvid_dask.formats.distinct import distinct, distinct_rows, is_among

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dvid_dask.versions.space import Space, TxSpace

    AnySpace = Space | TxSpace
    Ids = NDArray[np.uint64]
    Located = Callable[[NDArray[np.int32]], tuple[Ids, Ids]]
    Wrong = tuple[bytes, str]

__all__ = ["verify"]

_PART = 1 << 16  # elements that are looked up together


def verify(space: AnySpace, shape: Sequence[int], located: Located | None) -> Iterator[Wrong]:
    """Lists that are wrong: the key of each, once, and in words what is wrong.

    Parameters
    ----------
    space
        The annotation.
    shape
        Voxels of its blocks (z, y, x).
    located
        Gives bodies and supervoxels at positions; None if nothing is followed: then lists of bodies aren't looked at.
    """
    bodies, tags = _expected(space, located)
    told: set[bytes] = set()
    if located is not None:
        check = _Check(space, shape, Lists(space, keys.label), lambda _, e: located(e.zyx))
        for key, text in check(keys.LABEL, keys.label_of, bodies):
            if key not in told:
                told.add(key)
                yield key, f"the list of body {keys.label_of(key)}: {text}"
    names = list(tags)
    number = {name: i for i, name in enumerate(names)}

    def place(numbers: Ids, elements: Elements) -> tuple[Ids, Ids]:
        return _tagged(names, numbers, elements), place_of(elements.zyx)

    check = _Check(space, shape, Lists(space, keys.tag), place)
    expected = {number[name]: n for name, n in tags.items()}

    def number_of(key: bytes) -> int:
        name = keys.tag_of(key)
        if name not in number:
            number[name] = len(names)
            names.append(name)
        return number[name]

    for key, text in check(keys.TAG, number_of, expected, key_of=lambda n: keys.tag(names[n])):
        if key not in told:
            told.add(key)
            yield key, f"the list of tag {keys.tag_of(key)!r}: {text}"


def _expected(space: AnySpace, located: Located | None) -> tuple[dict[int, int], dict[str, int]]:
    """How many elements belong to each body, and to each tag."""
    bodies: Counter[int] = Counter()
    tags: Counter[str] = Counter()
    for _, held, _ in scan_blocks(space):
        if located is not None:
            found, n = np.unique(located(held.zyx)[0], return_counts=True)
            bodies.update(dict(zip(found.tolist(), n.tolist(), strict=True)))
        known: dict[str, int] = {}
        numbers, _ = tag_pairs(held.tags, known)
        counts = np.bincount(numbers, minlength=len(known)).tolist()
        tags.update({name: counts[i] for name, i in known.items() if counts[i]})
    bodies.pop(0, None)
    return dict(bodies), dict(tags)


def _tagged(names: list[str], numbers: Ids, elements: Elements) -> Ids:
    """The number of the list for elements that have its tag; another one for those that don't."""
    known = {name: i for i, name in enumerate(names)}
    tag, element = tag_pairs(elements.tags, known)
    wide = len(elements) + 1
    has = is_among(numbers.astype(np.int64) * wide + np.arange(len(elements)), tag * wide + element)
    return np.where(has, numbers, np.uint64(2**64 - 1))


class _Check:
    """Lists of one class; `place` gives the list and the key that elements ought to have."""

    def __init__(
        self,
        space: AnySpace,
        shape: Sequence[int],
        lists: Lists,
        place: Callable[[Ids, Elements], tuple[Ids, Ids]],
    ) -> None:
        self._space = space
        self._shape = shape
        self._lists = lists
        self._place = place

    def __call__(
        self,
        prefix: bytes,
        number_of: Callable[[bytes], int],
        expected: dict[int, int],
        key_of: Callable[[int], bytes] = keys.label,
    ) -> Iterator[Wrong]:
        left = dict(expected)
        waiting: list[tuple[int, Elements]] = []
        size = 0
        for key, value in self._space.scan(prefix):
            number = number_of(key)
            record = Record.decode(value)
            wanted = left.pop(number, 0)
            if (n := int(record.counts.sum())) != wanted:
                yield key, f"it has {n} elements, but {wanted} are expected"
                continue
            try:
                for part in self._parts(record):
                    waiting.append((number, part))
                    size += len(part)
                    if size >= _PART:
                        yield from self._look(waiting, key_of)
                        waiting, size = [], 0
            except (DamagedListError, _WrongList) as error:
                yield key, str(error)
        yield from self._look(waiting, key_of)
        for number in left:
            yield key_of(number), f"there is none, but {left[number]} elements are expected in it"

    def _parts(self, record: Record) -> Iterator[Elements]:
        """The elements of a list; what its directory says is checked on the way."""
        counts = record.inline.counts()
        positions = [record.inline.zyx]
        if len(record.inline):
            yield record.inline
        low, high = record.directory.table[2], record.directory.table[3]
        for row, page in self._lists.pages(record.directory):
            if ((page.key < low[row]) | (page.key > high[row])).any():
                raise _WrongList("a page has keys beyond those that its directory says")
            counts += page.counts()
            positions.append(page.zyx)
            yield page
        if (counts != record.counts).any():
            raise _WrongList("its directory counts other kinds than its pages have")
        zyx = np.concatenate(positions)
        if len(distinct_rows(zyx)) < len(zyx):
            raise _WrongList("it has an element twice")

    def _look(self, parts: list[tuple[int, Elements]], key_of: Callable[[int], bytes]) -> Iterator[Wrong]:
        if not parts:
            return
        number = np.repeat(np.array([n for n, _ in parts], np.uint64), [len(part) for _, part in parts])
        listed = Elements.join([part for _, part in parts])
        held = elements_at(self._space, listed.zyx, self._shape)
        at = find(held.zyx, listed.zyx)
        yield from self._name(number[at < 0], "it has elements that their blocks don't have", key_of)
        there = np.flatnonzero(at >= 0)
        number, listed, held = number[there], listed[there], held[at[there]]
        belongs, key = self._place(number, held)
        yield from self._name(number[belongs != number], "it has elements that don't belong to it", key_of)
        yield from self._name(number[key != listed.key], "elements are under other keys than theirs", key_of)
        same = equal(held.listed(key, empties=True), listed.listed(key, empties=True))
        yield from self._name(number[~same], "it has elements otherwise than their blocks", key_of)

    @staticmethod
    def _name(numbers: Ids, text: str, key_of: Callable[[int], bytes]) -> Iterator[Wrong]:
        for number in distinct(numbers).tolist():
            yield key_of(cast("int", number)), text


class _WrongList(Exception):  # noqa: N818  a finding, not a failure
    """What a list says of itself is wrong."""
