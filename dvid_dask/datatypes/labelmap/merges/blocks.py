"""Voxels of two sides come together, block by block; voxel by voxel where both changed a block.

A voxel counts as written by a side if it holds another supervoxel than at the ancestor. That a supervoxel was cut
doesn't write its voxels: its parts go where they would had it been cut afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dvid_dask.datatypes.labelmap.blocks import Layout, compress, decompress
from dvid_dask.datatypes.labelmap.mapping import Mapping
from dvid_dask.datatypes.labelmap.threads import parallel
from dvid_dask.formats import label_blocks, label_cuts
from dvid_dask.formats.distinct import distinct, is_among

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.datatypes.labelmap.merges.sides import Sides
    from dvid_dask.datatypes.labelmap.spaces import AnySpace
    from dvid_dask.versions.meaning import MergeStep

__all__ = ["Joined", "Renaming", "join_blocks", "renaming_of"]


class _Table(NamedTuple):
    """Labels (ascending) and what they are to be called."""

    old: NDArray[np.uint64]
    new: NDArray[np.uint64]

    @classmethod
    def of(cls, names: dict[int, int]) -> _Table:
        old = np.array(sorted(names), np.uint64)
        return cls(old, np.array([names[i] for i in sorted(names)], np.uint64))

    def occurs(self, labels: NDArray[np.uint64]) -> bool:
        return bool(len(self.old)) and bool(is_among(labels, self.old).any())

    def rename(self, block: bytes) -> bytes:
        return label_blocks.normalize(label_cuts.map_labels(block, self.old, self.new))

    def applied(self, voxels: NDArray[np.uint64]) -> NDArray[np.uint64]:
        out = voxels.copy()
        if len(self.old):
            label_blocks.remap_array(out, self.old, self.new)
        return out


@dataclass(frozen=True)
class Renaming:
    """What labels become.

    Attributes
    ----------
    ours, theirs
        Of each side: supervoxels that the other side has cut become its rest; parts of theirs that can't stand, what
        they were cut from.
    our_roots, their_roots
        Of each side from the parts to what they were cut from.
    our_parts
        Parts that we alone have cut, ascending: where theirs has written such an id, it means something else.
    """

    ours: _Table
    theirs: _Table
    our_roots: _Table
    their_roots: _Table
    our_parts: NDArray[np.uint64]

    @classmethod
    def nothing(cls) -> Renaming:
        """All labels stay."""
        none = _Table.of({})
        return cls(none, none, none, none, np.empty(0, np.uint64))


def renaming_of(step: MergeStep, sides: Sides) -> Renaming:
    """What has to be renamed so that both sides speak of the same supervoxels."""
    ours, theirs = sides.cuts_ours, sides.cuts_theirs
    our_map, their_map = Mapping(step.ours), Mapping(step.theirs)
    our_rest = {root: ours.rest(root, our_map) for root in ours.roots()}
    their_rest = {root: theirs.rest(root, their_map) for root in theirs.roots() - ours.roots()}
    of_theirs = dict(our_rest)
    for part, root in sides.refused.items():
        of_theirs[part] = our_rest.get(root, root)
    for root in ours.roots() & theirs.roots():  # cut alike by both
        of_theirs.pop(root)
    their_roots = {part: theirs.root(part) for part in theirs.old} | sides.refused
    return Renaming(
        _Table.of(their_rest),
        _Table.of(of_theirs),
        _Table.of({part: ours.root(part) for part in ours.old}),
        _Table.of(their_roots),
        np.array(sorted(ours.old.keys() - theirs.old.keys()), np.uint64),
    )


@dataclass
class Joined:
    """Blocks that change on our side, and what contradicts each other.

    Attributes
    ----------
    block_zyx, values, olds
        Blocks, what to store, and what is stored; None for nothing.
    written_differently
        Block to voxels that both sides wrote, with different labels.
    cut_differently
        Supervoxels whose voxels both sides gave to different parts.
    reused
        Labels of theirs that are retired on our side, or parts that we have cut.
    """

    block_zyx: NDArray[np.int32]
    values: list[bytes | None] = field(default_factory=list)
    olds: list[bytes | None] = field(default_factory=list)
    written_differently: dict[tuple[int, int, int], int] = field(default_factory=dict)
    cut_differently: set[int] = field(default_factory=set)
    reused: set[int] = field(default_factory=set)


class _Made(NamedTuple):
    value: bytes | None
    differently: int = 0
    cut: tuple[int, ...] = ()
    reused: tuple[int, ...] = ()


class _Task(NamedTuple):
    """One block: our stored value, theirs, that of the ancestor, and who changed it."""

    ours: bytes | None
    theirs: bytes | None
    base: bytes | None
    by: str


def join_blocks(
    step: MergeStep,
    layout: Layout,
    renaming: Renaming,
    block_zyx: NDArray[np.int32],
    block_keys: Sequence[bytes],
    space: AnySpace,
) -> Joined:
    """Settle some blocks of scale 0; nothing is written.

    Parameters
    ----------
    step
        Both sides.
    layout
        Block shape.
    renaming
        What labels become.
    block_zyx, block_keys
        The blocks, which differ between both sides, and their keys.
    space
        The new version as it is now, with the mapping that it will have.
    """
    columns = [side.get_many(block_keys) for side in (space, step.theirs, *step.bases)]
    tasks = []
    for n, key in enumerate(block_keys):
        ours, theirs, *at_bases = [column[n] for column in columns]

        def get(side: AnySpace, key: bytes = key) -> bytes | None:
            return side.get(key)

        settled = step.settle(ours, theirs, at_bases, get)
        by = "both" if settled.conflict else "ours" if settled.value == ours else "theirs"
        base = step.base_of(ours, theirs, at_bases, get) if at_bases else None
        tasks.append(_Task(ours, theirs, base, by))
    unfit = _unfit_in(space, layout, renaming, tasks)
    made = parallel(lambda task: _join(task, layout, renaming, unfit), tasks, grain=4)
    joined = Joined(np.empty((0, 3), np.int32))
    changed = []
    for n, (task, done) in enumerate(zip(tasks, made, strict=True)):
        if done.value != task.ours:
            changed.append(n)
            joined.values.append(done.value)
            joined.olds.append(task.ours)
        if done.differently:
            z, y, x = block_zyx[n].tolist()
            joined.written_differently[z, y, x] = done.differently
        joined.cut_differently.update(done.cut)
        joined.reused.update(done.reused)
    joined.block_zyx = block_zyx[changed]
    return joined


def _unfit_in(space: AnySpace, layout: Layout, renaming: Renaming, tasks: Sequence[_Task]) -> NDArray[np.uint64]:
    """Labels of theirs that can't be written, ascending: they are retired on our side, or parts of what we have cut."""
    blocks = [task.theirs for task in tasks if task.theirs is not None and task.by != "ours"]
    tables = parallel(lambda value: label_blocks.labels(decompress(value, layout)), blocks)
    labels = distinct(np.concatenate([np.empty(0, np.uint64), *tables]))
    labels = labels[(labels != 0) & ~is_among(labels, renaming.theirs.old)]
    unfit: NDArray[np.uint64] = labels[(Mapping(space).bodies(labels) == 0) | is_among(labels, renaming.our_parts)]
    return unfit


