"""Bodies as NanoVDB grids: their leaves from stored blocks, and values of an image in index order.

Memory is that of the grid: leaves and values of the body are held, voxels never are; of the image a few bricks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from dvid_dask.datatypes.labelmap.sparse import SparseVolume
from dvid_dask.datatypes.labelmap.threads import batches, parallel, stream_parallel
from dvid_dask.errors import BadRequest, NotSupported
from dvid_dask.formats import nanovdb
from dvid_dask.formats.distinct import distinct
from dvid_dask.formats.nanovdb.files import segment
from dvid_dask.formats.nanovdb.grids import MAX_NAME, VALUE_TYPES, index_grid_bytes
from dvid_dask.formats.nanovdb.leaves import Leaves, leaves_of_block

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.versions.space import Space

__all__ = ["BodyGrid", "Image", "Values", "body_grid", "leaves_of", "values_of"]

Values = Literal["channel", "voxels", "apart"]

_BATCH = 256
_BRICK = 6  # bits: images are read in bricks of 64^3 voxels
_PIECE = 1 << 20


class Image(Protocol):
    """What is wanted of an image: an `ImageBlk`, say."""

    @property
    def name(self) -> str:
        """Name of the instance."""
        ...

    def view(self) -> Space:
        """A state to read."""
        ...

    def scales(self) -> list[int]:
        """The scales that are stored."""
        ...

    def read_box(
        self, offset: Sequence[int], shape: Sequence[int], scale: int = 0, *, space: Space | None = None
    ) -> NDArray[Any]:
        """The voxels of a box; offset and shape are z, y, x in voxels of the scale."""
        ...


@dataclass(frozen=True, eq=False)
class BodyGrid:
    """A body as a NanoVDB grid.

    Attributes
    ----------
    name
        The grid's name.
    leaves
        The voxels; ``leaves.coordinates()`` lists them in index order.
    grid
        uint8: the raw grid buffer, as NanoVDB's ``GridHandle`` holds it.
    values
        Values of an image, (voxels,) in index order, as the image has them; None without image. Value `i` is that of
        index `i + 1`.
    """

    name: str
    leaves: Leaves
    grid: NDArray[np.uint8]
    values: NDArray[Any] | None = None

    def pieces(self, *, raw: bool = False, compress: bool = False) -> Iterator[bytes]:
        """The file in pieces: what NanoVDB, Warp and fVDB load.

        Parameters
        ----------
        raw
            Only the grid buffer, without a file's header: NanoVDB and fVDB read that too, Warp doesn't.
        compress
            With NanoVDB's codec ``ZIP``; not of a raw grid.
        """
        if raw and compress:
            raise BadRequest("a raw grid can't be compressed: only a file says how")
        for part in [self.grid.data] if raw else segment(self.grid, compress=compress):
            view = memoryview(part)
            for at in range(0, len(view), _PIECE):
                yield bytes(view[at : at + _PIECE])

    def nbytes(self, *, raw: bool = False) -> int:
        """Bytes of `pieces` that are not compressed."""
        return len(self.grid) + (0 if raw else len(next(segment(self.grid))))

    def tobytes(self, *, raw: bool = False, compress: bool = False) -> bytes:
        """`pieces` in one."""
        return b"".join(self.pieces(raw=raw, compress=compress))


def body_grid(
    volume: SparseVolume,
    name: str,
    voxel_size_zyx: Sequence[float],
    image: Image | None = None,
    values: Values = "channel",
    *,
    allow_empty: bool = False,
    max_bytes: int | None = None,
) -> BodyGrid:
    """The grid of a sparse volume.

    Parameters
    ----------
    volume
        The voxels, at their scale; without bounds.
    name
        Of the grid.
    voxel_size_zyx
        Of a voxel at scale 0.
    image
        Whose values the voxels get.
    values
        How: ``"channel"`` puts them behind an index grid as a channel named like the image, ``"voxels"`` makes a grid
        whose voxels hold them, ``"apart"`` leaves them out of the grid.
    allow_empty
        Whether a volume without voxels is a grid too.
    max_bytes
        Refuse grids that would be larger.

    Raises
    ------
    BadRequest
        If there are no voxels at the scale, the name is too long, or the grid too large.
    NotSupported
        If the image has several channels, or values that no grid holds.
    """
    if values not in ("channel", "voxels", "apart"):
        raise BadRequest(f'values "{str(values)[:40]}" is none of channel, voxels, apart')
    if values == "voxels" and image is None:
        raise BadRequest("a grid whose voxels hold values needs an image")
    if not name or "\0" in name or len(name.encode(errors="replace")) > MAX_NAME:
        raise BadRequest(f"the name of a grid has 1 to {MAX_NAME:,} bytes and no zero byte")
    leaves = leaves_of(volume, None if max_bytes is None else max_bytes // 96)
    if not len(leaves) and not allow_empty:
        raise BadRequest(
            f"failed to build IndexGrid (no voxels found): label {volume.label} has none at scale {volume.scale}"
        )
    needed = index_grid_bytes(leaves)
    if image is not None:
        needed += leaves.voxels * 4 if values != "voxels" else len(leaves) * 2144
    if max_bytes is not None and needed > max_bytes:
        raise BadRequest(
            f"the grid of label {volume.label} would take up to {needed:,} bytes, more than the {max_bytes:,} that are "
            "made here: ask for a coarser scale, or export it"
        )
    with np.errstate(over="ignore"):
        size = [float(v) * 2.0**volume.scale for v in reversed(voxel_size_zyx)]
    held = None if image is None else values_of(leaves, image, volume.scale)
    try:
        if held is None or image is None or values == "apart":
            grid = nanovdb.encode_index_grid(leaves, name=name, voxel_size_xyz=size)
        elif values == "voxels":
            grid = nanovdb.encode_value_grid(leaves, _storable(held, image), name=name, voxel_size_xyz=size)
        else:
            channels = {image.name: _storable(held, image)}
            grid = nanovdb.encode_index_grid(leaves, name=name, voxel_size_xyz=size, channels=channels)
    except ValueError as e:
        raise BadRequest(f"label {volume.label} can't be written as a NanoVDB grid: {e}") from e
    return BodyGrid(name, leaves, grid, held)


def leaves_of(volume: SparseVolume, max_leaves: int | None = None) -> Leaves:
    """The leaves of a sparse volume, from its stored blocks; blocks that are not stored have no voxels.

    Raises
    ------
    BadRequest
        If there are more than `max_leaves`.
    """
    wanted = distinct(volume.foreground())
    parts = []
    found = 0

    def leaves(pair: tuple[tuple[int, int, int], bytes]) -> Any:
        return leaves_of_block(pair[1], pair[0], wanted, ascending=True)

    for batch in batches(volume.stored_blocks(skip_missing=True), _BATCH):
        made = parallel(leaves, batch)
        parts.append((np.concatenate([o for o, _ in made]), np.concatenate([m for _, m in made])))
        found += len(parts[-1][0])
        if max_leaves is not None and found > max_leaves:
            raise BadRequest(
                f"label {volume.label} has more than {max_leaves:,} cubes of 8 x 8 x 8 voxels at scale {volume.scale}: "
                "ask for a coarser scale, or export it"
            )
    return Leaves.of(parts)


def values_of(leaves: Leaves, image: Image, scale: int) -> NDArray[Any]:
    """Values of an image at the voxels of leaves, (voxels,) in index order and of the image's type.

    Raises
    ------
    BadRequest
        If the image hasn't that scale.
    NotSupported
        If it has several channels.
    """
    if scale and scale not in image.scales():
        raise BadRequest(f"{image.name!r} has no scale {scale}: `downres` makes coarser scales of images")
    space = image.view()
    bricks = leaves.origins >> _BRICK
    order = np.lexsort(bricks.T)
    ascending = bricks[order]
    begins = np.flatnonzero(np.append(True, (ascending[1:] != ascending[:-1]).any(axis=1)))[: len(order)]
    stops = np.append(begins[1:], len(order))
    probe = image.read_box((0, 0, 0), (1, 1, 1), scale, space=space)
    if probe.ndim != 3:
        raise NotSupported(f"{image.name!r} has several channels: values are those of images of one")
    out = np.zeros(leaves.voxels, probe.dtype)

    def copy(part: tuple[int, int]) -> None:
        which = order[part[0] : part[1]]
        low = leaves.origins[which].min(axis=0).astype(np.int64)[::-1]
        high = leaves.origins[which].max(axis=0).astype(np.int64)[::-1] + 8
        box = image.read_box(low.tolist(), (high - low).tolist(), scale, space=space)
        leaves.gather(np.ascontiguousarray(box), low.tolist(), which, out)

    for _ in stream_parallel(copy, zip(begins.tolist(), stops.tolist(), strict=True)):
        pass
    return out


def _storable(values: NDArray[Any], image: Image) -> NDArray[Any]:
    """As a type that grids hold, each value exactly."""
    if values.dtype.name in VALUE_TYPES:
        return values
    if values.dtype == np.uint16:
        return values.astype(np.float32)
    raise NotSupported(f"{image.name!r} holds {values.dtype}: grids hold uint8, uint16, uint32 and float32")
