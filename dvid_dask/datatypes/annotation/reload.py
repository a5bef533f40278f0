"""Making the lists of bodies and tags anew, from the elements in blocks and the segmentation."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dvid_dask.datatypes.annotation import keys
from dvid_dask.datatypes.annotation.blocks import in_blocks, new_blocks, scan_blocks
from dvid_dask.datatypes.annotation.elements import Elements
from dvid_dask.datatypes.annotation.filing import Filing, tag_pairs
from dvid_dask.datatypes.annotation.lists import PageNumbers, new_lists, place_of
from dvid_dask.errors import BadRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.versions.space import Space, TxSpace

    AnySpace = Space | TxSpace

__all__ = [
    "MOST",
    "TooManyElementsError",
    "all_elements",
    "clear_lists",
    "given_lists",
    "new_label_lists",
    "new_tag_lists",
    "whole",
]

MOST = 4_000_000
"""Elements whose lists are made anew in one commit; of more it is a job for Dask."""

_CLASSES = (keys.LABEL, keys.TAG, keys.PAGE, keys.GIVEN)


class TooManyElementsError(BadRequest):
    """More elements than have their lists made anew in one commit."""


def all_elements(space: AnySpace) -> Elements:
    """The elements of all blocks.

    Raises
    ------
    TooManyElementsError
        If there are more than `MOST`.
    """
    parts, n = [], 0
    for _, held, _ in scan_blocks(space):
        parts.append(held)
        n += len(held)
        if n > MOST:
            raise TooManyElementsError(
                f"more than {MOST:,} elements: have their lists made anew by Dask, with ops.reload_elements"
            )
    return Elements.join(parts)


def new_label_lists(
    elements: Elements, bodies: NDArray[np.uint64], supervoxels: NDArray[np.uint64], numbers: PageNumbers
) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of the lists of many bodies, whole; nothing is read.

    Parameters
    ----------
    elements
        In any order: all that these bodies have.
    bodies, supervoxels
        uint64 (n,): what each lies in. Elements of body 0 are left out.
    numbers
        Numbers for pages.
    """
    order = np.lexsort((supervoxels, bodies))
    order = order[bodies[order] != 0]
    bodies = bodies[order]
    starts = np.flatnonzero(np.r_[True, bodies[1:] != bodies[:-1]]) if len(bodies) else np.empty(0, np.int64)
    list_keys = [keys.label(b) for b in bodies[starts].tolist()]
    listed = elements[order].listed(supervoxels[order])
    return new_lists(listed, np.append(starts, len(bodies)), list_keys, numbers)


def new_tag_lists(
    elements: Elements, numbers: PageNumbers, *, only: Collection[str] | None = None
) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of the lists of all tags that elements have, whole; nothing is read.

    Parameters
    ----------
    elements
        In any order: all that have these tags.
    numbers
        Numbers for pages.
    only
        Tags; all by default.
    """
    tags: dict[str, int] = {}
    number, element = tag_pairs(elements.tags, tags)
    if only is not None:
        wanted = np.array([name in only for name in tags], np.bool_)
        number, element = number[wanted[number]], element[wanted[number]]
    place = place_of(elements.zyx)
    order = np.lexsort((place[element], number))
    element, number = element[order], number[order]
    names = list(tags)
    borders = np.searchsorted(number, np.arange(len(names) + 1))
    listed = elements[element].listed(place[element], empties=True)
    return new_lists(listed, borders, [keys.tag(name) for name in names], numbers)


def clear_lists(space: TxSpace) -> None:
    """Remove all lists."""
    for prefix in _CLASSES:
        space.delete_prefix(prefix)


def whole(space: TxSpace, filing: Filing, shape: Sequence[int], *, recut: bool) -> None:
    """Make all lists anew; with `recut` the blocks too, for blocks of another shape."""
    elements = all_elements(space)
    if recut:
        space.delete_prefix(keys.BLOCK)
        space.put_many(new_blocks(elements, shape))
    clear_lists(space)
    bodies, supervoxels = filing.located(elements.zyx)
    space.put_many(new_label_lists(elements, bodies, supervoxels, filing.numbers))
    space.put_many(new_tag_lists(elements, filing.numbers))


def given_lists(space: AnySpace) -> Iterator[int]:
    """Bodies whose lists were stored as given."""
    return (keys.label_of(key) for key in space.keys(keys.GIVEN))


def renew_given(space: TxSpace, filing: Filing, shape: Sequence[int], blocks_of_body: Sequence[NDArray[np.int32]],
                body: int) -> None:  # fmt: skip
    """Make the list of a body anew that was stored as given, from the elements in its blocks."""
    for elements in filing.labels.scan(body):
        filing.tally.add(body, elements, -1)
    parts = []
    for blocks in blocks_of_body:
        held, _ = in_blocks(space, blocks)
        bodies, supervoxels = filing.located(held.zyx)
        mine = bodies == np.uint64(body)
        parts.append(held[mine].listed(supervoxels[mine]))
    anew = Elements.join(parts)
    filing.labels.replace(body, anew, given=False)
    filing.tally.add(body, anew, 1)
