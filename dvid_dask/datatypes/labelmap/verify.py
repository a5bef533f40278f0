"""Does all this agree? Index = voxels, mapping = index, sums = rows, coarser scales = scale 0.

Four checks, each in pieces that know nothing of each other and need little memory, so that a Dask graph can run them:

* `check_blocks`: every voxel of these blocks is in the index of its supervoxel's body, and no other voxel;
* `check_bodies`: the sums of these bodies are those of their rows, their supervoxels are mapped to them, and the voxels
  their rows speak of are there;
* `check_scale`: these coarse blocks are what the finer scale makes them;
* `check_made`: ids that edits made for bodies are no supervoxels.

`verify` runs all of them over an instance. An instance that clients loaded in parts (blocks without index, indices
of their own, no down-sampling) has problems here that it was asked to have.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from dvid_dask.datatypes.labelmap import keys
from dvid_dask.datatypes.labelmap.adopted import base_at, edited_keys
from dvid_dask.datatypes.labelmap.blocks import Layout, decompress
from dvid_dask.datatypes.labelmap.downres import rebuilt
from dvid_dask.datatypes.labelmap.index import Index
from dvid_dask.datatypes.labelmap.mapping import Mapping
from dvid_dask.datatypes.labelmap.rows import Rows, distinct_blocks
from dvid_dask.datatypes.labelmap.threads import batches, parallel
from dvid_dask.formats import label_blocks
from dvid_dask.formats.distinct import distinct, distinct_rows

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from dvid_dask.datatypes.labelmap.spaces import AnySpace

__all__ = ["Problem", "check_blocks", "check_bodies", "check_made", "check_scale", "stored_blocks", "verify"]

_BATCH = 512


@dataclass(frozen=True)
class Problem:
    """One disagreement: its kind (``index``, ``mapping``, ``sums``, ``scale``) and what it is, in words."""

    kind: str
    text: str


def stored_blocks(space: AnySpace, scale: int = 0, size: int = _BATCH) -> Iterator[NDArray[np.int32]]:
    """Coordinates (z, y, x) of all stored blocks of a scale, in batches of neighbours."""
    for batch in batches(space.keys(keys.scale_prefix(scale)), size):
        yield keys.blocks_of(batch)


def _counted(space: AnySpace, layout: Layout, block_zyx: NDArray[np.int32]) -> Rows:
    """Rows of the label index as the voxels say them, sorted."""
    values = space.get_many(keys.blocks(0, block_zyx))
    held = [(i, v) for i, v in enumerate(values) if v is not None]
    counts = parallel(lambda pair: label_blocks.count(decompress(pair[1], layout)), held)
    number = np.repeat([i for i, _ in held], [len(names) for names, _ in counts]).astype(np.int64)
    label = np.concatenate([np.empty(0, np.uint64), *(names for names, _ in counts)])
    count = np.concatenate([np.empty(0, np.int64), *(n for _, n in counts)])
    real = label != 0
    return Rows.of(block_zyx[number[real]], label[real], count[real]).sorted()


def check_blocks(space: AnySpace, layout: Layout, block_zyx: NDArray[np.int32]) -> Iterator[Problem]:
    """Compare the voxels of blocks of scale 0 with the index of the bodies in them."""
    rows = _counted(space, layout, block_zyx)
    bodies = Mapping(space).bodies(rows.supervoxel)
    index = Index(space)
    if not len(block_zyx):
        return
    low, high = block_zyx.min(axis=0).tolist(), block_zyx.max(axis=0).tolist()
    asked = {tuple(b) for b in block_zyx.tolist()}
    for body in distinct(bodies).tolist():
        expected = rows[bodies == np.uint64(body)]
        if body == 0:
            svs = distinct(expected.supervoxel)[:5].tolist()
            yield Problem("mapping", f"supervoxels {svs} have voxels and are mapped to 0")
            continue
        held = index.rows(body, box=(tuple(low), tuple(high)))
        held = held[np.array([tuple(b) in asked for b in held.block_zyx.tolist()], np.bool_)]
        yield from _differences(f"body {body}", expected, held)


def _differences(what: str, expected: Rows, held: Rows) -> Iterator[Problem]:
    def as_dict(rows: Rows) -> dict[tuple[int, ...], int]:
        blocks, svs = rows.block_zyx.tolist(), rows.supervoxel.tolist()
        return {(*b, s): n for b, s, n in zip(blocks, svs, rows.count.tolist(), strict=True)}

    voxels, indexed = as_dict(expected), as_dict(held)
    for key in sorted(voxels.keys() | indexed.keys()):
        if voxels.get(key, 0) != indexed.get(key, 0):
            z, y, x, sv = key
            yield Problem(
                "index",
                f"{what}: supervoxel {sv} has {voxels.get(key, 0)} voxels in block {(z, y, x)} (z, y, x), "
                f"the index says {indexed.get(key, 0)}",
            )


def check_bodies(space: AnySpace, layout: Layout, bodies: Iterable[int], *, voxels: bool = True) -> Iterator[Problem]:
    """Compare the sums of bodies with their rows, supervoxels with the mapping and, if asked, rows with voxels."""
    index, mapping = Index(space), Mapping(space)

    @lru_cache(maxsize=4096)
    def counts(z: int, y: int, x: int) -> dict[int, int]:
        rows = _counted(space, layout, np.array([[z, y, x]], np.int32))
        return dict(zip(rows.supervoxel.tolist(), rows.count.tolist(), strict=True))

    for body in bodies:
        header = index.header(body)
        if header is None:
            continue
        sums: dict[int, int] = {}
        total = blocks = number = 0
        for layer in index.layers(body):
            total += layer.voxels
            blocks += len(distinct_blocks(layer))
            number += len(layer)
            for sv, n in zip(layer.supervoxel.tolist(), layer.count.tolist(), strict=True):
                sums[sv] = sums.get(sv, 0) + n
            if voxels:
                for (z, y, x), sv, n in zip(
                    layer.block_zyx.tolist(), layer.supervoxel.tolist(), layer.count.tolist(), strict=True
                ):
                    there = counts(z, y, x).get(sv, 0)
                    if there != n:
                        yield Problem(
                            "index",
                            f"body {body}: the index says {n} voxels of supervoxel {sv} in block {(z, y, x)} "
                            f"(z, y, x), there are {there}",
                        )
        said = (header.voxels, header.blocks, header.rows, header.supervoxels)
        if said != (total, blocks, number, len(sums)):
            yield Problem(
                "sums",
                f"body {body}: the header says {said} voxels, blocks, rows, supervoxels; "
                f"the rows say {(total, blocks, number, len(sums))}",
            )
        held = index.supervoxels(body)
        table = {} if held is None else dict(zip(held.id.tolist(), held.voxels.tolist(), strict=True))
        if table != sums:
            yield Problem("sums", f"body {body}: the table of supervoxels differs from the rows")
        ids = np.array(list(sums), np.uint64)
        foreign = ids[mapping.bodies(ids) != np.uint64(body)]
        if len(foreign):
            yield Problem("mapping", f"body {body}: supervoxels {foreign[:5].tolist()} are mapped to other bodies")


def check_made(space: AnySpace, bodies: Iterable[int]) -> Iterator[Problem]:
    """Look whether ids that edits made for bodies are retired: voxels of that id would be theirs unasked.

    Parameters
    ----------
    bodies
        Bodies that a cleave, split or renumbering made. Those that are gone are passed over, and those that have voxels
        of their id: merges of versions can give them some.
    """
    index, mapping = Index(space), Mapping(space)
    for batch in batches(bodies, _BATCH):
        found, _ = mapping.entries(batch)
        for body, retired in zip(batch, found.tolist(), strict=True):
            held = None if retired else index.supervoxels(body)
            if held is not None and not (held.id == np.uint64(body)).any():
                yield Problem("mapping", f"body {body} was made by an edit, and its id isn't retired as a supervoxel")


def check_scale(space: AnySpace, layout: Layout, scale: int, block_zyx: NDArray[np.int32]) -> Iterator[Problem]:
    """Compare coarse blocks (at `scale`, 1 or more) with what the stored blocks of the finer scale make them."""
    keyed = list(rebuilt(space, layout, scale, block_zyx))
    stored = space.get_many([k for k, _ in keyed])
    for (z, y, x), (_, expected), value in zip(block_zyx.tolist(), keyed, stored, strict=True):
        if _voxels(expected, layout) != _voxels(value, layout):
            yield Problem(
                "scale", f"block {(z, y, x)} (z, y, x) of scale {scale} is not what scale {scale - 1} makes it"
            )


def _voxels(value: bytes | None, layout: Layout) -> bytes:
    """The canonical block of a stored value; absent is all zero."""
    if value is None:
        return label_blocks.solid_block(0, layout.block_shape)
    return label_blocks.normalize(decompress(value, layout))


def verify(space: AnySpace, layout: Layout, *, indexed: bool = True, made: Iterable[int] = ()) -> Iterator[Problem]:
    """All checks of an instance, one after the other, in bounded memory.

    Parameters
    ----------
    space
        A pinned view.
    layout
        Block shape and scales.
    indexed
        Whether the instance keeps a label index.
    made
        Bodies that edits made, as `check_made` takes them.
    """
    if indexed:
        for blocks in stored_blocks(space):
            yield from check_blocks(space, layout, blocks)
        yield from check_bodies(space, layout, Index(space).bodies())
        yield from check_made(space, made)
    for scale in range(1, layout.levels + 1):
        if base_at(space, scale) is not None:  # made by the base's own rule, but for what lies in the tree
            for batch in batches(edited_keys(space, scale), _BATCH):
                yield from check_scale(space, layout, scale, keys.blocks_of(batch))
            continue
        for finer in (scale - 1, scale):
            for blocks in stored_blocks(space, finer):
                parents = blocks if finer == scale else distinct_rows(blocks >> 1)
                yield from check_scale(space, layout, scale, parents)
