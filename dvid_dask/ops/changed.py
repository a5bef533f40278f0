"""What changed between two versions, labels or blocks, found by what the trees of the versions don't share."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from dvid_dask.datatypes.imageblk import ImageBlk
from dvid_dask.datatypes.labelmap import BodyVolume, keys
from dvid_dask.datatypes.labelmap.blocks import decompress, read_blocks, tables_of
from dvid_dask.datatypes.labelmap.index import Index
from dvid_dask.datatypes.labelmap.mapping import Mapping
from dvid_dask.datatypes.labelmap.threads import parallel
from dvid_dask.errors import BadRequest, NotSupported
from dvid_dask.formats import label_blocks
from dvid_dask.formats.distinct import distinct, distinct_rows, is_among
from dvid_dask.ops.stored import block_batches
from dvid_dask.store import prefix_end

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from dvid_dask.datatypes.base import Datatype, Space
    from dvid_dask.datatypes.labelmap.blocks import Layout
    from dvid_dask.versions import Version

__all__ = ["changed_blocks", "changed_labels", "check_since", "differing_keys"]

_BATCH = 256  # blocks in memory, twice


def check_since(instance: BodyVolume, since: Version) -> None:
    """Refuse a version that the instance can't be compared with.

    Raises
    ------
    BadRequest
        It belongs to another repository, or the instance isn't versioned.
    """
    if since.repo != instance.repo:
        raise BadRequest(f"version {since.uuid} belongs to another repository than {instance.name!r}")
    if not instance.info.versioned:
        raise BadRequest(f"{instance.name!r} isn't versioned: nothing of it differs between versions")


def changed_labels(instance: BodyVolume, old: Space, new: Space, *, supervoxels: bool = False) -> NDArray[np.uint64]:
    """Labels that have other voxels in one state than in another, ascending; among them those that one of them lacks.

    Costs what differs, not what there is. A supervoxel changes where voxels do; a body also where it gains or loses
    supervoxels.

    Parameters
    ----------
    instance
        A labelmap.
    old, new
        States of it, from `Datatype.view`.
    supervoxels
        Supervoxels instead of bodies.
    """
    found = [np.empty(0, np.uint64), *_in_voxels(instance, old, new)]
    ids: NDArray[np.uint64] = distinct(np.concatenate(found))
    if not supervoxels:
        bodies = [Mapping(old).bodies(ids), Mapping(new).bodies(ids)]
        bodies += [np.array([keys.body_of(key)], np.uint64) for key in differing_keys(instance, old, new, keys.BODY)]
        bodies += _in_mapping(instance, old, new)
        ids = distinct(np.concatenate(bodies))
    there: NDArray[np.uint64] = ids[ids != 0]
    return there


def differing_keys(instance: Datatype, old: Space, new: Space, prefix: bytes) -> Iterator[bytes]:
    """Keys of an instance with a prefix that differ between two states of it, found by what their trees don't share."""
    low = new.prefix + prefix
    store = instance.version.datastore.store
    return (change.key[len(new.prefix) :] for change in store.diff(old.view, new.view, low, prefix_end(low)))


def _in_voxels(instance: BodyVolume, old: Space, new: Space) -> Iterator[NDArray[np.uint64]]:
    """Supervoxels at the voxels that differ, block by block."""
    layout = instance.layout
    differing = differing_keys(instance, old, new, keys.scale_prefix(0))
    while some := list(itertools.islice(differing, _BATCH)):
        pairs = list(zip(old.get_many(some), new.get_many(some), strict=True))
        yield from parallel(lambda pair: _compare(layout, *pair), pairs)


def _compare(layout: Layout, old: bytes | None, new: bytes | None) -> NDArray[np.uint64]:
    before, after = _voxels(layout, old), _voxels(layout, new)
    changed = before != after
    found: NDArray[np.uint64] = distinct(np.concatenate([before[changed], after[changed]]))
    return found


def _voxels(layout: Layout, value: bytes | None) -> NDArray[np.uint64]:
    if value is None:
        return np.zeros(layout.block_shape, np.uint64)
    return label_blocks.decode_block(decompress(value, layout))


def _in_mapping(instance: BodyVolume, old: Space, new: Space) -> list[NDArray[np.uint64]]:
    """Bodies between which supervoxels were moved, also where no index says so."""
    return [bodies for _, before, after in _moved(instance, old, new) for bodies in (before, after)]


