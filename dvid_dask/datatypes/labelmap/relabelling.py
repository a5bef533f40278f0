"""Labels written over by others inside a transaction: voxels of all scales and the label index.

For volumes whose voxels hold bodies. Only blocks that have the labels are read; where a whole label changes, only the
label table of a block does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dvid_dask.datatypes.labelmap import keys
from dvid_dask.datatypes.labelmap.blocks import Layout, compress, decompress
from dvid_dask.datatypes.labelmap.downres import update_scales
from dvid_dask.datatypes.labelmap.extents import raise_max_label
from dvid_dask.datatypes.labelmap.index import Index, Stamp
from dvid_dask.datatypes.labelmap.rows import Rows, distinct_blocks
from dvid_dask.datatypes.labelmap.threads import batches, parallel
from dvid_dask.formats import label_blocks, label_cuts, rles
from dvid_dask.formats.distinct import distinct_rows, is_among

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.datatypes.base import TxSpace

__all__ = ["Relabelled", "cut_off", "merge", "relabel", "rename", "split", "split_coarse"]

_BATCH = 256

Block = tuple[int, int, int]
Change = Callable[[Block, bytes], bytes]


class Relabelled(NamedTuple):
    """Blocks of scale 0 that were written, int32 (n, 3) (z, y, x); what is stored there now, and what was."""

    block_zyx: NDArray[np.int32]
    values: list[bytes]
    olds: list[bytes | None]

    @classmethod
    def nothing(cls) -> Relabelled:
        """No block."""
        return cls(np.empty((0, 3), np.int32), [], [])


def relabel(
    space: TxSpace,
    layout: Layout,
    block_zyx: NDArray[np.int32],
    change: Change,
    names: Sequence[int] = (),
    stamp: Stamp | None = None,
) -> Relabelled:
    """Change blocks of scale 0, and all that depends on them.

    Parameters
    ----------
    space
        Space of a transaction.
    layout
        Block shape and scales.
    block_zyx
        The blocks (z, y, x), each once. Those that aren't stored are passed over.
    change
        Gets a coordinate and a label block, returns the new label block. Called in threads.
    names
        Labels whose index is brought in line in these blocks. No other label may gain or lose a voxel.
    stamp
        Who changes them.
    """
    done = Relabelled.nothing()
    coords: list[Block] = []
    counted: list[tuple[NDArray[np.uint64], NDArray[np.int64]]] = []

    def renew(task: tuple[Block, bytes]) -> tuple[bytes, tuple[NDArray[np.uint64], NDArray[np.int64]]]:
        block, value = task
        old = decompress(value, layout)
        new = change(block, old)
        return compress(new) if new != old else value, label_blocks.count(new) if names else _NOTHING

    for batch in batches(block_zyx, _BATCH):
        part = np.array(batch, np.int32)
        values = space.get_many(keys.blocks(0, part))
        there = [((z, y, x), v) for (z, y, x), v in zip(part.tolist(), values, strict=True) if v is not None]
        for (block, old), (value, counts) in zip(there, parallel(renew, there, grain=4), strict=True):
            if value is not old:
                coords.append(block)
                done.values.append(value)
                done.olds.append(old)
                counted.append(counts)
    if not coords:
        return done
    changed = np.array(coords, np.int32)
    space.put_many(zip(keys.blocks(0, changed), done.values, strict=True))
    index = Index(space)
    surface = None if stamp is None else stamp.mutation
    for name in names:
        rows = Rows.of(changed, np.full(len(changed), name, np.uint64), [_voxels(c, name) for c in counted])
        index.update(name, rows, stamp=stamp, surface=surface)
    update_scales(space, layout, dict(zip(coords, done.values, strict=True)))
    return done._replace(block_zyx=changed)


_NOTHING = np.empty(0, np.uint64), np.empty(0, np.int64)


def _voxels(counted: tuple[NDArray[np.uint64], NDArray[np.int64]], label: int) -> int:
    return int(counted[1][counted[0] == np.uint64(label)].sum())


def _renamed(block: bytes, old: NDArray[np.uint64], new: int) -> bytes:
    """A block in which labels (ascending) are called `new`, which may be in it already."""
    if not is_among(label_blocks.labels(block), old).any():
        return block
    return label_blocks.normalize(label_cuts.map_labels(block, old, np.full(len(old), new, np.uint64)))


def rename(space: TxSpace, layout: Layout, block_zyx: NDArray[np.int32], old: Sequence[int], new: int) -> Relabelled:
    """Write a label over all voxels of others in some blocks; no index is kept in line."""
    names = np.array(sorted(old), np.uint64)
    return relabel(space, layout, block_zyx, lambda _, block: _renamed(block, names, new))


def merge(space: TxSpace, layout: Layout, target: int, merged: Sequence[int], stamp: Stamp) -> Relabelled:
    """Write `target` over all voxels of other labels; those without a voxel are passed over."""
    index = Index(space)
    found = [distinct_blocks(rows) for label in merged for rows in index.layers(label)]
    blocks = distinct_rows(np.concatenate([np.empty((0, 3), np.int32), *found]))
    old = np.array(sorted(merged), np.uint64)
    done = relabel(space, layout, blocks, lambda _, block: _renamed(block, old, target), [target], stamp)
    for label in merged:
        index.delete(label)
    if len(done.values):
        raise_max_label(space, target)
    return done


def cut_off(layout: Layout, old: int | None, new: int, runs: NDArray[np.int32]) -> tuple[NDArray[np.int32], Change]:
    """Blocks (z, y, x) of runs, and what makes voxels of a label under the runs another: of any label for None."""
    block_zyx, offsets, pieces = rles.split_by_block(runs, layout.block_shape)
    ends = offsets.tolist()
    at = {(z, y, x): (a, b) for (z, y, x), a, b in zip(block_zyx.tolist(), ends[:-1], ends[1:], strict=True)}
    to = np.array([new], np.uint64)

    def change(block: Block, data: bytes) -> bytes:
        a, b = at[block]
        start = [c * n for c, n in zip(block, layout.block_shape, strict=True)]
        inside = pieces[a:b]
        labels = label_cuts.labels_under(data, inside, start)[0] if old is None else np.array([old], np.uint64)
        labels = np.sort(labels[labels != to[0]])
        if not len(labels):
            return data
        cut = label_cuts.cut_block(data, inside, start, labels, np.full(len(labels), new, np.uint64), labels)
        return cut[0] if int(cut[1].sum()) else data

    return block_zyx, change


def split(space: TxSpace, layout: Layout, old: int, new: int, runs: NDArray[np.int32], stamp: Stamp) -> Relabelled:
    """Give the voxels of a label under runs another one, which may be in use; other labels stay as they are."""
    box = Index(space).extent(old)
    if box is None:
        raise_max_label(space, new)
        return Relabelled.nothing()
    # a few long runs may cross millions of blocks, none of which is the label's
    low, high = ([c * n for c, n in zip(side, layout.block_shape, strict=True)] for side in (box[0], np.add(box[1], 1)))
    blocks, change = cut_off(layout, old, new, rles.clip(runs, (low, high)))
    done = relabel(space, layout, _among(blocks, _blocks_of(space, old, blocks)), change, [old, new], stamp)
    raise_max_label(space, new)
    return done


def split_coarse(
    space: TxSpace, layout: Layout, old: int, new: int, block_zyx: NDArray[np.int32], stamp: Stamp
) -> Relabelled:
    """Give all voxels of a label in some blocks another one, which may be in use."""
    blocks = _among(block_zyx, _blocks_of(space, old, block_zyx))
    names = np.array([old], np.uint64)
    done = relabel(space, layout, blocks, lambda _, block: _renamed(block, names, new), [old, new], stamp)
    raise_max_label(space, new)
    return done


def _blocks_of(space: TxSpace, label: int, near: NDArray[np.int32]) -> NDArray[np.int32]:
    """The blocks of a label in the box of some others."""
    if not len(near):
        return near
    (az, ay, ax), (bz, by, bx) = near.min(axis=0).tolist(), near.max(axis=0).tolist()
    return distinct_blocks(Index(space).rows(label, ((az, ay, ax), (bz, by, bx))))


def _among(blocks: NDArray[np.int32], of: NDArray[np.int32]) -> NDArray[np.int32]:
    """The blocks that both have."""
    known = {tuple(b) for b in of.tolist()}
    return blocks[np.array([tuple(b) in known for b in blocks.tolist()], np.bool_)]
