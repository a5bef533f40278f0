"""Coarser scales: from the blocks that changed, or anew from all blocks below."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dvid_dask.datatypes.labelmap import keys
from dvid_dask.datatypes.labelmap.adopted import remade
from dvid_dask.datatypes.labelmap.blocks import Layout, compress, decompress
from dvid_dask.datatypes.labelmap.threads import batches, parallel
from dvid_dask.formats import label_blocks

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import ArrayLike, NDArray

    from dvid_dask.datatypes.base import TxSpace
    from dvid_dask.datatypes.labelmap.spaces import AnySpace

__all__ = ["build_scale", "children_of", "update_scales"]

Coordinate = tuple[int, int, int]


def update_scales(space: TxSpace, layout: Layout, changed: dict[Coordinate, bytes]) -> None:
    """Bring all scales in line with changed blocks of scale 0.

    A coarse block takes the octants that changed and keeps the rest of what it held, unless that was made by another
    rule (`dvid_dask.datatypes.labelmap.adopted.remade`): then it is made of all its octants.

    Parameters
    ----------
    space
        Space of the transaction that writes the blocks.
    layout
        Block shape and number of scales.
    changed
        Stored (compressed) values by block coordinate (z, y, x).
    """
    for scale in range(1, layout.levels + 1):
        groups: dict[Coordinate, list[bytes | None]] = {}
        for (z, y, x), value in changed.items():
            octants = groups.setdefault((z >> 1, y >> 1, x >> 1), [None] * 8)
            octants[(z & 1) << 2 | (y & 1) << 1 | (x & 1)] = value
        changed = {}
        for batch in batches(groups.items(), 256):
            block_keys = keys.blocks(scale, [parent for parent, _ in batch])
            olds = space.get_many(block_keys)
            anew = remade(space, scale, block_keys)
            if any(anew):
                _add_others(space, scale, [group for group, a in zip(batch, anew, strict=True) if a])
                olds = [None if a else old for old, a in zip(olds, anew, strict=True)]
            made = parallel(
                lambda task: _reduce(task[0], task[1], layout),
                [(octants, old) for (_, octants), old in zip(batch, olds, strict=True)],
                grain=2,
            )
            space.put_many(zip(block_keys, made, strict=True))
            changed.update((parent, value) for (parent, _), value in zip(batch, made, strict=True))


def _add_others(space: AnySpace, scale: int, groups: Sequence[tuple[Coordinate, list[bytes | None]]]) -> None:
    """Add the octants that didn't change to those that did."""
    finer = keys.blocks(scale - 1, children_of([parent for parent, _ in groups]).reshape(-1, 3))
    values = space.get_many(finer)
    for i, (_, octants) in enumerate(groups):
        for n, value in enumerate(values[8 * i : 8 * i + 8]):
            if octants[n] is None:
                octants[n] = value


def _reduce(octants: list[bytes | None], old: bytes | None, layout: Layout) -> bytes:
    """One coarse block, stored form in and out."""
    opened = [None if o is None else decompress(o, layout) for o in octants]
    kept = decompress(old, layout) if old is not None and None in octants else None
    return compress(label_blocks.downsample(opened, kept, layout.block_shape))


def children_of(block_zyx: ArrayLike) -> NDArray[np.int32]:
    """int32 (n, 8, 3): the finer blocks under each block, in the order of octants."""
    parents = np.asarray(block_zyx, np.int32).reshape(-1, 1, 3)
    octants = np.array([[o >> 2, (o >> 1) & 1, o & 1] for o in range(8)], np.int32)
    return parents * 2 + octants


def build_scale(space: TxSpace, layout: Layout, scale: int, block_zyx: ArrayLike) -> None:
    """Compute blocks of a scale anew from all stored blocks of the finer scale; what they held is replaced.

    Parameters
    ----------
    space
        Space of a transaction.
    layout
        Block shape.
    scale
        1 or more.
    block_zyx
        Blocks to compute (z, y, x), at `scale`. Those without any finer block are deleted.
    """
    for key, value in rebuilt(space, layout, scale, block_zyx):
        if value is None:
            space.delete(key)
        else:
            space.put(key, value)


def rebuilt(space: AnySpace, layout: Layout, scale: int, block_zyx: ArrayLike) -> Iterable[tuple[bytes, bytes | None]]:
    """Key and stored value of each block as `build_scale` makes it; None where no finer block is."""
    parents = np.asarray(block_zyx, np.int32).reshape(-1, 3)
    for a in range(0, len(parents), 32):
        part = parents[a : a + 32]
        values = space.get_many(keys.blocks(scale - 1, children_of(part).reshape(-1, 3)))
        groups = [values[8 * i : 8 * i + 8] for i in range(len(part))]
        made = parallel(
            lambda octants: _reduce(octants, None, layout) if any(o is not None for o in octants) else None,
            groups,
            grain=2,
        )
        yield from zip(keys.blocks(scale, part), made, strict=True)
