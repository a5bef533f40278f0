"""What an annotation tells the instances that follow it, inside the commit of the change.

Elements are told by the body under them and by kind: what `labelsz` counts. Subscribers tell the events apart by their
class. Elements over background are in no body and aren't told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["ElementsFiled", "FiledPart", "ListsReplaced"]


class FiledPart(NamedTuple):
    """Some elements that bodies gained or lost.

    Attributes
    ----------
    label
        uint64 (n,): the body of each.
    kind
        uint8 (n,): a place in `dvid_dask.datatypes.annotation.kinds.KINDS`.
    sign
        int8 (n,): 1 for an element that the body has more, -1 for one that it has less.
    position_zyx
        int32 (n, 3): where it is, in voxels.
    """

    label: NDArray[np.uint64]
    kind: NDArray[np.uint8]
    sign: NDArray[np.int8]
    position_zyx: NDArray[np.int32]


@dataclass(frozen=True)
class ElementsFiled:
    """Bodies have other elements: by edits of elements, or of the segmentation below them.

    A merge of large bodies knows its sums without reading their elements; `parts` reads them, page by page. Whoever
    needs sums alone uses the sums.

    Attributes
    ----------
    mutation
        Id of the mutation.
    label
        uint64 (n,): a body.
    kind
        uint8 (n,): a place in `dvid_dask.datatypes.annotation.kinds.KINDS`. Each (body, kind) comes once.
    delta
        int64 (n,): how many elements of this kind it has more than before; not 0.
    parts
        The same, element by element. To be called within the commit, once. An element that left a body and came back
        to it in the same mutation may come with both signs.
    """

    mutation: int
    label: NDArray[np.uint64]
    kind: NDArray[np.uint8]
    delta: NDArray[np.int64]
    parts: Callable[[], Iterator[FiledPart]]


@dataclass(frozen=True)
class ListsReplaced:
    """All lists were made anew (a reload, a bulk load, everything deleted): what was derived from them starts over.

    Subscribers read them through `Annotation.label_counts(m.space(annotation))`, batches of (label uint64 (n,), counts
    int64 (n, 5) by kind), or `Annotation.filed_parts(m.space(annotation))`, batches of `FiledPart` of sign 1.
    """

    mutation: int
