"""Bodies as NanoVDB files, one for each, as a Dask graph.

A task writes some bodies; it holds one of them at a time: its leaves and, where an image is given, its values.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.bases import directory_url
from dvid_dask.datatypes.imageblk import ImageBlk
from dvid_dask.datatypes.labelmap import BodyVolume
from dvid_dask.datatypes.labelmap.index import Index
from dvid_dask.datatypes.labelmap.mapping import Mapping as LabelMapping
from dvid_dask.datatypes.labelmap.nanovdb import Values, body_grid
from dvid_dask.datatypes.labelmap.sparse import SparseVolume
from dvid_dask.errors import BadRequest, Conflict, NotFound, NotSupported
from dvid_dask.formats.distinct import distinct
from dvid_dask.ops import job
from dvid_dask.ops.folders import end_job, ledger_at, plain_url, write_whole
from dvid_dask.ops.job import LedgerPhase, Result, ScratchLedger
from dvid_dask.ops.progress import Progress

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from dvid_dask.datatypes.base import Datatype, Space
    from dvid_dask.datatypes.labelmap.blocks import Layout

__all__ = ["BodiesReport", "export_bodies"]

_LEDGER = ".dvid-dask-export/"
_DRAFTS = f"{_LEDGER}drafts/"
_LABELS = 256  # of a task at most
_VOXELS = 1 << 26  # of a task, unless one label has more
_BATCH = 4096


@dataclass(frozen=True)
class BodiesReport:
    """What an export of bodies did.

    Attributes
    ----------
    destination
        Where the files are.
    files
        Bodies written.
    empty
        Bodies left out: they have no voxels at the scale.
    voxels
        Voxels of the files.
    seconds
        Time of this run.
    """

    destination: str
    files: int
    empty: int
    voxels: int
    seconds: float

    def __str__(self) -> str:
        left_out = f", {self.empty:,} have no voxels at this scale" if self.empty else ""
        amount = f"{self.files:,} bodies, {self.voxels / 1e6:,.1f} Mvoxel"
        return f"wrote {amount} to {self.destination} in {self.seconds:.1f} s{left_out}"


@dataclass(frozen=True)
class _PinnedImage:
    """An image in one state."""

    image: ImageBlk
    space: Space

    @property
    def name(self) -> str:
        return self.image.name

    def view(self) -> Space:
        return self.space

    def scales(self) -> list[int]:
        return self.image.layout.scales(self.space)

    def read_box(
        self, offset: Sequence[int], shape: Sequence[int], scale: int = 0, *, space: Space | None = None
    ) -> NDArray[Any]:
        return self.image.bulk_read(self.space if space is None else space, offset, shape, scale)


@dataclass(frozen=True)
class _Write:
    """Writes the files of some labels."""

    ledger: ScratchLedger
    space: Space
    layout: Layout
    voxel_size: tuple[float, float, float]
    url: str
    labels: NDArray[np.uint64]
    bodies: NDArray[np.uint64]
    starts: NDArray[np.int64]  # of each task's labels, and the end
    scale: int
    supervoxels: bool
    image: _PinnedImage | None
    values: Values
    compress: bool

    def __call__(self, index: int) -> Result:
        done = {"files": 0, "empty": 0, "voxels": 0}
        for i in range(int(self.starts[index]), int(self.starts[index + 1])):
            voxels = self._write(int(self.labels[i]), int(self.bodies[i]))
            done["voxels"] += voxels
            done["files" if voxels else "empty"] += 1
        return self.ledger.commit("bodies", index, lambda _, __: done)

    def _write(self, label: int, body: int) -> int:
        supervoxel = label if self.supervoxels else None
        volume = SparseVolume(self.space, self.layout, body, supervoxel, scale=self.scale)
        made = body_grid(volume, f"label_{label}", self.voxel_size, self.image, self.values, allow_empty=True)
        if not len(made.leaves):
            return 0
        url = plain_url(self.url)
        if self.values == "apart" and made.values is not None and self.image is not None:
            little = made.values.astype(made.values.dtype.newbyteorder("<"), copy=False)
            with write_whole(f"{url}{label}-{self.image.name}.bin", url + _DRAFTS) as file:
                file.write(little.data.cast("B"))
        with write_whole(f"{url}{label}.nvdb", url + _DRAFTS) as file:
            for piece in made.pieces(compress=self.compress):
                file.write(piece)
        return made.leaves.voxels


def export_bodies(
    instance: Datatype,
    destination: str,
    bodies: ArrayLike | None = None,
    *,
    min_voxels: int = 0,
    supervoxels: bool = False,
    scale: int = 0,
    image: Datatype | None = None,
    values: Values = "channel",
    compress: bool = False,
    client: Any = None,
    progress: bool = True,
) -> BodiesReport:
    """Write bodies as NanoVDB files ``<label>.nvdb``, as a Dask graph; killed and started again it goes on.

    All is read from one state of the version, also while others edit it.

    Parameters
    ----------
    instance
        A labelmap at any version.
    destination
        Path or URL (``file://``, ``gs://``, ``s3://``) of a directory that doesn't exist or is empty.
    bodies
        Ids; by default all bodies.
    min_voxels
        Leave out bodies with fewer voxels at full resolution.
    supervoxels
        Whether the ids are supervoxels.
    scale
        0 is full resolution.
    image
        An image whose values belong to the voxels.
    values
        ``"channel"``, ``"voxels"`` or ``"apart"`` as for `LabelMap.nanovdb`; apart are files ``<label>-<image>.bin`` of
        the values in index order, little-endian.
    compress
        With NanoVDB's codec ``ZIP``.
    client, progress
        As for `ingest`.

    Raises
    ------
    BadRequest
        If there is nothing to export, or an option can't be used.
    NotFound
        If one of the bodies doesn't exist.
    NotSupported
        If it is no labelmap with an index, or the image's values can't be kept.
    Conflict
        If there is something at the destination.

    Examples
    --------
    >>> import tempfile, os
    >>> import numpy as np
    >>> import dvid_dask
    >>> repo = dvid_dask.create("memory://").new_repo("fly")
    >>> seg = repo.new_instance("labelmap", "segmentation", {"BlockSize": "16,16,16"})
    >>> seg.write(np.repeat(np.array([3, 5], np.uint64), 8)[None, None].repeat(16, 0).repeat(16, 1), (0, 0, 0))
    >>> folder = tempfile.mkdtemp() + "/bodies"
    >>> export_bodies(seg, folder, progress=False).files, sorted(os.listdir(folder))
    (2, ['3.nvdb', '5.nvdb'])
    """
    began = time.monotonic()
    if not isinstance(instance, BodyVolume) or not instance.indexed:
        raise NotSupported(f"bodies are those of a labelmap or labelarray with an index; {instance.name!r} is none")
    if values not in ("channel", "voxels", "apart"):
        raise BadRequest(f'values "{str(values)[:40]}" is none of channel, voxels, apart')
    if image is None and values != "channel":
        raise BadRequest(f'values="{values}" needs an image')
    client = job.find_client(client)
    job.check_reach(client, instance)
    space = instance.view(0)
    labels, owners, sizes = _chosen(space, bodies, supervoxels, min_voxels)
    if not len(labels):
        raise BadRequest(f"{instance.name!r} has no such bodies at version {instance.version.uuid}: nothing to export")
    pinned = None if image is None else _pinned(image, scale)
    url = directory_url(destination)
    name = job.job_name(
        op="export-bodies",
        instance=instance.info.data_uuid,
        state=space.token,
        labels=hashlib.blake2b(labels.tobytes()).hexdigest(),
        options=[scale, supervoxels, values, compress],
        image=None if pinned is None else [pinned.image.info.data_uuid, pinned.space.token],
    )
    ledger = ledger_at(url + _LEDGER, name, lambda: _check_empty(url), replace=False)
    starts = _cut(sizes)
    weights = np.add.reduceat(sizes, starts[:-1]).tolist()
    show = Progress(progress)
    show.say(
        f"export {len(labels):,} bodies of {instance.name!r} at version {instance.version.uuid[:12]} to {destination}: "
        f"{sum(weights) / 1e6:,.1f} Mvoxel"
    )
    task = _Write(
        ledger, space, instance.layout, instance.voxel_size, url, labels, owners, starts, scale, supervoxels, pinned,
        values, compress,
    )  # fmt: skip
    job.execute(LedgerPhase(ledger, "bodies", "bodies", weights, task), client, show)
    done = list(ledger.done("bodies").values())
    end_job(ledger, url + _LEDGER)
    files, empty, voxels = (sum(d[k] for d in done) for k in ("files", "empty", "voxels"))
    return BodiesReport(destination, files, empty, voxels, time.monotonic() - began)


def _chosen(
    space: Space, bodies: ArrayLike | None, supervoxels: bool, min_voxels: int
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.int64]]:
    """Labels, ascending; the body of each; its voxels."""
    index = Index(space)
    if bodies is None:
        if supervoxels:
            raise BadRequest("say which supervoxels")
        found = ((b, h.voxels) for b, h in index.scan() if h.voxels >= max(1, min_voxels))
        table = np.fromiter(found, [("body", np.uint64), ("voxels", np.int64)])
        return table["body"].copy(), table["body"].copy(), table["voxels"].copy()
    labels = distinct(_ids(bodies))
    owners = LabelMapping(space).bodies(labels) if supervoxels else labels
    sizes = np.concatenate([np.empty(0, np.int64), *_sizes(index, labels, owners, supervoxels)])
    if not sizes.all():
        kind = "supervoxel" if supervoxels else "body"
        raise NotFound(f"there is no {kind} {int(labels[np.argmin(sizes != 0)])}")
    kept = sizes >= min_voxels
    return labels[kept], owners[kept], sizes[kept]


def _ids(bodies: ArrayLike) -> NDArray[np.uint64]:
    given = np.asarray(bodies).reshape(-1)
    if given.size == 0:
        return np.empty(0, np.uint64)
    if given.dtype.kind not in "iu" or (given.dtype.kind == "i" and given.min() < 0):
        raise BadRequest(f"bodies are given by ids of uint64, got {given.dtype}")
    return given.astype(np.uint64)


def _sizes(
    index: Index, labels: NDArray[np.uint64], owners: NDArray[np.uint64], supervoxels: bool
) -> Iterator[NDArray[np.int64]]:
    """Voxels of labels, batch by batch; 0 where there is no such label."""
    if not supervoxels:
        for a in range(0, len(labels), _BATCH):
            headers = index.headers(labels[a : a + _BATCH].tolist())
            yield np.array([0 if h is None else h.voxels for h in headers], np.int64)
        return
    out = np.zeros(len(labels), np.int64)
    order = np.argsort(owners, kind="stable")
    owner, first = np.unique(owners[order], return_index=True)
    for body, members in zip(owner.tolist(), np.split(order, first[1:]), strict=True):
        if body:
            out[members] = index.voxels_of(body, labels[members]).astype(np.int64)
    yield out


def _pinned(image: Datatype, scale: int) -> _PinnedImage:
    if not isinstance(image, ImageBlk):
        raise BadRequest(f"{image.name!r} is a {image.info.typename}, not an image")
    pinned = _PinnedImage(image, image.view(0))
    if scale and scale not in pinned.scales():
        raise BadRequest(f"{image.name!r} has no scale {scale}: `downres` makes coarser scales of images")
    if image.layout.channels > 1:
        raise NotSupported(f"{image.name!r} has several channels: values are those of images of one")
    return pinned


def _cut(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the labels of each task begin, and the end."""
    starts, held, count = [0], 0, 0
    for i, size in enumerate(sizes.tolist()):
        if count and (held + size > _VOXELS or count == _LABELS):
            starts.append(i)
            held = count = 0
        held += size
        count += 1
    return np.array([*starts, len(sizes)], np.int64)


def _check_empty(url: str) -> None:
    import tensorstore as ts

    if ts.KvStore.open(url).result().list().result():
        raise Conflict(f"{url} is not empty: give another destination, or remove it")
