"""What instances tell those that follow them, inside the commit of the change.

This is the whole of how datatypes know of each other. An instance whose data follow from another's syncs with it
(`Datatype.set_syncs`), names the types it can follow in `Datatype.sync_partners`, and has one method,
`Datatype.on_event`. That is called with the mutation and an event of this module, once the change that the event tells
of is in the mutation's transaction. What it writes there through `Mutation.space` is part of the same commit; what it
raises undoes the mutation. It tells events apart by their class and passes over those that it doesn't know.

=========================  ===========================================================
told by a labelmap
======================================================================================
`BlocksWritten`            voxels were replaced
`BodiesMerged`             bodies became part of another
`BodyCleaved`              supervoxels of a body became a body of their own
`BodyRenumbered`           a body got another id
`SupervoxelsSplit`         supervoxels were cut in two
`SupervoxelsJoined`        they became one again: a split that is taken back
`SupervoxelsMoved`         supervoxels went from bodies to others: part of a bulk change
=========================  ===========================================================

A labelarray tells `BlocksWritten` of a split and, of a merge, `BodiesMerged` followed by `SupervoxelsJoined`: its
bodies are supervoxels themselves. A labelblk tells `BlocksWritten`, whatever it was that changed its voxels; so does a
labelvol, to all but its labelblk.

=========================  ===========================================================
told by a labelvol, to the labelblk with its voxels
======================================================================================
`LabelsMerged`             a label takes the place of others in some blocks
`LabelSplit`               voxels get another label
`LabelSplitCoarse`         all voxels of a label in some blocks get another one
=========================  ===========================================================

=========================  ===========================================================
told by an annotation
======================================================================================
`ElementsFiled`            bodies have more or fewer elements of a kind
`ListsReplaced`            all lists were made anew
=========================  ===========================================================

A mutation may tell several events, one after the other. The voxels and the mapping that a subscriber reads are those
after the whole mutation (`Mutation.reading`) or before it (`Mutation.before`); what happens between two events of one
mutation is in the events alone. Bodies and supervoxels are uint64, coordinates (z, y, x), blocks those of scale 0 in
the block shape of who tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "KINDS",
    "BlocksWritten",
    "BodiesMerged",
    "BodyCleaved",
    "BodyRenumbered",
    "ElementsFiled",
    "FiledPart",
    "LabelSplit",
    "LabelSplitCoarse",
    "LabelsMerged",
    "ListsReplaced",
    "SupervoxelsJoined",
    "SupervoxelsMoved",
    "SupervoxelsSplit",
]

# ------------------------------------------------------------------ of a labelmap


@dataclass(frozen=True)
class BlocksWritten:
    """Voxels of these blocks were replaced."""

    mutation: int
    block_zyx: NDArray[np.int32]


@dataclass(frozen=True)
class BodiesMerged:
    """Bodies became part of another."""

    mutation: int
    target: int
    merged: tuple[int, ...]


@dataclass(frozen=True)
class BodyCleaved:
    """Supervoxels of a body became a body of their own."""

    mutation: int
    body: int
    cleaved: int
    supervoxels: NDArray[np.uint64]


@dataclass(frozen=True)
class BodyRenumbered:
    """A body got another id."""

    mutation: int
    old: int
    new: int


@dataclass(frozen=True)
class SupervoxelsSplit:
    """Supervoxels of a body were cut in two; both parts are the body's. uint64 (n,) each, runs as x, y, z, length.

    A split of a body comes as this, followed by a `BodyCleaved` of the parts under the runs.
    """

    mutation: int
    body: int
    old: NDArray[np.uint64]
    split: NDArray[np.uint64]
    remain: NDArray[np.uint64]
    runs: NDArray[np.int32]


@dataclass(frozen=True)
class SupervoxelsJoined:
    """The parts of split supervoxels of a body became one again."""

    mutation: int
    body: int
    old: NDArray[np.uint64]
    split: NDArray[np.uint64]
    remain: NDArray[np.uint64]


@dataclass(frozen=True)
class SupervoxelsMoved:
    """Supervoxels went from bodies to others, of which some may be new: part of a bulk change."""

    mutation: int
    supervoxels: NDArray[np.uint64]
    old: NDArray[np.uint64]
    new: NDArray[np.uint64]


# ------------------------------------------------------------------ of a labelvol


@dataclass(frozen=True)
class LabelsMerged:
    """In these blocks a label takes the place of others."""

    mutation: int
    target: int
    merged: tuple[int, ...]
    block_zyx: NDArray[np.int32]


@dataclass(frozen=True)
class LabelSplit:
    """The voxels under runs, int32 (n, 4) x, y, z, length, get another label."""

    mutation: int
    old: int
    new: int
    runs: NDArray[np.int32]


@dataclass(frozen=True)
class LabelSplitCoarse:
    """All voxels of a label in these blocks get another one."""

    mutation: int
    old: int
    new: int
    block_zyx: NDArray[np.int32]


# ------------------------------------------------------------------ of an annotation


KINDS: Final = ("Unknown", "PostSyn", "PreSyn", "Gap", "Note")
"""Kinds of elements; a kind's number is its place here."""


class FiledPart(NamedTuple):
    """Some elements that bodies gained or lost.

    Attributes
    ----------
    label
        uint64 (n,): the body of each.
    kind
        uint8 (n,): a place in `KINDS`.
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
        uint8 (n,): a place in `KINDS`. Each (body, kind) comes once.
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
