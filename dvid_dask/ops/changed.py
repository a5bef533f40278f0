"""Which labels changed between two versions, found by what the trees of the versions don't share."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from dvid_dask.datatypes.labelmap import keys
from dvid_dask.datatypes.labelmap.blocks import decompress
from dvid_dask.datatypes.labelmap.mapping import Mapping
from dvid_dask.datatypes.labelmap.threads import parallel
from dvid_dask.errors import BadRequest
from dvid_dask.formats import label_blocks
from dvid_dask.store import prefix_end

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from dvid_dask.datatypes.base import Space
    from dvid_dask.datatypes.labelmap import LabelMap
    from dvid_dask.datatypes.labelmap.blocks import Layout
    from dvid_dask.versions import Version

__all__ = ["changed_labels", "check_since"]

_BATCH = 256  # blocks in memory, twice


def check_since(instance: LabelMap, since: Version) -> None:
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


def changed_labels(instance: LabelMap, old: Space, new: Space, *, supervoxels: bool = False) -> NDArray[np.uint64]:
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
    ids: NDArray[np.uint64] = np.unique(np.concatenate(found))
    if not supervoxels:
        bodies = [Mapping(old).bodies(ids), Mapping(new).bodies(ids)]
        bodies += [np.array([keys.body_of(key)], np.uint64) for key in _differing(instance, old, new, keys.BODY)]
        bodies += _in_mapping(instance, old, new)
        ids = np.unique(np.concatenate(bodies))
    there: NDArray[np.uint64] = ids[ids != 0]
    return there


def _differing(instance: LabelMap, old: Space, new: Space, prefix: bytes) -> Iterator[bytes]:
    low = new.prefix + prefix
    store = instance.version.datastore.store
    return (change.key[len(new.prefix) :] for change in store.diff(old.view, new.view, low, prefix_end(low)))


def _in_voxels(instance: LabelMap, old: Space, new: Space) -> Iterator[NDArray[np.uint64]]:
    """Supervoxels at the voxels that differ, block by block."""
    layout = instance.layout
    differing = _differing(instance, old, new, keys.scale_prefix(0))
    while some := list(itertools.islice(differing, _BATCH)):
        pairs = list(zip(old.get_many(some), new.get_many(some), strict=True))
        yield from parallel(lambda pair: _compare(layout, *pair), pairs)


def _compare(layout: Layout, old: bytes | None, new: bytes | None) -> NDArray[np.uint64]:
    before, after = _voxels(layout, old), _voxels(layout, new)
    changed = before != after
    found: NDArray[np.uint64] = np.unique(np.concatenate([before[changed], after[changed]]))
    return found


def _voxels(layout: Layout, value: bytes | None) -> NDArray[np.uint64]:
    if value is None:
        return np.zeros(layout.block_shape, np.uint64)
    return label_blocks.decode_block(decompress(value, layout))


def _in_mapping(instance: LabelMap, old: Space, new: Space) -> list[NDArray[np.uint64]]:
    """Bodies between which supervoxels were moved, also where no index says so."""
    found = []
    for key in _differing(instance, old, new, keys.MAPPING):
        page = keys.mapping_page_of(key)
        first = np.uint64(page) << np.uint64(keys.MAPPING_BITS)
        ids = first + np.arange(1 << keys.MAPPING_BITS, dtype=np.uint64)
        before, after = Mapping(old).bodies(ids), Mapping(new).bodies(ids)
        found += [before[before != after], after[before != after]]
    return found
