"""V3D raw files into multichan16 instances, as Dask tasks: a file of any size, in bricks."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.boxes import INT32_MAX, Box, Point, ceil_div
from dvid_dask.datatypes.imageblk import Multichan16
from dvid_dask.errors import BadRequest
from dvid_dask.formats.errors import FormatError
from dvid_dask.formats.v3draw import HEADER_BYTES, Header, parse_header
from dvid_dask.ops import job
from dvid_dask.ops.job import InstanceLedger, LedgerPhase, Result
from dvid_dask.ops.progress import Progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.datatypes.base import Datatype, Mutation, TxSpace

__all__ = ["V3drawReport", "load_v3draw"]

_BRICK_BYTES = 1 << 26


@dataclass(frozen=True)
class V3drawReport:
    """What was loaded.

    Attributes
    ----------
    job
        Name of the job.
    shape
        Voxels in z, y, x.
    channels
        How many.
    seconds
        Time of this run.
    """

    job: str
    shape: Point
    channels: int
    seconds: float

    def __str__(self) -> str:
        z, y, x = self.shape
        return f"loaded {x} x {y} x {z} voxels of {self.channels} channels in {self.seconds:.1f} s"


def load_v3draw(
    path: str,
    instance: Datatype,
    *,
    client: Any = None,
    progress: bool = True,
    user: str = "",
    app: str = "",
    force: bool = False,
) -> V3drawReport:
    """Load a V3D raw file into a multichan16 instance; its first voxel goes to 0, 0, 0.

    The instance gets the file's channels. Blocks at the far faces are filled up with 0. The ranges of values are noted
    for the composite. A run that was killed goes on where it was when started again.

    Parameters
    ----------
    path
        Path or URL of the file, for workers too.
    instance
        A multichan16.
    client, progress, user, app, force
        As for `ingest`.

    Raises
    ------
    BadRequest
        No multichan16, one with other channels, or no V3D raw file, or a file that is cut off; nothing was changed.
    LockedVersion
        If the version is committed.
    """
    began = time.monotonic()
    if not isinstance(instance, Multichan16):
        raise BadRequest(f"{instance.name!r} is a {instance.info.typename}; channels are kept in a multichan16")
    instance.check_open(force)
    header = _header(path)
    channels, depth, height, width = header.shape
    client = job.find_client(client)
    job.check_reach(client, instance)
    instance.set_channels(np.dtype(header.dtype).name, channels)
    z, y, x = instance.block_shape
    row = header.row_bytes * channels * z
    high = max(1, min(_BRICK_BYTES // (row * y), ceil_div(height, y))) * y
    whole = Box.of_shape((ceil_div(depth, z) * z, ceil_div(height, y) * y, ceil_div(width, x) * x))
    bricks = list(whole.split((z, high, whole.shape[2])))
    name = job.job_name(
        op="v3draw", instance=instance.info.data_uuid, version=instance.version.uuid, path=path, shape=header.shape
    )
    ledger = InstanceLedger(instance, name, user=user, app=app, force=force)
    ledger.begin({"op": "v3draw", "path": path}, lambda _, space: instance.create_scale(space, 0))
    show = Progress(progress)
    show.say(f"{path}: {width} x {height} x {depth} voxels of {channels} channels, in {len(bricks):,} bricks")
    task = _Load(ledger, path, header, tuple(bricks))
    job.execute(LedgerPhase(ledger, "load", "load", [b.size * channels for b in bricks], task), client, show)

    def finish(m: Mutation, space: TxSpace) -> None:
        results = ledger.done("load").values()
        low = np.min([r["low"] for r in results], axis=0).tolist()
        top = np.max([r["high"] for r in results], axis=0).tolist()
        instance.write_ranges(space, list(zip(low, top, strict=True)))
        instance.grow_extents(space, (0, 0, 0), (depth, height, width))
        m.log(instance, {"Action": "load-v3draw", "MutationID": m.id, "Size": [width, height, depth]})

    ledger.finish(finish)
    return V3drawReport(name, (depth, height, width), channels, time.monotonic() - began)


def _header(path: str) -> Header:
    import fsspec

    try:
        with fsspec.open(path, "rb") as file:
            header = parse_header(file.read(HEADER_BYTES))
            size = file.seek(0, 2)
    except FormatError as error:
        raise BadRequest(f"{path}: {error}") from None
    except (OSError, ValueError) as error:
        raise BadRequest(f"{path} can't be read: {error}") from None
    if size < header.file_bytes:
        raise BadRequest(f"{path} is cut off: {size} of {header.file_bytes} bytes")
    if max(header.shape) > INT32_MAX:
        raise BadRequest(f"{path}: {header.shape} leaves the coordinates of int32")
    return header


@dataclass(frozen=True)
class _Load:
    """One brick, all of its channels, from the file into its blocks."""

    ledger: InstanceLedger
    path: str
    header: Header
    bricks: tuple[Box, ...]

    def __call__(self, index: int) -> Result:
        """Do one brick and commit it."""
        instance = self.ledger.instance
        if not isinstance(instance, Multichan16):
            raise TypeError(f"{instance} has no channels")
        space = instance.view(0)
        if (done := self.ledger.mark(space, "load", index)) is not None:
            return done
        brick = self.bricks[index]
        voxels, low, high = self._read(brick)
        items = instance.bulk_encode(space, voxels, brick.start)

        def write(_: Any, tx: TxSpace) -> Result:
            tx.put_many(items)
            return {"low": low, "high": high}

        return self.ledger.commit("load", index, write)

    def _read(self, brick: Box) -> tuple[NDArray[Any], list[int], list[int]]:
        """The voxels of a brick, and the least and largest value of each channel."""
        import fsspec

        channels, depth, height, width = self.header.shape
        dtype = np.dtype(self.header.dtype)
        there = brick.intersect(Box.of_shape((depth, height, width)))
        out = np.zeros((*brick.shape, channels), dtype.newbyteorder("="))
        rows = there.shape[1]
        low, high = [], []
        with fsspec.open(self.path, "rb") as file:
            for channel in range(channels):
                for z in range(there.start[0], there.stop[0]):
                    plane = channel * depth + z
                    file.seek(HEADER_BYTES + plane * self.header.plane_bytes + there.start[1] * self.header.row_bytes)
                    data = file.read(rows * self.header.row_bytes)
                    if len(data) < rows * self.header.row_bytes:
                        raise BadRequest(f"{self.path} has become shorter while it was read")
                    part = np.frombuffer(data, dtype).reshape(rows, width)
                    out[z - brick.start[0], :rows, :width, channel] = part
                inside = out[: there.shape[0], :rows, :width, channel]
                low.append(int(inside.min()))
                high.append(int(inside.max()))
        return (out[..., 0] if channels == 1 else out), low, high
