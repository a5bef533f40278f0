"""The labelmap: a segmentation of supervoxels, agglomerated into bodies, at one version."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import numpy as np

from dvid_dask.datatypes.base import Datatype, register
from dvid_dask.datatypes.labelmap import edits, events, extents, keys, writes
from dvid_dask.datatypes.labelmap.arrays import VoxelArray
from dvid_dask.datatypes.labelmap.blocks import Layout, blocks_in_box, existing_blocks
from dvid_dask.datatypes.labelmap.counters import RESERVED, NextLabels
from dvid_dask.datatypes.labelmap.extents import Extents
from dvid_dask.datatypes.labelmap.index import Header, Index, Stamp, Supervoxels
from dvid_dask.datatypes.labelmap.mapping import Mapping as LabelMapping
from dvid_dask.datatypes.labelmap.mapping import set_mapping
from dvid_dask.datatypes.labelmap.rows import Rows
from dvid_dask.datatypes.labelmap.settings import changed_settings, new_settings
from dvid_dask.datatypes.labelmap.sparse import Bounds, SparseVolume, coarse_runs
from dvid_dask.datatypes.labelmap.verify import Problem, verify
from dvid_dask.datatypes.labelmap.voxels import check_box, iter_blocks, iter_box, labels_at, read_box
from dvid_dask.errors import BadRequest, NotFound
from dvid_dask.formats.label_index import LabelIndex
from dvid_dask.versions.records import go_time, rfc3339

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from dvid_dask.datatypes.base import Mutation, Space, TxSpace
    from dvid_dask.versions import Version

__all__ = ["LabelMap"]

BlockFilter = Callable[["NDArray[np.int32]"], "NDArray[np.bool_]"]
Point = tuple[int, int, int]

MAX_MESSAGE = 980 * 1024
"""Bytes of a mutation's record from which on its list of supervoxels is kept as a blob, as in DVID."""


