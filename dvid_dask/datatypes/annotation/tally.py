"""What bodies gained and lost in one mutation: sums at once, elements when somebody asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from dvid_dask.datatypes.annotation.kinds import KINDS
from dvid_dask.datatypes.events import ElementsFiled, FiledPart

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.datatypes.annotation.elements import Elements

__all__ = ["Tally", "part_of"]


def part_of(label: int | NDArray[np.uint64], elements: Elements, sign: int = 1) -> FiledPart:
    """Elements that one body, or one each, gained or lost."""
    n = len(elements)
    labels = np.full(n, label, np.uint64) if isinstance(label, int) else label
    return FiledPart(labels, elements.kind, np.full(n, sign, np.int8), elements.zyx)


class Tally:
    """Sums by body and kind, and where the elements themselves are to be found."""

    def __init__(self) -> None:
        self._sums: dict[int, NDArray[np.int64]] = {}
        self._parts: list[Callable[[], Iterator[FiledPart]]] = []

    def __bool__(self) -> bool:
        return bool(self._parts)

    def add(self, label: int, elements: Elements, sign: int) -> None:
        """A body gained (1) or lost (-1) elements."""
        if label and len(elements):
            self._count(label, sign * elements.counts())
            self._parts.append(lambda: iter((part_of(label, elements, sign),)))

    def move(self, old: int, new: int, counts: NDArray[np.int64], scan: Callable[[], Iterator[Elements]]) -> None:
        """Elements went from a body to another; `scan` reads them. Body 0 is none."""
        if not counts.any() or old == new:
            return
        for label, sign in ((old, -1), (new, 1)):
            if label:
                self._count(label, sign * counts)

        def parts() -> Iterator[FiledPart]:
            for elements in scan():
                for label, sign in ((old, -1), (new, 1)):
                    if label:
                        yield part_of(label, elements, sign)

        self._parts.append(parts)

    def _count(self, label: int, counts: NDArray[np.int64]) -> None:
        held = self._sums.get(label)
        self._sums[label] = counts if held is None else held + counts

    def event(self, mutation: int) -> ElementsFiled:
        """The event that tells of it."""
        labels = np.repeat(np.array(list(self._sums), np.uint64), len(KINDS))
        deltas = np.concatenate([*self._sums.values(), np.empty(0, np.int64)])
        kinds = np.tile(np.arange(len(KINDS), dtype=np.uint8), len(self._sums))
        real = deltas != 0
        return ElementsFiled(mutation, labels[real], kinds[real], deltas[real], self.parts)

    def parts(self) -> Iterator[FiledPart]:
        """All of it, element by element."""
        for scan in self._parts:
            yield from scan()
