"""The blocks of an image that hold something, as a region of interest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.datatypes.imageblk import ImageBlk
from dvid_dask.datatypes.imageblk.layout import Layout
from dvid_dask.datatypes.roi import Roi
from dvid_dask.errors import BadRequest
from dvid_dask.ops import job
from dvid_dask.ops.stored import block_batches

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.datatypes.base import Datatype, Space

__all__ = ["foreground_roi"]

_BLOCKS = 2048  # in a task


def foreground_roi(
    image: Datatype,
    roi: Datatype,
    *,
    background: Sequence[int] = (0,),
    client: Any = None,
    user: str = "",
    app: str = "",
    force: bool = False,
) -> int:
    """Make a region of interest of the blocks that have at least one voxel which is no background.

    Parameters
    ----------
    image
        Of integers, one value a voxel; its state now.
    roi
        A region with blocks of the image's size; what it held is replaced, in one commit.
    background
        Values that count as nothing. A block never stored holds nothing.
    client, user, app, force
        As for `ingest`.

    Returns
    -------
    int
        Blocks of the region.

    Raises
    ------
    BadRequest
        No such image or region, blocks of different size, or values that voxels can't have.
    LockedVersion
        If the region's version is committed.

    Examples
    --------
    >>> import numpy as np
    >>> import dvid_dask
    >>> repo = dvid_dask.create("memory://").new_repo("fly")
    >>> gray = repo.new_instance("uint8blk", "gray")
    >>> tissue = repo.new_instance("roi", "tissue")
    >>> voxels = np.zeros((32, 32, 96), np.uint8)
    >>> voxels[5, 5, 40] = 1
    >>> gray.write(voxels, (0, 0, 0))
    >>> foreground_roi(gray, tissue), tissue.spans.tolist()
    (1, [[0, 0, 1, 1]])
    """
    if not isinstance(image, ImageBlk) or image.dtype.kind != "u" or image.layout.tail:
        raise BadRequest(
            f"{image.name!r} is a {image.info.typename}: a region is made of images of one integer a voxel"
        )
    if not isinstance(roi, Roi):
        raise BadRequest(f"{roi.name!r} is a {roi.info.typename}, not a roi")
    if roi.block_shape != image.block_shape:
        raise BadRequest(
            f"blocks of {roi.name!r} have {roi.block_shape} voxels (z, y, x), those of {image.name!r} "
            f"{image.block_shape}: make the roi with the image's BlockSize"
        )
    top = np.iinfo(image.dtype).max
    if any(not 0 <= value <= top for value in background):
        raise BadRequest(f"background: {list(background)} is not all within 0..{top}")
    roi.check_open(force)
    client = job.find_client(client)
    job.check_reach(client, image)
    space = image.view(0)
    task = _Foreground(space, image.layout, np.array(sorted(set(background)), image.dtype))
    found = [np.empty((0, 3), np.int64), *_run(task, image, space, client)]
    blocks = np.concatenate(found)
    roi.replace(_spans(blocks), user=user, app=app, force=force)
    return len(blocks)


def _run(task: _Foreground, image: ImageBlk, space: Space, client: Any) -> list[NDArray[np.int64]]:
    import dask

    run = dask.delayed(task, pure=False, traverse=False)
    parts = []
    for batch in block_batches(image, space, 0):
        parts += [run(batch[at : at + _BLOCKS]) for at in range(0, len(batch), _BLOCKS)]
    if client is None:
        return list(dask.compute(*parts))
    return list(client.gather(client.compute(parts)))


@dataclass(frozen=True)
class _Foreground:
    """Those of some blocks that hold something."""

    space: Space
    layout: Layout
    background: NDArray[Any]

    def __call__(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        found = []
        for block, voxels in self.layout.decoded(self.space, 0, blocks):
            if len(self.background) == 1:
                full = bool((voxels != self.background[0]).any())
            else:
                full = not bool(np.isin(voxels, self.background).all())
            if full:
                found.append(block)
        return np.array(found, np.int64).reshape(-1, 3)


def _spans(blocks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Runs along x: (n, 4) of z, y, first and last x.

    Examples
    --------
    >>> _spans(np.array([[0, 0, 4], [0, 0, 5], [0, 1, 6]])).tolist()
    [[0, 0, 4, 5], [0, 1, 6, 6]]
    """
    if not len(blocks):
        return np.empty((0, 4), np.int64)
    ordered = blocks[np.lexsort(blocks.T[::-1])]
    step = np.diff(ordered, axis=0)
    fresh = np.concatenate([[True], (step[:, :2] != 0).any(axis=1) | (step[:, 2] != 1)])
    first = np.flatnonzero(fresh)
    last = np.concatenate([first[1:], [len(ordered)]]) - 1
    return np.column_stack([ordered[first], ordered[last, 2]])