@register
class LabelMap(Datatype):
    """A segmentation at one version. Arrays are (z, y, x) uint64, coordinates voxels, signed 32-bit.

    Voxels hold supervoxels; a mapping says which body each belongs to. Indexing reads bodies:

    Examples
    --------
    >>> import dvid_dask
    >>> v = dvid_dask.create("memory://").new_repo("fly")["master"]
    >>> seg = v.repo.new_instance("labelmap", "segmentation", {"BlockSize": "16,16,16", "MaxDownresLevel": "1"})
    >>> labels = np.zeros((16, 16, 32), np.uint64)
    >>> labels[:, :, 4:10], labels[:, :, 10:20] = 7, 9
    >>> seg.write(labels, (0, 0, 0))
    >>> seg.sizes([7, 9, 1]).tolist()
    [1536, 2560, 0]
    >>> int(seg.merge(7, [9])) >= 1_000_000_000
    True
    >>> seg[0, 0, 8:12], seg.supervoxels[0, 0, 8:12]
    (array([7, 7, 7, 7], dtype=uint64), array([7, 7, 9, 9], dtype=uint64))
    >>> seg.cleave(7, [9])[0], seg.size(7)
    (10, 1536)
    """

    typename: ClassVar[str] = "labelmap"
    typeurl: ClassVar[str] = "github.com/janelia-flyem/dvid/datatype/labelmap"
    typeversion: ClassVar[str] = "0.1"
    default_compression: ClassVar[str] = "gzip"
    sync_partners: ClassVar[frozenset[str] | None] = frozenset()

    # ------------------------------------------------------------------ settings

    @classmethod
    def parse_settings(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """See `dvid_dask.datatypes.labelmap.settings`."""
        return new_settings(config)

    @property
    def layout(self) -> Layout:
        """Block shape (z, y, x) and number of coarser scales."""
        x, y, z = self.info.settings["BlockSize"]
        return Layout((z, y, x), self.info.settings["MaxDownresLevel"])

    @property
    def block_shape(self) -> Point:
        """Voxels of a block (z, y, x)."""
        return self.layout.block_shape

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """Size of a voxel (z, y, x) in `voxel_units`."""
        x, y, z = self.info.settings["VoxelSize"]
        return z, y, x

    @property
    def voxel_units(self) -> tuple[str, str, str]:
        """Units of the axes (z, y, x)."""
        x, y, z = self.info.settings["VoxelUnits"]
        return z, y, x

    @property
    def indexed(self) -> bool:
        """Whether a label index is kept."""
        return bool(self.info.settings["IndexedLabels"])

    @property
    def next_labels(self) -> NextLabels:
        """The counters of ids, shared by all versions."""
        return NextLabels(self.repo, self.info.data_uuid)

    def change_settings(self, config: Mapping[str, Any]) -> None:
        """Change settings from a configuration of strings, names in any case. They hold at all versions.

        Raises
        ------
        BadRequest
            When a value can't be used, or the block size of an instance with voxels would change.
        """
        changes = changed_settings(config)
        if changes.get("BlockSize", self.info.settings["BlockSize"]) != self.info.settings["BlockSize"] and (
            self.next_labels.largest or self.extents() is not None
        ):
            raise BadRequest("BlockSize can't be changed once voxels are stored: make another instance")
        self.update_settings(**changes)

    def set_resolution(self, size_xyz: Sequence[float]) -> None:
        """Set the size of a voxel (x, y, z), at all versions."""
        self.update_settings(VoxelSize=[float(v) for v in size_xyz])

    def extents(self) -> Extents | None:
        """First and last voxel written at this version or its ancestors, or as set; None if there is none."""
        held = extents.read_extents(self.view())
        settings = self.info.settings
        if held is None and settings.get("MinPoint") and settings.get("MaxPoint"):
            held = Extents.of(settings["MinPoint"][::-1], settings["MaxPoint"][::-1])
        return held

    def set_extents(
        self, min_point: Sequence[int], max_point: Sequence[int], *, user: str = "", app: str = "", force: bool = False
    ) -> None:
        """Set the extents of this version: first and last voxel (x, y, z), both inclusive."""
        new = Extents.of(list(min_point)[::-1], list(max_point)[::-1])
        self.mutate(lambda _, space: extents.set_extents(space, new), user=user, app=app, force=force)

    def extended(self) -> dict[str, Any]:
        """The labelmap's part of ``info``."""
        largest = extents.max_label(self.view())
        labels = self.next_labels
        return {
            **self._properties(),
            "MaxLabel": {str(self.version.id): largest} if largest else {},
            "MaxRepoLabel": labels.largest,
            "NextLabel": labels.chosen,
            "IndexedLabels": self.indexed,
            "MaxDownresLevel": self.layout.levels,
        }

    def _properties(self) -> dict[str, Any]:
        settings = self.info.settings
        first, last = self._corners()
        block = settings["BlockSize"]
        return {
            "Values": [{"DataType": "uint64", "Label": "labelmap"}],
            "Interpolable": False,
            "BlockSize": block,
            "VoxelSize": settings["VoxelSize"],
            "VoxelUnits": settings["VoxelUnits"],
            "MinPoint": first,
            "MaxPoint": last,
            "MinIndex": None if first is None else [p // b for p, b in zip(first, block, strict=True)],
            "MaxIndex": None if last is None else [p // b for p, b in zip(last, block, strict=True)],
            "Background": settings["Background"],
            "GridStore": settings["GridStore"],
            "ScaleLevel": settings["ScaleLevel"],
        }

    def _corners(self) -> tuple[list[int] | None, list[int] | None]:
        held = self.extents()
        return (None, None) if held is None else (list(held.first[::-1]), list(held.last[::-1]))

    def describe(self) -> dict[str, Any]:
        """DVID's ``info`` of the instance."""
        first, last = self._corners()
        return {**super().describe(), "Extents": {"MinPoint": first, "MaxPoint": last}}

    def metadata(self) -> dict[str, Any]:
        """Axes with resolution, units and extents, as DVID's ``metadata``."""
        settings = self.info.settings
        first, last = self._corners()
        axes = [
            {
                "Label": name,
                "Resolution": settings["VoxelSize"][i],
                "Units": settings["VoxelUnits"][i],
                "Size": 0 if first is None or last is None else last[i] - first[i] + 1,
                "Offset": 0 if first is None else first[i],
            }
            for i, name in enumerate("XYZ")
        ]
        return {"Axes": axes, "Properties": self._properties()}

    # ------------------------------------------------------------------ voxels

    def read(
        self,
        offset_zyx: Sequence[int],
        shape_zyx: Sequence[int],
        scale: int = 0,
        *,
        supervoxels: bool = False,
        roi: str = "",
    ) -> NDArray[np.uint64]:
        """The voxels of a box.

        Parameters
        ----------
        offset_zyx, shape_zyx
            The box in voxels of the scale.
        scale
            0 is full resolution; each step halves it.
        supervoxels
            Supervoxels instead of bodies.
        roi
            Name of an ROI instance: blocks outside of it read as 0. Only at scale 0.

        Returns
        -------
        NDArray[uint64]
            (z, y, x); 0 where nothing is stored.

        Raises
        ------
        BadRequest
            If the box can't be read: empty, over 3 GiB, or beyond signed 32-bit coordinates.
        """
        offset, shape = [int(v) for v in offset_zyx], [int(v) for v in shape_zyx]
        check_box(offset, shape)
        view = self.view()
        return read_box(
            view, self.layout, _mapping(view, supervoxels), offset, shape, check_scale(scale), self.roi(roi, scale)
        )

    def read_slabs(
        self,
        offset_zyx: Sequence[int],
        shape_zyx: Sequence[int],
        scale: int = 0,
        *,
        supervoxels: bool = False,
        roi: str = "",
    ) -> Iterator[NDArray[np.uint64]]:
        """`read` as consecutive arrays in voxel order, in bounded memory."""
        check_box(offset_zyx, shape_zyx)
        view = self.view()
        seen = self.roi(roi, scale)
        return iter_box(view, self.layout, _mapping(view, supervoxels), offset_zyx, shape_zyx, scale, seen)

    def __getitem__(self, box: Any) -> NDArray[np.uint64]:
        """Bodies of ``[z, y, x]``: numbers and slices. An open end of a slice is that of the extents."""
        return self.array()[box]

    def __setitem__(self, box: Any, labels: ArrayLike) -> None:
        """Write supervoxels to a box of whole blocks."""
        offset, shape, _ = self.array().resolve(box)
        self.write(np.broadcast_to(np.asarray(labels, np.uint64), shape), offset)

    @property
    def supervoxels(self) -> VoxelArray:
        """Indexing it reads supervoxels instead of bodies."""
        return self.array(supervoxels=True)

    def array(self, scale: int = 0, *, supervoxels: bool = False) -> VoxelArray:
        """The voxels of a scale as an array-like pinned to the present state; it pickles, with the state."""
        view = self.view()
        held = self.extents() or Extents((0, 0, 0), (-1, -1, -1))
        first = [v >> scale for v in held.first]
        last = [v >> scale for v in held.last]
        return VoxelArray(view, self.layout, check_scale(scale), supervoxels, (first[0], first[1], first[2]), last)

    def to_dask(self, scale: int = 0, *, supervoxels: bool = False, chunks: Any = None) -> Any:
        """A lazy `dask.array` over the extents of this version, pinned to the present state.

        Parameters
        ----------
        scale
            0 is full resolution.
        supervoxels
            Supervoxels instead of bodies.
        chunks
            As dask takes them (z, y, x); four blocks a side by default.

        Returns
        -------
        dask.array.Array
            uint64; its first voxel is the extents' first voxel.
        """
        return self.array(scale, supervoxels=supervoxels).to_dask(chunks)

    def to_xarray(self, scale: int = 0, *, supervoxels: bool = False, chunks: Any = None) -> Any:
        """`to_dask` as an `xarray.DataArray` with coordinates in `voxel_units`."""
        import xarray

        array = self.array(scale, supervoxels=supervoxels)
        size = [v * 2**scale for v in self.voxel_size]
        coords = {
            axis: ((first + np.arange(n)) * step + step / 2, {"units": unit})
            for axis, first, n, step, unit in zip("zyx", array.first, array.shape, size, self.voxel_units, strict=True)
        }
        return xarray.DataArray(
            array.to_dask(chunks),
            dims=("z", "y", "x"),
            coords={axis: (axis, values, attrs) for axis, (values, attrs) in coords.items()},
            name=self.name,
            attrs={"version": self.version.uuid, "scale": scale},
        )

    def labels_at(self, points_zyx: ArrayLike, scale: int = 0, *, supervoxels: bool = False) -> NDArray[np.uint64]:
        """Labels at points int (n, 3) (z, y, x) of the scale; 0 where nothing is stored."""
        view = self.view()
        return labels_at(view, self.layout, _mapping(view, supervoxels), points_zyx, check_scale(scale))

    def blocks(
        self,
        start_zyx: Sequence[int],
        stop_zyx: Sequence[int],
        scale: int = 0,
        *,
        supervoxels: bool = False,
    ) -> Iterator[tuple[Point, bytes, NDArray[np.uint64] | None]]:
        """Blocks stored in a box of block coordinates [start, stop), z y x.

        Yields
        ------
        coordinate, block, table
            The label block with supervoxels, and its label table as bodies; None where that is the block's own.
        """
        view = self.view()
        mapping = _mapping(view, supervoxels)
        for coords in existing_blocks(view, check_scale(scale), start_zyx, stop_zyx):
            yield from iter_blocks(view, self.layout, mapping, scale, coords)

    def specific_blocks(
        self, block_zyx: ArrayLike, scale: int = 0, *, supervoxels: bool = False
    ) -> Iterator[tuple[Point, bytes, NDArray[np.uint64] | None]]:
        """`blocks` of a list of coordinates."""
        view = self.view()
        coords = np.asarray(block_zyx, np.int32).reshape(-1, 3)
        return iter_blocks(view, self.layout, _mapping(view, supervoxels), check_scale(scale), coords)

    def roi(self, name: str, scale: int = 0) -> BlockFilter | None:
        """The blocks that an ROI instance of this version lets be seen; None for an empty name.

        Where the ROI's blocks have another size than this instance's, a block is seen if its middle voxel is in it.

        Raises
        ------
        BadRequest
            If there is no such ROI, or the scale is not 0.
        """
        if not name:
            return None
        if scale:
            raise BadRequest(f"an ROI is known in blocks of scale 0; it can't mask scale {scale}")
        if name not in self.version or self.version[name].typename != "roi":
            raise BadRequest(f"there is no ROI named {name!r}")
        region: Any = self.version[name]
        seen: BlockFilter = functools.partial(region.pin().contains_blocks, block_shape=self.block_shape)
        return seen

    # ------------------------------------------------------------------ writing voxels

    def write(
        self,
        labels_zyx: NDArray[np.uint64],
        offset_zyx: Sequence[int],
        *,
        roi: str = "",
        user: str = "",
        app: str = "",
        force: bool = False,
    ) -> None:
        """Write supervoxels: whole blocks, all coarser scales and the label index, in one commit.

        Parameters
        ----------
        labels_zyx
            uint64 (z, y, x), a multiple of the block shape.
        offset_zyx
            Its first voxel, a multiple of the block shape.
        roi
            Name of an ROI instance: blocks outside of it are not written.

        Raises
        ------
        BadRequest
            If it isn't made of whole blocks or leaves signed 32-bit coordinates.
        LockedVersion
            If the version is committed.
        """
        labels = np.asarray(labels_zyx)
        if labels.dtype.kind not in "ui" or (labels.dtype.kind == "i" and labels.size and int(labels.min()) < 0):
            raise BadRequest(f"labels are unsigned integers, got {labels.dtype}")
        if labels.ndim != 3:
            raise BadRequest(f"labels have three dimensions (z, y, x), got {labels.shape}")
        self.write_slabs(
            lambda _: labels.astype(np.uint64, copy=False),
            offset_zyx,
            labels.shape,
            thickness=labels.shape[0],
            roi=roi,
            user=user,
            app=app,
            force=force,
        )

    def write_slabs(
        self,
        next_slab: Callable[[int], NDArray[np.uint64]],
        offset_zyx: Sequence[int],
        shape_zyx: Sequence[int],
        *,
        thickness: int = 0,
        roi: str = "",
        user: str = "",
        app: str = "",
        force: bool = False,
    ) -> None:
        """`write` of a box that comes slab by slab; only compressed blocks are held.

        Parameters
        ----------
        next_slab
            Called with a number of planes, returns the next ones: uint64 (planes, y, x).
        offset_zyx, shape_zyx
            The box, made of whole blocks.
        thickness
            Planes of a slab, a multiple of the block's; one layer of blocks by default.
        roi, user, app, force
            As for `write`.
        """
        self.check_open(force)
        offset, shape = [int(v) for v in offset_zyx], [int(v) for v in shape_zyx]
        check_box(offset, shape, None)
        writes.check_aligned(self.layout, offset, shape)
        self._check_blocks(offset, shape)
        seen = self.roi(roi)
        parts = []
        step = thickness or self.block_shape[0]
        for z in range(0, shape[0], step):
            planes = min(step, shape[0] - z)
            at = [offset[0] + z, offset[1], offset[2]]
            keep = None if seen is None else seen(self._blocks_of_box(at, [planes, shape[1], shape[2]]))
            parts.append(writes.prepare_array(self.layout, next_slab(planes), at, keep))
        self._store(writes.Prepared.join(parts), downres=True, user=user, app=app, force=force)

    def _blocks_of_box(self, offset_zyx: Sequence[int], shape_zyx: Sequence[int]) -> NDArray[np.int32]:
        start = [o // b for o, b in zip(offset_zyx, self.block_shape, strict=True)]
        stop = [(o + n) // b for o, n, b in zip(offset_zyx, shape_zyx, self.block_shape, strict=True)]
        return blocks_in_box(start, stop)

    def write_blocks(
        self,
        records: Iterable[tuple[int, int, int, bytes]],
        *,
        scale: int = 0,
        index: bool = True,
        downres: bool = False,
        user: str = "",
        app: str = "",
        force: bool = False,
    ) -> None:
        """Write label blocks from a stream of (bx, by, bz, gzip of the label block), in one commit.

        Parameters
        ----------
        records
            Block coordinates at the scale, x y z as on the wire; read once, only compressed blocks are held.
        scale
            Scale of the blocks. Only scale 0 is indexed and has extents.
        index
            Whether to keep the label index in line.
        downres
            Whether to bring the coarser scales in line.

        Raises
        ------
        BadRequest, FormatError
            If the stream or a block can't be used; nothing is written.
        LockedVersion
            If the version is committed.
        """
        self.check_open(force)
        if downres and scale:
            raise BadRequest(f"coarser scales are made from scale 0, not from scale {scale}")
        prepared = writes.prepare_records(self.layout, records)
        self._store(prepared, scale=scale, index=index, downres=downres, user=user, app=app, force=force)

    def ingest_supervoxels(
        self, records: Iterable[tuple[int, int, int, bytes]], *, scale: int = 0, force: bool = False
    ) -> None:
        """Write label blocks alone: no index, no coarser scales, no extents, no event. For bulk loaders."""
        self.check_open(force)
        prepared = writes.prepare_records(self.layout, records)
        block_keys = keys.blocks(check_scale(scale), prepared.block_zyx)
        pairs = list(zip(block_keys, prepared.values, strict=True))
        if pairs:
            self.mutate(lambda _, space: space.put_many(pairs), force=force)

    def _check_blocks(self, offset_zyx: Sequence[int], shape_zyx: Sequence[int]) -> None:
        first = [o // b for o, b in zip(offset_zyx, self.block_shape, strict=True)]
        last = [(o + n) // b - 1 for o, n, b in zip(offset_zyx, shape_zyx, self.block_shape, strict=True)]
        for corner in (first, last):
            writes.check_block_coordinate(self.layout, corner)

    def _store(
        self,
        prepared: writes.Prepared,
        *,
        scale: int = 0,
        index: bool = True,
        downres: bool = False,
        user: str,
        app: str,
        force: bool,
    ) -> None:
        if not len(prepared):
            return
        check_scale(scale)
        layout, index = self.layout, index and self.indexed
        if scale == 0:
            self.next_labels.raise_to(prepared.max_label)

        def change(m: Mutation, space: TxSpace) -> None:
            written = writes.store(space, layout, prepared, scale=scale, index=index, downres=downres)
            if scale == 0:
                m.publish(self, events.BlocksWritten(m.id, written.block_zyx))

        self.mutate(change, user=user, app=app, force=force)

    # ------------------------------------------------------------------ bodies

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

    def sparse_size(self, label: int, *, supervoxels: bool = False) -> tuple[int, int, Extents]:
        """Voxels, blocks and block-aligned extents of a body or supervoxel.

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
        return voxels, blocks, Extents.of(low.astype(np.int64) * shape, (high.astype(np.int64) + 1) * shape - 1)

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

    def index(self, body: int) -> LabelIndex:
        """The label index of a body, whole; for bodies of 10**8 rows see `Index.layers`.

        Raises
        ------
        NotFound
            If there is no such body.
        """
        found = next(self.indices([self.resolve(body)[0]]))
        if found is None:
            raise NotFound(f"there is no body {body}")
        return found

    def indices(self, bodies: Iterable[int]) -> Iterator[LabelIndex | None]:
        """Label indices of many bodies, in their order; None for one that doesn't exist."""
        index = Index(self.view())
        for body in bodies:
            header = index.header(body)
            if header is None:
                yield None
                continue
            rows = index.rows(body)
            stamp = header.stamp
            yield LabelIndex(
                body,
                rows.block_zyx,
                rows.supervoxel,
                rows.count,
                rows.surface,
                stamp.mutation,
                stamp.time,
                stamp.user,
                stamp.app,
            )

    def set_indices(self, indices: Iterable[LabelIndex], *, force: bool = False) -> None:
        """Replace label indices as they are given, unchecked against voxels and mapping; one without rows is deleted.

        Raises
        ------
        BadRequest
            If one is of label 0; nothing is changed.
        """
        self.check_open(force)
        listed = list(indices)
        if any(not i.label for i in listed):
            raise BadRequest("a label index of label 0 can't be stored: 0 is background")
        largest = max((i.label for i in listed if len(i.supervoxel)), default=0)
        self.next_labels.raise_to(largest)

        def change(_: Mutation, space: TxSpace) -> None:
            index = Index(space)
            for given in listed:
                rows = Rows.of(given.block_zyx, given.supervoxel, given.count, given.surface_mutid)
                rows = rows[(rows.count > 0) & (rows.supervoxel > 0)]
                stamp = Stamp(given.last_mutid, given.last_mod_time, given.last_mod_user, given.last_mod_app)
                index.replace(given.label, rows, stamp)
            if largest:
                extents.raise_max_label(space, largest)

        self.mutate(change, force=force)

    def index_version(self, body: int) -> Version:
        """The version at which the index of a body was last written, or deleted.

        Raises
        ------
        BadRequest
            If no version up to this one has an index of the body.
        """
        key = keys.body(self.resolve(body)[0])
        at = self.version
        value = self.view().get(key)
        if not self.info.versioned:
            if value is None:
                raise BadRequest(f"there is no body {body}")
            return at
        known = value is not None
        while True:
            parents = at.parents
            held = [(p, p[self.name].view().get(key)) for p in parents]
            same = next((p for p, v in held if v == value), None)
            if value is None and any(v is not None for _, v in held):
                return at
            if same is None:
                break
            at = same
        if not known:
            raise BadRequest(f"there is no body {body} in this version or its ancestors")
        return at

    # ------------------------------------------------------------------ mapping

    def mapping(self, ids: ArrayLike, *, lookup: bool = True) -> NDArray[np.uint64]:
        """The body of each id.

        Parameters
        ----------
        ids
            Supervoxels.
        lookup
            Whether an id without entry in the mapping must occur in its own body's index; 0 if it doesn't.

        Returns
        -------
        NDArray[uint64]
            0 for an id that is retired, unknown or 0.
        """
        wanted = np.asarray(ids, np.uint64).reshape(-1)
        view = self.view()
        found, values = LabelMapping(view).entries(wanted)
        out = np.where(found, values, wanted)
        if lookup:
            index = Index(view)
            own = np.unique(wanted[~found & (wanted != 0)])
            there = np.zeros(len(own), np.bool_)
            for a in range(0, len(own), 4096):
                part = own[a : a + 4096].tolist()
                there[a : a + 4096] = index.has_own_supervoxel(part)
            gone = own[~there]
            out[~found & np.isin(wanted, gone)] = 0
        return out

    def mappings(self) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.uint64]]]:
        """All entries (ids, bodies) that are not identities, in pages, ids ascending."""
        return LabelMapping(self.view()).scan()

    def set_mappings(self, ids: ArrayLike, bodies: ArrayLike, *, force: bool = False) -> None:
        """Set the body of ids (0 retires an id), without a look at the label index: for bulk loaders.

        Of an id named twice the last counts.
        """
        self.check_open(force)
        wanted, values = np.asarray(ids, np.uint64).reshape(-1), np.asarray(bodies, np.uint64)
        if len(wanted):
            self.mutate(lambda _, space: set_mapping(space, wanted, values), force=force)

    # ------------------------------------------------------------------ edits

    def merge(self, target: int, others: Sequence[int], *, user: str = "", app: str = "", force: bool = False) -> int:
        """Make bodies part of another; returns the mutation id.

        Raises
        ------
        BadRequest
            If a body doesn't exist or is named wrongly; nothing is changed.
        """
        merged = list(dict.fromkeys(int(o) for o in others))

        def change(m: Mutation, space: TxSpace) -> int:
            edits.merge(space, target, merged, self._stamp(m))
            self._log(m, "merge-complete", Target=target, Labels=merged)
            m.publish(self, events.BodiesMerged(m.id, target, tuple(merged)))
            return m.id

        return self.mutate(change, user=user, app=app, force=force)

    def cleave(
        self, body: int, supervoxels: ArrayLike, *, user: str = "", app: str = "", force: bool = False
    ) -> tuple[int, int]:
        """Make supervoxels of a body a new body; returns its id and the mutation id.

        Raises
        ------
        BadRequest
            If the body doesn't exist, a supervoxel isn't part of it, or none would stay; nothing is changed.
        """
        self.resolve(body)
        self.check_open(force)
        svs = np.unique(np.asarray(supervoxels, np.uint64).reshape(-1))
        if not len(svs):
            raise BadRequest("a cleave takes at least one supervoxel")
        view = self.view(0)
        edits.check_cleave(view, body, svs)  # before an id is drawn: it would be gone
        new_body = self._unused_label(view)
        moved: dict[str, Any] = {"CleavedSupervoxels": svs.tolist()}
        if len(encoded := msgspec.json.encode(moved)) > MAX_MESSAGE:
            moved = {"DataRef": self.version.datastore.put_blob(encoded)}

        def change(m: Mutation, space: TxSpace) -> tuple[int, int]:
            done = edits.cleave(space, body, new_body, svs, self._stamp(m))
            self._log(
                m,
                "cleave-complete",
                OrigLabel=body,
                CleavedLabel=new_body,
                **moved,
                CleavedSize=done.cleaved_voxels,
                RemainSize=done.remaining_voxels,
            )
            m.publish(self, events.BodyCleaved(m.id, body, new_body, svs))
            return new_body, m.id

        return self.mutate(change, user=user, app=app, force=force)

    def _unused_label(self, view: Space) -> int:
        """The next label; one in use is skipped: administrators may have chosen a range with such labels."""
        for _ in range(1000):
            label, _ = self.next_labels.allocate()
            if not edits.is_used(view, label):
                return label
        raise BadRequest(f"the 1000 labels up to {label} are in use: have an administrator set another next label")

    def renumber(
        self, pairs: Sequence[tuple[int, int]], *, user: str = "", app: str = "", force: bool = False
    ) -> list[int]:
        """Give bodies other ids: pairs (new, old), one after the other, all or none.

        Returns
        -------
        list of int
            The mutation id of each pair.

        Raises
        ------
        BadRequest
            If an old body doesn't exist, a new one does, or an id is 0; nothing is changed.
        """
        self.check_open(force)
        if not pairs:
            return []
        if any(not 0 <= i <= RESERVED for pair in pairs for i in pair):
            raise BadRequest("ids of bodies are 1 to 2**64 - 1")
        edits.check_renumber(self.view(0), pairs)
        more = [self.repo.next_mutation_id() for _ in pairs[1:]]

        def change(m: Mutation, space: TxSpace) -> list[int]:
            ids = [m.id, *more]
            for mutation, (new, old) in zip(ids, pairs, strict=True):
                edits.renumber(space, old, new, self._stamp(m, mutation))
                self._log(m, "renumber-complete", mutation, NewLabel=new, OrigLabel=old)
                m.publish(self, events.BodyRenumbered(mutation, old, new))
            return ids

        self.next_labels.raise_to(max(new for new, _ in pairs))
        return self.mutate(change, user=user, app=app, force=force)

    @staticmethod
    def _stamp(m: Mutation, mutation: int | None = None) -> Stamp:
        return Stamp(m.id if mutation is None else mutation, rfc3339(m.time), m.user, m.app)

    def _log(self, m: Mutation, action: str, mutation: int | None = None, **fields: Any) -> None:
        record = {
            "Action": action,
            "MutationID": m.id if mutation is None else mutation,
            "UUID": self.version.uuid,
            "Timestamp": go_time(m.time),
            **({"User": m.user} if m.user else {}),
            **({"App": m.app} if m.app else {}),
            **fields,
        }
        m.log(self, dict(sorted(record.items())))

    # ------------------------------------------------------------------ ids

    def max_label(self) -> int:
        """The largest label of this version and its ancestors, 0 if there is none."""
        return extents.max_label(self.view())

    def raise_max_label(self, label: int, *, force: bool = False) -> None:
        """Make the largest label of this version at least `label`."""
        self.next_labels.raise_to(label)
        self.mutate(lambda _, space: extents.raise_max_label(space, label), force=force)

    def allocate_labels(self, n: int = 1, *, force: bool = False) -> tuple[int, int]:
        """Reserve `n` ids that nobody else gets; first and last.

        Raises
        ------
        BadRequest
            If `n` is not positive or the ids run out.
        """
        self.check_open(force)
        first, last = self.next_labels.allocate(n)
        self.mutate(lambda _, space: extents.raise_max_label(space, last), force=force)
        return first, last

    def verify(self) -> Iterator[Problem]:
        """What in this version doesn't agree: index, voxels, mapping, sums, scales. Nothing, if all is well."""
        return verify(self.view(), self.layout, indexed=self.indexed)

    # ------------------------------------------------------------------ history

    def body_history(self, body: int, begin: Version) -> Iterator[dict[str, Any]]:
        """The edits from version `begin` to this one that the supervoxels of a body went through, oldest first.

        Merges and cleaves are told by the bodies that these supervoxels had at `begin` and since.
        """
        held = Index(self.view()).supervoxels(self.resolve(body)[0])
        path: list[Version] = []
        for version in self.version.path_to_root():
            path.append(version)
            if version == begin:
                break
        start = path[-1][self.name]
        if not isinstance(start, LabelMap) or held is None:
            return
        bodies = {*LabelMapping(start.view()).bodies(held.id).tolist(), body}
        for version in reversed(path):
            for record in version[self.name].mutations():
                told = _told(record)
                if told is not None and told.get("Target", told.get("OrigLabel")) in bodies:
                    yield told
                    bodies.add(told.get("CleavedLabel", told.get("Target")))

    # ------------------------------------------------------------------ versions against each other

    def describe_change(self, key: bytes) -> Any:
        """A changed key in a labelmap's words: a block of voxels, a body, a page of the mapping; None for the rest."""
        kind = key[:1]
        if kind == keys.BLOCK:
            z, y, x = keys.blocks_of([key])[0].tolist()
            return {"block": (z, y, x), "scale": key[1]}
        if kind == keys.BODY:
            return {"body": keys.body_of(key)}
        if kind == keys.MAPPING:
            first = keys.mapping_page_of(key) << keys.MAPPING_BITS
            return {"mapping": (first, first + (1 << keys.MAPPING_BITS) - 1)}
        return None

    def merge_value(self, key: bytes, base: bytes | None, values: Sequence[bytes | None]) -> Any:
        """Extents are united, of largest labels the largest counts; all else is a conflict."""
        present = [v for v in values if v is not None]
        if present and key == keys.EXTENTS:
            return extents.united(present)
        if present and key.startswith(keys.MAX_LABEL):
            return max(present)
        return super().merge_value(key, base, values)


def _told(record: dict[str, Any]) -> dict[str, Any] | None:
    """A record of the mutation log as `history` tells it."""
    action = str(record.get("Action", "")).removesuffix("-complete")
    if action == "merge":
        return {"Action": action, "Target": record["Target"], "Labels": record["Labels"]}
    if action == "cleave":
        fields = ("OrigLabel", "CleavedLabel", "CleavedSupervoxels", "DataRef")
        return {"Action": action, **{f: record[f] for f in fields if f in record}}
    return None


def _mapping(view: Space, supervoxels: bool) -> LabelMapping | None:
    return None if supervoxels else LabelMapping(view)


def check_scale(scale: int) -> int:
    """A scale that keys can name.

    Raises
    ------
    BadRequest
        If it is not 0 to 255.
    """
    if not 0 <= scale <= 255:
        raise BadRequest(f"scale {scale} is out of range: expected 0 to 255")
    return scale
