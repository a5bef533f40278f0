"""Bringing what others did to a version into a branch on which elements or lists were changed in many commits.

Lists and counts are not merged: they follow. What others did to the segmentation meanwhile is known from the
difference of two of its states: blocks whose voxels are others, and supervoxels that are other bodies'. The branch
takes that over, and its lists follow, as they follow any edit. What others did to elements is done on the branch too.
So it costs what was changed, not what there is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from dvid_dask.datatypes import events
from dvid_dask.datatypes.annotation import keys, state
from dvid_dask.datatypes.annotation.blocks import block_of, in_blocks
from dvid_dask.datatypes.annotation.edits import replace_blocks
from dvid_dask.datatypes.annotation.elements import find
from dvid_dask.datatypes.annotation.filing import Filing
from dvid_dask.datatypes.annotation.merging import changed_elements, merged_elements
from dvid_dask.errors import Conflict
from dvid_dask.formats.distinct import distinct_rows
from dvid_dask.store import diff

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.datatypes.annotation.reads import Reads
    from dvid_dask.datatypes.base import Datatype, Mutation, TxSpace
    from dvid_dask.store import View

    Ids = NDArray[np.uint64]
    Update = Callable[[Callable[[Mutation, TxSpace], Any]], Any]

__all__ = ["CatchUp"]

T = TypeVar("T")

_KEYS = 256  # looked at together
_BLOCKS = 1024
_PREFIX = 9  # length of an instance's prefix


def _everybody(_: Datatype) -> bool:
    return True


@dataclass(frozen=True)
class CatchUp:
    """What brings a branch of an annotation's tree up to a newer state.

    Parameters
    ----------
    annotation
        At its version; the lists of the branch are in line with the segmentation as the branch has it.
    shape
        Voxels of a block (z, y, x) on the branch.
    to
        Which followers are told of what moves; what the others have is made anew at the end.
    ours
        Whether elements that both sides changed stay as the branch has them; else they are a conflict.

    Raises
    ------
    Conflict
        Where both sides changed the same in ways that contradict each other.
    """

    annotation: Reads
    shape: Sequence[int]
    to: Callable[[Datatype], bool] = field(default=_everybody)
    ours: bool = False

    def __call__(self, update: Update, old: View, new: View) -> None:
        """Bring what happened between two states of the tree into the branch, which has what happened before them."""
        annotation = self.annotation
        blocks = list(_parts(self._take_over(update, old, new), _KEYS))
        source: Any = annotation.source
        if source is not None and self._shares_tree(source):
            before, after = source.space_in(old), source.space_in(new)
            # blocks first: what lies in them is then where it belongs, and what moves with a supervoxel is the rest
            for written in source.written_between(before, after):
                update(partial(self._file, before=before, do=partial(_rewritten, block_zyx=written)))
            for moved in source.moved_between(before, after):
                update(partial(self._file, before=before, do=partial(_moved, moved=moved)))
        for part in blocks:
            update(partial(self._elements, part=part, old=old, new=new))

    def _shares_tree(self, other: Datatype) -> bool:
        mine = self.annotation
        return other.version.tree(other.info).name == mine.version.tree(mine.info).name

    def _file(self, m: Mutation, space: TxSpace, *, before: Any, do: Callable[[Filing, Mutation], None]) -> None:
        filing = Filing(self.annotation, m, space, self.annotation.source, self.shape, before=before)
        do(filing, m)
        filing.tell(to=self.to)

    # -------------------------------------------------------------- keys

    def _take_over(self, update: Update, old: View, new: View) -> Iterator[bytes]:
        """Take over what stands for itself; gives the keys of blocks of elements that others changed."""
        annotation = self.annotation
        mine = annotation.info.prefix
        followers = {f.info.prefix: f for f in self._followers()}
        source: Any = annotation.source
        apart = source is not None and not self._shares_tree(source)
        take: list[bytes] = []
        for change in diff(old, new):
            key, prefix = change.key, change.key[:_PREFIX]
            own = key[_PREFIX:]
            if prefix == mine and own[:1] == keys.BLOCK:
                yield own
            elif prefix == mine and annotation.is_derived(own):
                if apart:  # its lists follow in commits of their own, which nothing here knows of
                    raise Conflict(self._text("its lists followed a segmentation of another tree"))
            elif prefix == mine and own[:1] == keys.GIVEN:
                raise Conflict(self._text("lists were stored as given"))
            elif prefix == mine and own == keys.STATE:
                self._same_state(old, new)
            elif prefix in followers and followers[prefix].is_derived(own):
                continue
            elif prefix in followers and self.to(followers[prefix]):
                raise Conflict(self._text(f"{followers[prefix].name!r} was changed, which follows others too"))
            else:
                take.append(key)
                if len(take) == _KEYS:
                    update(partial(self._take, part=take, old=old, new=new))
                    take = []
        if take:
            update(partial(self._take, part=take, old=old, new=new))

    def _followers(self) -> Iterator[Datatype]:
        mine = self.annotation
        for info in mine.repo.state().instances.values():
            if mine.info.data_uuid in info.syncs:
                yield mine.version.instance(info)

    def _same_state(self, old: View, new: View) -> None:
        held = (state.read_state(self.annotation.space_in(view)) for view in (old, new))
        was, now = held
        if was is not None or now != self.annotation._wanted_state():
            raise Conflict(self._text("it was given another segmentation, or emptied"))

    def _take(self, m: Mutation, _: TxSpace, *, part: list[bytes], old: View, new: View) -> None:
        own = self.annotation.info.prefix
        columns = old.get_many(part), m.tx.get_many(part), new.get_many(part)
        for key, was, ours, theirs in zip(part, *columns, strict=True):
            if ours == theirs or (ours != was and key.startswith(own)):  # notes of what works on the branch
                continue
            if ours != was:
                raise Conflict(self._text("the same was changed beside it"))
            if theirs is None:
                m.tx.delete(key)
            else:
                m.tx.put(key, theirs)

    def _text(self, why: str) -> str:
        return (
            f"{self.annotation.name!r} was changed at this version meanwhile ({why}): nothing of it is kept, start it "
            "again"
        )

    # -------------------------------------------------------------- elements

    def _elements(self, m: Mutation, space: TxSpace, *, part: list[bytes], old: View, new: View) -> None:
        """Do to elements what others did in some blocks."""
        annotation = self.annotation
        coords = keys.blocks_of(part)
        base, _ = in_blocks(annotation.space_in(old), coords)
        theirs, _ = in_blocks(annotation.space_in(new), coords)
        come = theirs.zyx[changed_elements(base, theirs)]
        gone = base.zyx[find(theirs.zyx, base.zyx) < 0]
        blocks = distinct_rows(block_of(np.concatenate([come, gone]), self.shape))
        if not len(blocks):
            return
        mine, _ = in_blocks(space, blocks)
        after, conflicts = merged_elements(base, mine, theirs)
        if len(conflicts) and not self.ours:
            at = conflicts[0][::-1].tolist()
            raise Conflict(self._text(f"the element at {at} (x, y, z) was changed on both sides"))
        where = find(blocks, block_of(after.zyx, self.shape))
        order = np.argsort(where, kind="stable")
        borders = np.searchsorted(where[order], np.arange(len(blocks) + 1))
        filing = Filing(annotation, m, space, annotation.source, self.shape)
        replace_blocks(space, filing, blocks, after[order], borders)
        filing.tell(to=self.to)


def _rewritten(filing: Filing, _: Mutation, *, block_zyx: NDArray[np.int32]) -> None:
    filing.rewritten(block_zyx)


def _moved(filing: Filing, m: Mutation, *, moved: tuple[Ids, Ids, Ids]) -> None:
    filing.follow(events.SupervoxelsMoved(m.id, *moved))


def _parts(items: Iterable[T], size: int) -> Iterator[list[T]]:
    each = iter(items)
    while part := list(islice(each, size)):
        yield part
