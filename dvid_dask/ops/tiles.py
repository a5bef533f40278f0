"""Tiles of a whole image, at all scales, as Dask tasks.

A plane is cut into squares of a few tiles, and the axis across it into the thickness of the image's blocks, so that a
task reads every block once. It writes the tiles of its square at two or more scales and leaves the square,
shrunk, to the tasks of the next phase, which go on from there: a tile of a coarse scale shows the mean of voxels,
never of pictures that JPEG has changed. Everything of a task is one commit.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.datatypes.imageblk import ImageBlk, PinnedImage
from dvid_dask.datatypes.imagetile import ImageTile, Levels
from dvid_dask.datatypes.imagetile.keys import PLANES, TileId, tile_key
from dvid_dask.errors import BadRequest
from dvid_dask.formats import downsample
from dvid_dask.formats.compression import zstd_compress, zstd_decompress
from dvid_dask.ops import job
from dvid_dask.ops.job import InstanceLedger, LedgerPhase, Result
from dvid_dask.ops.progress import Progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.datatypes.base import Datatype, Space, TxSpace

__all__ = ["TilesReport", "generate_tiles"]

_TASK_BYTES = 1 << 26  # voxels of a task's square, all its slices

Span = tuple[int, int]


@dataclass(frozen=True)
class TilesReport:
    """What was made.

    Attributes
    ----------
    job
        Name of the job.
    tiles
        How many, all planes and scales.
    scales
        How many.
    seconds
        Time of this run.
    """

    job: str
    tiles: int
    scales: int
    seconds: float

    def __str__(self) -> str:
        return f"wrote {self.tiles:,} tiles of {self.scales} scales in {self.seconds:.1f} s"


def generate_tiles(
    instance: Datatype,
    *,
    planes: Sequence[str] = ("xy", "xz", "yz"),
    ranges: dict[str, Span] | None = None,
    levels: Levels | None = None,
    client: Any = None,
    progress: bool = True,
    user: str = "",
    app: str = "",
    force: bool = False,
) -> TilesReport:
    """Make the tiles of an imagetile from its source, at all scales. Tiles that are there already are replaced.

    Coarser scales hold the mean of the pixels below, rounded. The image is read in the state it has now. A run that was
    killed goes on where it was when started again.

    Parameters
    ----------
    instance
        An imagetile with a source that has extents.
    planes
        Of xy, xz and yz.
    ranges
        For ``x``, ``y`` and ``z`` the first and one past the last voxel across the planes (yz, xz, xy); by default
        all of the image.
    levels
        The scales; by default those that the instance has, or else 512 x 512 tiles up to one that holds all.
    client, progress, user, app, force
        As for `ingest`.

    Raises
    ------
    BadRequest
        No imagetile, no source or an empty one, an unknown plane, or scales whose tiles differ in size.
    LockedVersion
        If the version is committed.

    Examples
    --------
    >>> import numpy as np
    >>> import dvid_dask
    >>> repo = dvid_dask.create("memory://").new_repo("fly")
    >>> gray = repo.new_instance("uint8blk", "gray")
    >>> gray.write(np.full((32, 64, 96), 9, np.uint8), (0, 0, 0))
    >>> tiles = repo.new_instance("imagetile", "tiles", {"Source": "gray"})
    >>> generate_tiles(tiles, planes=["xy"], progress=False).tiles
    32
    >>> tiles.picture("xy", 0, (0, 0, 31))[60:66, 90].tolist()
    [9, 9, 9, 9, 0, 0]
    """
    began = time.monotonic()
    if not isinstance(instance, ImageTile):
        raise BadRequest(f"{instance.name!r} is a {instance.info.typename}; tiles are kept in an imagetile")
    instance.check_open(force)
    source = instance.source()
    if not isinstance(source, ImageBlk) or source.extents is None:
        raise BadRequest(f"the source {source.name!r} has no extents: nothing was written yet")
    scales = levels or instance.levels or instance.suggested_levels()
    if scales is None:
        raise BadRequest(f"the source {source.name!r} has no extents: nothing was written yet")
    unknown = [plane for plane in planes if plane not in PLANES]
    if unknown or not planes:
        raise BadRequest(f"planes are of {', '.join(PLANES)}, not {unknown or planes}")
    if any(level.tile_size != scales[0].tile_size for level in scales.levels):
        raise BadRequest("tiles of all scales must have the same size to be made from an image")
    client = job.find_client(client)
    job.check_reach(client, instance)
    pinned = source.pin()
    parts = [_Plane.of(plane, pinned, scales, (ranges or {}).get(_normal(plane))) for plane in dict.fromkeys(planes)]
    instance.set_levels(scales, force=force)
    about = {"planes": list(planes), "levels": scales.described(), "ranges": ranges, "source": source.info.data_uuid}
    name = job.job_name(op="tiles", instance=instance.info.data_uuid, version=instance.version.uuid, **about)
    ledger = InstanceLedger(instance, name, user=user, app=app, force=force)
    ledger.begin({"op": "tiles", **about})
    show = Progress(progress)
    phases = [(p, first) for p in parts for first in p.phases()]
    show.say(f"tiles of {source.name!r}: {', '.join(p.plane for p in parts)}, {len(scales.levels)} scales")
    tiles = 0
    for part, first in phases:
        task = _Squares(ledger, part, first, pinned, tuple((source.value_type, label) for label in source.labels))
        title = f"{part.plane}, scales from {first}"
        phase = LedgerPhase(ledger, task.phase, title, [task.weight] * task.count, task)
        job.execute(phase, client, show)
        tiles += sum(result["tiles"] for result in ledger.done(task.phase).values())
    ledger.finish(lambda m, _: m.log(instance, {"Action": "generate-tiles", "MutationID": m.id, **about}))
    return TilesReport(name, tiles, len(scales.levels), time.monotonic() - began)


def _normal(plane: str) -> str:
    """The axis across a plane."""
    (letter,) = set("xyz") - set(plane)
    return letter


@dataclass(frozen=True)
class _Plane:
    """One plane of the image and how it is cut.

    Attributes
    ----------
    plane
        xy, xz or yz.
    side
        Width and height of a tile.
    factors
        Pixels of each scale across and down that make one of the next.
    box
        Of the image across and down: first and one past the last voxel.
    normals
        Voxels along the axis across the plane.
    thick
        Slices of a task.
    voxel_bytes
        Of the image.
    """

    plane: str
    side: tuple[int, int]
    factors: tuple[tuple[int, int], ...]
    box: tuple[Span, Span]
    normals: Span
    thick: int
    voxel_bytes: int

    @classmethod
    def of(cls, plane: str, image: PinnedImage, levels: Levels, wanted: Span | None) -> _Plane:
        across, down = PLANES[plane]
        normal = "xyz".index(_normal(plane))
        start, stop = (tuple(reversed(corner)) for corner in image.extents)
        first, last = start[normal], stop[normal]
        if wanted is not None:
            first, last = max(first, wanted[0]), min(last, wanted[1])
        size = levels[0].tile_size
        factors = [levels.factors(k) for k in range(len(levels.levels) - 1)]
        if any(size[axis] % f[axis] for f in factors for axis in (across, down)):
            raise BadRequest(f"{plane} tiles of {size[across]} x {size[down]} pixels can't be shrunk by whole factors")
        return cls(
            plane,
            (size[across], size[down]),
            tuple((f[across], f[down]) for f in factors),
            ((start[across], stop[across]), (start[down], stop[down])),
            (first, max(first, last)),
            image.block[2 - normal],
            image.voxel_bytes,
        )

    def reach(self, first: int) -> int:
        """How many scales the tasks make that begin at one: as many as their voxels fit."""
        many = 1
        while first + many <= len(self.factors):
            wide, high = self.square(first, many + 1)
            if wide * high * self.thick * self.voxel_bytes > _TASK_BYTES:
                break
            many += 1
        return many

    def square(self, first: int, scales: int) -> tuple[int, int]:
        """Pixels of scale `first` that make one tile `scales` - 1 scales on."""
        wide, high = self.side
        for across, down in self.factors[first : first + scales - 1]:
            wide, high = wide * across, high * down
        return wide, high

    def phases(self) -> Iterator[int]:
        """The scales that phases begin at."""
        first = 0
        while first <= len(self.factors):
            yield first
            first += self.reach(first)

    def pixels(self, scale: int) -> tuple[Span, Span]:
        """The image in pixels of a scale."""
        spans = list(self.box)
        for factors in self.factors[:scale]:
            spans = [(a // f, -(-b // f)) for (a, b), f in zip(spans, factors, strict=True)]
        return spans[0], spans[1]

    def slices(self) -> list[Span]:
        """The axis across the plane, cut where the image's blocks end."""
        first, last = self.normals
        cut = [at for at in range(first // self.thick * self.thick, last, self.thick) if at > first]
        return [(a, b) for a, b in zip([first, *cut], [*cut, last], strict=True) if a < b]


@dataclass(frozen=True)
class _Squares:
    """The tasks of one phase of a plane."""

    ledger: InstanceLedger
    part: _Plane
    first: int
    image: PinnedImage
    values: tuple[tuple[str, str], ...]

    @property
    def phase(self) -> str:
        return f"{self.part.plane}{self.first}"

    @property
    def weight(self) -> int:
        wide, high = self.part.square(self.first, self.scales)
        return wide * high * self.part.thick

    @property
    def scales(self) -> int:
        return self.part.reach(self.first)

    @property
    def last(self) -> bool:
        """Whether no coarser scale follows."""
        return self.first + self.scales > len(self.part.factors)

    def _grid(self) -> tuple[Span, Span]:
        """Squares across and down."""
        sides = self.part.square(self.first, self.scales)
        spans = self.part.pixels(self.first)
        across, down = ((a // n, -(-b // n)) for (a, b), n in zip(spans, sides, strict=True))
        return across, down

    @property
    def count(self) -> int:
        (a, b), (c, d) = self._grid()
        return (b - a) * (d - c) * len(self.part.slices())

    def __call__(self, index: int) -> Result:
        """Make the tiles of one square and commit them."""
        space = self.ledger.instance.view(0)
        if (done := self.ledger.mark(space, self.phase, index)) is not None:
            return done
        (a, b), (c, d) = self._grid()
        slices = self.part.slices()
        rest, across = divmod(index, b - a)
        number, down = divmod(rest, d - c)
        normals = slices[number]
        stack = self._stack(space, (a + across, c + down), normals, number)
        tiles, left = self._tiles(stack, (a + across, c + down), normals)

        def write(_: Any, tx: TxSpace) -> Result:
            tx.put_many(tiles)
            if left is not None:
                tx.put(self._left(self.first + self.scales, (a + across, c + down), number), _packed(left))
            return {"tiles": len(tiles)}

        return self.ledger.commit(self.phase, index, write)

    def _left(self, first: int, square: tuple[int, int], number: int) -> bytes:
        """The key of what a square leaves for the phase that begins at a scale."""
        return self.ledger.key("x", b"%s%d/%d/%d/%d" % (self.part.plane.encode(), first, number, *square))

    def _stack(self, space: Space, square: tuple[int, int], normals: Span, number: int) -> NDArray[Any]:
        """The pixels of a square at the phase's first scale: (slices, height, width[, channels])."""
        if self.first:
            return self._from_left(space, square, normals, number)
        wide, high = self.part.square(0, self.scales)
        across, down = PLANES[self.part.plane]
        normal = 3 - across - down
        start, shape = [0, 0, 0], [0, 0, 0]
        start[across], start[down], start[normal] = square[0] * wide, square[1] * high, normals[0]
        shape[across], shape[down], shape[normal] = wide, high, normals[1] - normals[0]
        voxels = self.image.read(tuple(reversed(start)), tuple(reversed(shape)))
        # from z, y, x to the order of slice, height, width
        order = [2 - normal, 2 - down, 2 - across, *range(3, voxels.ndim)]
        return voxels.transpose(order)

    def _from_left(self, space: Space, square: tuple[int, int], normals: Span, number: int) -> NDArray[Any]:
        wide, high = self.part.square(self.first, self.scales)
        # what one square of the phase before has become
        part_w, part_h = (n // f for n, f in zip(self.part.side, self.part.factors[self.first - 1], strict=True))
        out = np.zeros((normals[1] - normals[0], high, wide, *self.image.shape[3:]), self.image.dtype)
        many_w, many_h = wide // part_w, high // part_h
        for j in range(many_h):
            keys = [
                self._left(self.first, (square[0] * many_w + i, square[1] * many_h + j), number) for i in range(many_w)
            ]
            for i, value in enumerate(space.get_many(keys)):
                if value is not None:
                    shape = (len(out), part_h, part_w, *self.image.shape[3:])
                    part = _unpacked(value, self.image.dtype, shape)
                    out[:, j * part_h : (j + 1) * part_h, i * part_w : (i + 1) * part_w] = part
        return out

    def _tiles(
        self, stack: NDArray[Any], square: tuple[int, int], normals: Span
    ) -> tuple[list[tuple[bytes, bytes]], NDArray[Any] | None]:
        """Keys and pictures of a square at all scales of the phase, and what is left for the next one."""
        instance = self.ledger.instance
        if not isinstance(instance, ImageTile):
            raise TypeError(f"{instance} has no tiles")
        across, down = PLANES[self.part.plane]
        normal = 3 - across - down
        side_w, side_h = self.part.side
        out: list[tuple[bytes, bytes]] = []
        for scale in range(self.first, self.first + self.scales):
            columns, rows = stack.shape[2] // side_w, stack.shape[1] // side_h
            spans = self.part.pixels(scale)
            for j in range(rows):
                for i in range(columns):
                    at = (square[0] * columns + i, square[1] * rows + j)
                    if not all(
                        t * n < b and (t + 1) * n > a for t, n, (a, b) in zip(at, (side_w, side_h), spans, strict=True)
                    ):
                        continue
                    part = stack[:, j * side_h : (j + 1) * side_h, i * side_w : (i + 1) * side_w]
                    for k, picture in enumerate(part):
                        coord = [0, 0, 0]
                        coord[across], coord[down], coord[normal] = at[0], at[1], normals[0] + k
                        tile = TileId(self.part.plane, scale, (coord[0], coord[1], coord[2]))
                        out.append((tile_key(tile), instance.encode(picture, self.values)))
            if scale < len(self.part.factors):
                wide, high = self.part.factors[scale]
                stack = downsample.mean(stack, (1, high, wide))
        return out, None if self.last else stack


def _packed(stack: NDArray[Any]) -> bytes:
    return zstd_compress(np.ascontiguousarray(stack).data.cast("B"), 1)


def _unpacked(value: bytes, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    size = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer(zstd_decompress(value, size), dtype).reshape(shape)
