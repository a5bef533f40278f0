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

_MANY = 1 << 17  # rows of sums that wait to be added up


def part_of(label: int | NDArray[np.uint64], elements: Elements, sign: int = 1) -> FiledPart:
    """Elements that one body, or one each, gained or lost."""
    n = len(elements)
    labels = np.full(n, label, np.uint64) if isinstance(label, int) else label
    return FiledPart(labels, elements.kind, np.full(n, sign, np.int8), elements.zyx)


class Tally:
    """Sums by body and kind, and where the elements themselves are to be found."""

    def __init__(self) -> None:
        self._labels: list[NDArray[np.uint64]] = []
        self._counts: list[NDArray[np.int64]] = []
        self._rows = 0
        self._parts: list[Callable[[], Iterator[FiledPart]]] = []

    def __bool__(self) -> bool:
        return bool(self._parts)

    def add(self, label: int | NDArray[np.uint64], elements: Elements, sign: int) -> None:
        """A body, or one for each, gained (1) or lost (-1) elements. Body 0 is none."""
        part = part_of(label, elements, sign)
        real = part.label != 0
        if not real.any():
            return
        if not real.all():
            part = FiledPart(*(column[real] for column in part))
        names, where = np.unique(part.label, return_inverse=True)
        at = where.reshape(-1) * len(KINDS) + part.kind
        counts = np.bincount(at, minlength=len(names) * len(KINDS)).astype(np.int64).reshape(-1, len(KINDS))
        self._count(names, sign * counts)
        self._parts.append(lambda: iter((part,)))

    def move(self, old: int, new: int, counts: NDArray[np.int64], scan: Callable[[], Iterator[Elements]]) -> None:
        """Elements went from a body to another; `scan` reads them. Body 0 is none."""
        if not counts.any() or old == new:
            return
        both = [(label, sign) for label, sign in ((old, -1), (new, 1)) if label]
        self._count(np.array([label for label, _ in both], np.uint64), np.stack([sign * counts for _, sign in both]))

        def parts() -> Iterator[FiledPart]:
            for elements in scan():
                for label, sign in both:
                    yield part_of(label, elements, sign)

        self._parts.append(parts)

    def _count(self, labels: NDArray[np.uint64], counts: NDArray[np.int64]) -> None:
        self._labels.append(labels)
        self._counts.append(counts)
        self._rows += len(labels)
        if self._rows > _MANY and len(self._labels) > 1:
            labels, counts = self._sums()
            self._labels, self._counts, self._rows = [labels], [counts], 0  # those of now don't count

    def _sums(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Bodies, each once, and what they gained or lost of each kind, (n, 5)."""
        labels = np.concatenate([*self._labels, np.empty(0, np.uint64)])
        counts = np.concatenate([*self._counts, np.empty((0, len(KINDS)), np.int64)])
        names, where = np.unique(labels, return_inverse=True)
        total = np.zeros((len(names), len(KINDS)), np.int64)
        np.add.at(total, where.reshape(-1), counts)
        return names, total

    def event(self, mutation: int) -> ElementsFiled:
        """The event that tells of it."""
        names, total = self._sums()
        at, kind = np.nonzero(total)
        return ElementsFiled(mutation, names[at], kind.astype(np.uint8), total[at, kind], self.parts)

    def parts(self) -> Iterator[FiledPart]:
        """All of it, element by element."""
        for scan in self._parts:
            yield from scan()
