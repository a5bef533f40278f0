"""A long JSON list or object in parts, so that it is never decoded whole.

What is found are the places between items, by brackets and quotes alone: whether the parts are JSON is for who decodes
them. RFC 8259.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ._bytes import Buffer, as_uint8
from ._json_kernels import BAD, walk
from .errors import FormatError

__all__ = ["JsonParts", "split"]

_SPACE = b" \t\n\r"
_NEAR = 64  # bytes among which one that is no space mostly is


@dataclass(frozen=True)
class JsonParts:
    """The parts of a list or object.

    Attributes
    ----------
    items
        How many items, or pairs of name and value, all have.
    """

    items: int
    _data: memoryview
    _edges: list[int]

    @property
    def is_list(self) -> bool:
        """Whether it is a list; else it is an object."""
        return self._data[self._edges[0]] == ord("[")

    @property
    def longest(self) -> int:
        """Bytes of the longest part."""
        return max(b - a + 1 for a, b in itertools.pairwise(self._edges))

    def __iter__(self) -> Iterator[bytes]:
        """Each part as a list or object of its own; all of it where there is only one."""
        data = self._data
        first, close = (bytes(data[at : at + 1]) for at in (self._edges[0], self._edges[-1]))
        for a, b in itertools.pairwise(self._edges):
            if len(self._edges) > 2 and not self._filled(a + 1, b):
                yield first + b"," + close  # nothing between two commas: no JSON
            else:
                yield b"".join((first, data[a + 1 : b], close))

    def _filled(self, start: int, stop: int) -> bool:
        """Whether there is anything but space."""
        near = min(stop, start + _NEAR)
        return bool(bytes(self._data[start:near]).strip(_SPACE) or bytes(self._data[near:stop]).strip(_SPACE))


def split(data: Buffer, every: int) -> JsonParts:
    """Cut a JSON list or object into parts of so many items.

    Parameters
    ----------
    data
        All of it.
    every
        Items of a part.

    Raises
    ------
    FormatError
        If it doesn't begin and end as one.

    Examples
    --------
    >>> parts = split(b'[1, [2, 3], "4,5"]', 2)
    >>> parts.items, list(parts)
    (3, [b'[1, [2, 3]]', b'[ "4,5"]'])
    >>> list(split(b'{"a": 1}', 2))
    [b'{"a": 1}']
    """
    view = memoryview(data).cast("B")
    start = 0
    while start < len(view) and view[start] in _SPACE:
        start += 1
    if start == len(view) or view[start] not in b"[{":
        raise FormatError("no JSON list or object: it doesn't begin with a bracket or brace")
    ends = np.empty((len(view) - start) // (2 * every) + 1, np.int64)
    items, noted, end = walk(as_uint8(view[start:]), every, ends)
    if items == BAD:
        raise FormatError("the JSON list or object doesn't end")
    if bytes(view[start + end + 1 :]).strip(_SPACE):
        raise FormatError("there is more behind the JSON list or object")
    return JsonParts(int(items), view, [start, *(ends[:noted] + start).tolist(), start + int(end)])