def _moved(instance: BodyVolume, old: Space, new: Space) -> Iterator[tuple[NDArray[np.uint64], ...]]:
    """Supervoxels that the mapping gives another body, with that before and that after."""
    for key in differing_keys(instance, old, new, keys.MAPPING):
        page = keys.mapping_page_of(key)
        first = np.uint64(page) << np.uint64(keys.MAPPING_BITS)
        ids = first + np.arange(1 << keys.MAPPING_BITS, dtype=np.uint64)
        before, after = Mapping(old).bodies(ids), Mapping(new).bodies(ids)
        changed = before != after
        yield ids[changed], before[changed], after[changed]


# ------------------------------------------------------------------ blocks


def changed_blocks(
    instance: Datatype, old: Space, new: Space, scales: Sequence[int], *, supervoxels: bool = False
) -> list[NDArray[np.int64]]:
    """Blocks of a volume in which voxels may read differently in one state than in another.

    Costs what differs, not what there is. Bodies change also where supervoxels were moved between them: the label index
    says in which blocks those are.

    Parameters
    ----------
    instance
        A labelmap or an image.
    old, new
        States of it, from `Datatype.view`.
    scales
        Scales that are asked for.
    supervoxels
        Of a labelmap, supervoxels instead of bodies.

    Returns
    -------
    list of numpy.ndarray
        For each scale int64 (n, 3), block coordinates z, y, x, each once.
    """
    if isinstance(instance, ImageBlk):
        return [_stored_blocks(instance, old, new, scale) for scale in scales]
    if not isinstance(instance, BodyVolume):
        raise NotSupported(f"{instance.name!r} is a {instance.info.typename}: it has no blocks")
    moved = np.empty((0, 3), np.int64) if supervoxels else _blocks_of_moved(instance, old, new)
    found = []
    for scale in scales:
        held = list(differing_keys(instance, old, new, keys.scale_prefix(scale)))
        blocks = keys.blocks_of(held).astype(np.int64).reshape(-1, 3)
        found.append(distinct_rows(np.concatenate([blocks, moved >> scale])))
    return found


def _stored_blocks(instance: ImageBlk, old: Space, new: Space, scale: int) -> NDArray[np.int64]:
    layout = instance.layout
    prefix = layout.block_prefix(scale)
    parsed = (layout.parse_block_key(key) for key in differing_keys(instance, old, new, prefix))
    return np.array([p[1] for p in parsed if p is not None], np.int64).reshape(-1, 3)


def _blocks_of_moved(instance: BodyVolume, old: Space, new: Space) -> NDArray[np.int64]:
    """Blocks of scale 0 that have supervoxels which the mapping moved."""
    parts = list(_moved(instance, old, new))
    found = [np.empty((0, 3), np.int64)]
    if parts:
        ids, before, after = (np.concatenate(column) for column in zip(*parts, strict=True))
        if instance.indexed:
            blocks, there = _indexed(new, ids, after)
            found.append(blocks)
            # a mapping that was set by itself moves supervoxels which the index has where they were
            found.append(_indexed(old, ids[~there], before[~there])[0])
        else:
            found += _scanned(instance, new, ids)
    return distinct_rows(np.concatenate(found))


def _indexed(
    space: Space, ids: NDArray[np.uint64], bodies: NDArray[np.uint64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Blocks in which bodies have these supervoxels of theirs, and whether each supervoxel was found."""
    index = Index(space)
    found, seen = [np.empty((0, 3), np.int64)], [np.empty(0, np.uint64)]
    order = np.argsort(bodies, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(bodies[order])) + 1):
        if not len(group) or not bodies[group[0]]:
            continue
        for rows in index.scan_rows_of(int(bodies[group[0]]), ids[group]):
            found.append(distinct_rows(rows.block_zyx.astype(np.int64)))
            seen.append(distinct(rows.supervoxel))
    return np.concatenate(found), is_among(ids, np.concatenate(seen))


def _scanned(instance: BodyVolume, space: Space, ids: NDArray[np.uint64]) -> Iterator[NDArray[np.int64]]:
    """Blocks whose tables have one of the supervoxels, of labels without an index: looks at all tables."""
    wanted = np.sort(ids)
    for batch in block_batches(instance, space, 0):
        for coords, blocks in read_blocks(space, instance.layout, 0, batch.astype(np.int32)):
            joined, ends = tables_of(blocks)
            hits = np.concatenate([[0], np.cumsum(is_among(joined, wanted))])
            yield coords[hits[ends[1:]] > hits[ends[:-1]]].astype(np.int64)