def _join(task: _Task, layout: Layout, renaming: Renaming, unfit: NDArray[np.uint64]) -> _Made:
    if task.by == "ours":
        return _Made(_renamed(task.ours, layout, renaming.ours))
    if task.by == "theirs":
        if task.theirs is None:
            return _Made(None)
        labels = label_blocks.labels(decompress(task.theirs, layout))
        if not is_among(labels, unfit).any():
            return _Made(_renamed(task.theirs, layout, renaming.theirs))
    return _by_voxel(task, layout, renaming, unfit)


def _renamed(value: bytes | None, layout: Layout, table: _Table) -> bytes | None:
    if value is None or not len(table.old):
        return value
    block = decompress(value, layout)
    return compress(table.rename(block)) if table.occurs(label_blocks.labels(block)) else value


def _by_voxel(task: _Task, layout: Layout, renaming: Renaming, unfit: NDArray[np.uint64]) -> _Made:
    def dense(value: bytes | None) -> NDArray[np.uint64]:
        if value is None:
            return np.zeros(layout.block_shape, np.uint64)
        return label_blocks.decode_block(decompress(value, layout))

    base, ours, theirs = dense(task.base), dense(task.ours), dense(task.theirs)
    we_wrote = renaming.our_roots.applied(ours) != base
    they_wrote = renaming.their_roots.applied(theirs) != base
    mine, other = renaming.ours.applied(ours), renaming.theirs.applied(theirs)
    # what nobody wrote may still have been cut: by them alone, or by both
    take = ~we_wrote & (they_wrote | (ours == base))
    # by theirs' own labels: what our cut makes of them is ours
    refused = take & is_among(theirs, unfit) if len(unfit) else np.zeros_like(take)
    reused = tuple(distinct(theirs[refused]).tolist())
    differently = int((we_wrote & they_wrote & (mine != other)).sum())
    cut = ~we_wrote & ~they_wrote & (ours != base) & (theirs != base) & (ours != theirs)
    out = np.where(take & ~refused, other, mine)
    if np.array_equal(out, ours):
        value = task.ours
    elif np.array_equal(out, theirs):
        value = task.theirs
    else:
        value = compress(label_blocks.encode_block(np.ascontiguousarray(out)))
    return _Made(value, differently, tuple(distinct(base[cut]).tolist()), reused)
