"""Bodies and supervoxels: which there are, how large, where."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from dvid_dask.boxes import Box
from dvid_dask.datatypes.labelmap.counters import RESERVED
from dvid_dask.datatypes.labelmap.index import Header, Index, Supervoxels
from dvid_dask.datatypes.labelmap.mapping import Mapping as LabelMapping
from dvid_dask.datatypes.labelmap.methods.instance import Instance
from dvid_dask.datatypes.labelmap.methods.voxels import check_scale
from dvid_dask.datatypes.labelmap.rows import distinct_blocks
from dvid_dask.datatypes.labelmap.sparse import Bounds, SparseVolume, coarse_runs
from dvid_dask.errors import BadRequest, NotFound

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from dvid_dask.datatypes.base import Space
    from dvid_dask.datatypes.labelmap.spaces import AnySpace

__all__ = ["Bodies"]


class Bodies(Instance):
    """Bodies of a labelmap at a version."""

    def resolve(self, label: int, *, supervoxels: bool = False, view: Space | None = None) -> tuple[int, int | None]:
        """The body to look at for a label, and the supervoxel in it if one was asked for.

        Raises
        ------
        BadRequest
            If the label is 0 or a supervoxel that was split.
        """
        if not 1 <= label <= RESERVED:
            raise BadRequest(f"label {label} is background or out of range: expected 1 to 2**64 - 1")
        if not supervoxels:
            return label, None
        body = LabelMapping(self.view() if view is None else view).body(label)
        if body == 0:
            raise BadRequest(f"supervoxel {label} is retired: it was split, or never had voxels")
        return body, label

    def header(self, body: int) -> Header:
        """Sums of a body's index and who changed it last.

        Raises
        ------
        NotFound
            If there is no such body.
        """
        held = Index(self.view()).header(self.resolve(body)[0])
        if held is None:
            raise NotFound(f"there is no body {body}")
        return held

    def size(self, label: int, *, supervoxels: bool = False) -> int:
        """Voxels of a body or supervoxel.

        Raises
        ------
        NotFound
            If there is no such label.
        BadRequest
            If it is 0 or a supervoxel that was split.
        """
        view = self.view()
        body, supervoxel = self.resolve(label, supervoxels=supervoxels, view=view)
        index = Index(view)
        if supervoxel is None:
            header = index.header(body)
            voxels = 0 if header is None else header.voxels
        else:
            voxels = int(index.voxels_of(body, [supervoxel])[0])
        if not voxels:
            raise NotFound(f"there is no {'supervoxel' if supervoxels else 'body'} {label}")
        return voxels

    def sizes(self, labels: ArrayLike, *, supervoxels: bool = False) -> NDArray[np.uint64]:
        """Voxels of many bodies or supervoxels; 0 for those that don't exist."""
        wanted = np.asarray(labels, np.uint64).reshape(-1)
        view = self.view()
        index = Index(view)
        out = np.zeros(len(wanted), np.uint64)
        unique, where = np.unique(wanted, return_inverse=True)
        voxels = np.zeros(len(unique), np.uint64)
        if not supervoxels:
            for a in range(0, len(unique), 4096):
                found = index.headers(unique[a : a + 4096].tolist())
                voxels[a : a + 4096] = [0 if h is None else h.voxels for h in found]
        else:
            bodies = LabelMapping(view).bodies(unique)
            order = np.argsort(bodies, kind="stable")
            owners, starts = np.unique(bodies[order], return_index=True)
            stops = np.append(starts[1:], len(order))
            for a in range(0, len(owners), 4096):
                for i, held in enumerate(index.headers(owners[a : a + 4096].tolist()), start=a):
                    if held is not None:
                        members = order[starts[i] : stops[i]]
                        voxels[members] = index.voxels_of(int(owners[i]), unique[members])
        out[:] = voxels[where]
        return out

    def supervoxels_of(self, body: int) -> Supervoxels:
        """Supervoxels of a body, ascending, with their voxels.

        Raises
        ------
        NotFound
            If there is no such body.
        """
        held = Index(self.view()).supervoxels(self.resolve(body)[0])
        if held is None or not len(held.id):
            raise NotFound(f"there is no body {body}")
        return held

    def bodies(self, start: int = 0, stop: int | None = None) -> Iterator[int]:
        """Ids of all bodies in [start, stop), ascending."""
        return Index(self.view()).bodies(start, stop)

    def bodies_with_sizes(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, int]]:
        """`bodies`, each with its voxels."""
        return ((body, header.voxels) for body, header in Index(self.view()).scan(start, stop))

    def sparse(
        self,
        label: int,
        *,
        supervoxels: bool = False,
        scale: int = 0,
        bounds: Bounds | None = None,
        exact: bool = True,
    ) -> SparseVolume:
        """The sparse volume of a body or supervoxel.

        Raises
        ------
        NotFound
            If the label doesn't exist.
        BadRequest
            If it is 0 or a supervoxel that was split.
        """
        view = self.view()
        body, supervoxel = self.resolve(label, supervoxels=supervoxels, view=view)
        index = Index(view)
        header = index.header(body)
        if header is None or (supervoxel is not None and not int(index.voxels_of(body, [supervoxel])[0])):
            raise NotFound(f"there is no {'supervoxel' if supervoxels else 'body'} {label}")
        return SparseVolume(view, self.layout, body, supervoxel, scale=check_scale(scale), bounds=bounds, exact=exact)

    def sparse_size(self, label: int, *, supervoxels: bool = False) -> tuple[int, int, Box]:
        """Voxels, blocks and block-aligned box (z, y, x) of a body or supervoxel.

        Raises
        ------
        NotFound
            If the label doesn't exist.
        """
        view = self.view()
        body, supervoxel = self.resolve(label, supervoxels=supervoxels, view=view)
        index = Index(view)
        if supervoxel is None:
            header, box = index.header(body), index.extent(body)
            if header is None or box is None:
                raise NotFound(f"there is no body {label}")
            voxels, blocks = header.voxels, header.blocks
            low, high = np.array(box[0]), np.array(box[1])
        else:
            rows = index.rows_of(body, [supervoxel])
            if not len(rows):
                raise NotFound(f"there is no supervoxel {label}")
            voxels, blocks = rows.voxels, len(rows)
            low, high = rows.block_zyx.min(axis=0), rows.block_zyx.max(axis=0)
        shape = np.array(self.block_shape)
        return voxels, blocks, Box.of(low.astype(np.int64) * shape, (high.astype(np.int64) + 1) * shape)

    def blocks_in(self, space: AnySpace, body: int) -> Iterator[NDArray[np.int32]]:
        """The blocks of a body, int32 (n, 3) (z, y, x) in batches, by the label index read through a space."""
        return (distinct_blocks(rows) for rows in Index(space).layers(body))

    def coarse_volumes(
        self, first: int, last: int, bounds: Bounds | None = None
    ) -> Iterator[tuple[int, NDArray[np.int32]]]:
        """Bodies with ids from `first` to `last`, and for each the runs of its blocks within the bounds."""
        for label in (first, last):
            self.resolve(label)
        view = self.view()
        stop = last + 1 if last < RESERVED else None
        for body in Index(view).bodies(first, stop):
            volume = SparseVolume(view, self.layout, body, bounds=bounds)
            yield body, coarse_runs(volume.block_slabs())
