"""Meshes of supervoxels or bodies, as a Dask graph.

Two phases: bricks make the surfaces of their labels, and finish the ones that lie within them; then the pieces of the
others are put together, label by label. Both are in `dvid_dask.ops.mesh_bricks`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.bases import directory_url
from dvid_dask.datatypes.keyvalue import KeyValue
from dvid_dask.datatypes.labelmap import BodyVolume
from dvid_dask.datatypes.labelmap.index import Index
from dvid_dask.datatypes.labelmap.mapping import Mapping
from dvid_dask.datatypes.labelmap.rows import distinct_blocks
from dvid_dask.datatypes.tarsupervoxels import TarSupervoxels
from dvid_dask.errors import BadRequest, NotFound, NotSupported
from dvid_dask.formats.distinct import distinct, distinct_rows
from dvid_dask.formats.meshes._libraries import LIBRARIES, library
from dvid_dask.formats.meshes.files import EXTENSIONS
from dvid_dask.formats.meshes.shard import mesh_sharding
from dvid_dask.ops import job
from dvid_dask.ops.changed import changed_labels, check_since
from dvid_dask.ops.folders import end_job, ledger_at
from dvid_dask.ops.job import LedgerPhase, ScratchLedger
from dvid_dask.ops.levels import nanometres
from dvid_dask.ops.mesh_bricks import MergePieces, MeshBricks, neighbours_before
from dvid_dask.ops.mesh_files import FOLDER_FORMATS, FileWriter, FolderWriter, KeyWriter, ShardWriter, SupervoxelWriter
from dvid_dask.ops.progress import Progress
from dvid_dask.ops.stored import block_batches
from dvid_dask.ops.within import Part, Within, within

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from dvid_dask.datatypes.base import Datatype, Space
    from dvid_dask.versions import Version

__all__ = ["MeshReport", "mesh"]

_LEDGER = ".dvid-dask-mesh/"
_EDGE = 256
_PARTITIONS = 4096  # at most
_BATCH = 4096


@dataclass(frozen=True)
class MeshReport:
    """What making meshes did.

    Attributes
    ----------
    destination
        Where they are.
    labels
        Meshes written.
    removed
        Labels whose files were removed, or left where all versions share them: they are no more.
    triangles, bytes
        Of the meshes that were written.
    seconds
        Time of this run.
    """

    destination: str
    labels: int
    removed: int
    triangles: int
    bytes: int
    seconds: float

    def __str__(self) -> str:
        amount = f"{self.labels:,} meshes of {self.triangles:,} triangles, {self.bytes / 1e6:,.1f} MB"
        gone = f"; {self.removed:,} labels are no more" if self.removed else ""
        return f"wrote {amount} to {self.destination} in {self.seconds:.1f} s{gone}"


def mesh(
    instance: Datatype,
    destination: Datatype | str,
    labels: ArrayLike | None = None,
    *,
    supervoxels: bool | None = None,
    since: Version | None = None,
    scale: int = 0,
    keep: float = 0.1,
    format: str | None = None,
    edge: int = _EDGE,
    region: Part | None = None,
    user: str = "",
    app: str = "",
    force: bool = False,
    client: Any = None,
    progress: bool = True,
) -> MeshReport:
    """Make the surfaces of bodies or supervoxels, as a Dask graph; killed and started again it goes on.

    Surfaces are closed, also where the volume ends, with normals outwards. Vertices are x, y, z in nanometres; voxel
    (0, 0, 0) begins at the origin. All is read from one state of the version, also while others edit it. Meshes that
    are there already are replaced.

    Parameters
    ----------
    instance
        A labelmap at any version.
    destination
        A ``tarsupervoxels`` instance: a file for each supervoxel, with the instance's extension. A ``keyvalue``
        instance: ``<label>.ngmesh``; neuroglancer looks for those of the segmentation ``NAME`` in ``NAME_meshes``. Or
        the path or URL of a folder.
    labels
        Ids; by default all.
    supervoxels
        Whether labels are supervoxels; by default they are for a ``tarsupervoxels`` instance, and bodies elsewhere.
    since
        Only labels that have other voxels than at this version; at a ``keyvalue`` instance or a folder, the meshes of
        labels that are no more are removed.
    scale
        Of the voxels; 0 is full resolution.
    keep
        Fraction of the triangles that stay; 1 keeps all.
    format
        ``obj``, ``ply``, ``drc`` (Draco) or ``ngmesh``; in a folder also ``precomputed``, neuroglancer's
        multi-resolution meshes, ``sharded``, the same with some thousand in a file, or ``legacy``, its
        single-resolution ones. By default what the instance's extension
        says, ``ngmesh`` at a ``keyvalue`` instance, and ``precomputed`` in a folder.
    edge
        Voxels along a side of a brick, about: a task's memory grows with its cube.
    region
        Only voxels in it are meshed, of a coarser scale those whose middle is, and surfaces are closed where it ends: a
        `Region`, a roi, or bricks of a work list from `partition`.
    user, app, force
        As for `Datatype.mutate`, at a destination in a store.
    client, progress
        As for `ingest`.

    Raises
    ------
    BadRequest
        If an option can't be used.
    NotFound
        If one of the labels doesn't exist.
    NotSupported
        If it is no labelmap, labels are named that no index can find, or the libraries for meshes aren't there.
    LockedVersion
        If the destination is at a committed version.
    Conflict
        If the folder is one of other things.

    Examples
    --------
    >>> import numpy as np
    >>> import dvid_dask
    >>> repo = dvid_dask.create("memory://").new_repo("fly")
    >>> seg = repo.new_instance("labelmap", "segmentation", {"BlockSize": "16,16,16"})
    >>> labels = np.zeros((16, 16, 16), np.uint64)
    >>> labels[4:12, 4:12, 4:12] = 7
    >>> seg.write(labels, (0, 0, 0))
    >>> meshes = repo.new_instance("keyvalue", "segmentation_meshes")
    >>> mesh(seg, meshes, progress=False).labels, list(meshes)
    (1, ['7.ngmesh'])
    """
    began = time.monotonic()
    if not isinstance(instance, BodyVolume):
        raise NotSupported(f"{instance.name!r} is a {instance.info.typename}: it has no bodies to make meshes of")
    if not 0 <= scale <= instance.layout.levels:
        raise BadRequest(f"{instance.name!r} has scales 0 to {instance.layout.levels}, not {scale}")
    if not 0 < keep <= 1:
        raise BadRequest(f"keep {keep}: expected a fraction of the triangles, above 0 and up to 1")
    if not 16 <= edge <= 1024:
        raise BadRequest(f"bricks of {edge} voxels: expected 16 to 1024")
    part = within(region)
    if part is not None and since is not None:
        raise BadRequest("what changed since a version is made anew for whole labels: since= doesn't go with a region")
    z, y, x = (size * 2**scale for size in nanometres(instance))
    writer = _writer(destination, format, (z, y, x), keep, {"user": user, "app": app, "force": force})
    _need_libraries()
    by_supervoxel = isinstance(destination, TarSupervoxels) if supervoxels is None else supervoxels
    if by_supervoxel is False and isinstance(destination, TarSupervoxels):
        raise BadRequest(f"{destination.name!r} holds files of supervoxels, not of bodies")
    client = job.find_client(client)
    for place in (instance, destination):
        if not isinstance(place, str):
            job.check_reach(client, place)
    space = instance.view(0)
    wanted, gone = _chosen(instance, space, labels, since, by_supervoxel)
    per_brick = np.array([max(1, edge // b) for b in instance.block_shape], np.int64)
    bricks = _bricks(instance, space, wanted, scale, per_brick, by_supervoxel, part)
    name = job.job_name(
        op="mesh",
        instance=instance.info.data_uuid,
        state=space.token,
        labels=None if wanted is None else hashlib.blake2b(wanted.tobytes()).hexdigest(),
        supervoxels=by_supervoxel,
        scale=scale,
        keep=keep,
        edge=edge,
        format=writer.format,
        destination=_where(destination),
        **({} if part is None else {"region": part.identity}),
    )
    partitions = min(_PARTITIONS, max(1, 4 * len(bricks)))
    if isinstance(writer, FolderWriter) and writer.format == "sharded":
        if since is not None:
            raise BadRequest("shards hold many meshes and are made anew as a whole: use the format 'precomputed'")
        sharding = mesh_sharding(_count(instance, space, wanted, by_supervoxel))
        writer = ShardWriter(writer.format, writer.voxel_nm, writer.keep, writer.url, sharding)
        partitions = 1 << sharding.shard_bits
    ledger = _ledger(instance, writer, name)
    show = Progress(progress)
    voxels = int(np.prod(per_brick * np.array(instance.block_shape)))
    whose = "supervoxels" if by_supervoxel else "bodies"
    number = "all" if wanted is None else f"{len(wanted):,}"
    show.say(
        f"meshes of {number} {whose} of {instance.name!r} at version {instance.version.uuid[:12]}, scale {scale}, to "
        f"{_where(destination)} ({writer.format}): {len(bricks):,} bricks, {len(bricks) * voxels / 1e6:,.1f} Mvoxel"
    )
    task = MeshBricks(
        *(ledger, "bricks", space, instance.layout, scale, per_brick, bricks, wanted),
        *(by_supervoxel, instance.indexed, keep, writer, partitions, part),
    )
    job.execute(LedgerPhase(ledger, "bricks", "surfaces", [voxels] * len(bricks), task), client, show)
    done = list(ledger.done("bricks").values())
    if any(result["pieces"] for result in done):
        share = max(1, len(bricks) * voxels // partitions)
        merge = MergePieces(ledger, "merge", keep, writer)
        job.execute(LedgerPhase(ledger, "merge", "joining pieces", [share] * partitions, merge), client, show)
        done += ledger.done("merge").values()
    writer.remove(gone.tolist())
    _end(ledger, writer)
    counts = (sum(result[key] for result in done) for key in ("labels", "triangles", "bytes"))
    made, triangles, size = counts
    return MeshReport(_where(destination), made, len(gone), triangles, size, time.monotonic() - began)


# ---------------------------------------------------------------------- where to


def _where(destination: Datatype | str) -> str:
    if isinstance(destination, str):
        return directory_url(destination)
    return f"{destination.name} at version {destination.version.uuid}"


def _writer(
    destination: Datatype | str,
    format: str | None,
    voxel_nm: tuple[float, float, float],
    keep: float,
    who: dict[str, Any],
) -> FileWriter:
    if isinstance(destination, str):
        return FolderWriter(_known(format or "precomputed", FOLDER_FORMATS), voxel_nm, keep, directory_url(destination))
    if isinstance(destination, TarSupervoxels):
        extension = destination.extension
        if format not in (None, extension):
            raise BadRequest(f"the files of {destination.name!r} have the extension {extension!r}, not {format!r}")
        destination.check_open(bool(who["force"]))
        return SupervoxelWriter(_known(extension, EXTENSIONS), voxel_nm, keep, destination, who)
    if isinstance(destination, KeyValue):
        destination.check_open(bool(who["force"]))
        return KeyWriter(_known(format or "ngmesh", EXTENSIONS), voxel_nm, keep, destination, who)
    raise NotSupported(
        f"{destination.name!r} is a {destination.info.typename}: meshes go to tarsupervoxels, keyvalue, or a folder"
    )


def _known(format: str, formats: Sequence[str]) -> str:
    if format not in formats:
        raise BadRequest(f"format {format!r} of meshes is unknown here: choose one of {', '.join(formats)}")
    return format


def _need_libraries() -> None:
    try:
        for name in LIBRARIES:
            library(name)
    except ImportError as error:
        raise NotSupported(str(error)) from error


def _ledger(instance: BodyVolume, writer: FileWriter, name: str) -> ScratchLedger:
    if isinstance(writer, FolderWriter):
        return ledger_at(f"{writer.url}{_LEDGER}", name, writer.begin, replace=False)
    place = writer.instance.version.datastore.store
    ledger = ScratchLedger(place, name)
    ledger.begin({"op": "mesh"})
    return ledger


def _end(ledger: ScratchLedger, writer: FileWriter) -> None:
    if isinstance(writer, FolderWriter):
        writer.name_in_volume()
        end_job(ledger, f"{writer.url}{_LEDGER}")
    else:
        ledger.drop()


# ---------------------------------------------------------------------- which labels, which bricks


def _chosen(
    instance: BodyVolume, space: Space, labels: ArrayLike | None, since: Version | None, supervoxels: bool
) -> tuple[NDArray[np.uint64] | None, NDArray[np.uint64]]:
    """The labels to mesh (None for all), and those that are no more."""
    none = np.empty(0, np.uint64)
    if labels is None and since is None:
        return None, none
    if not instance.indexed:
        raise NotSupported(f"{instance.name!r} has no label index, which would tell where labels are: mesh all of them")
    if labels is None:
        asked = None
    else:
        try:
            asked = distinct(np.asarray(labels, np.uint64).reshape(-1))
        except (ValueError, TypeError, OverflowError) as error:
            raise BadRequest(f"labels are a list of unsigned 64-bit numbers: {error}") from None
        if len(asked) and asked[0] == 0:
            raise BadRequest("label 0 is the background: it has no mesh")
    if since is not None:
        check_since(instance, since)
        old = since.instance(instance.info).view(0)
        changed = changed_labels(instance, old, space, supervoxels=supervoxels)
        asked = changed if asked is None else np.intersect1d(asked, changed)
    if asked is None:
        return None, none
    there = _exist(space, asked, supervoxels)
    if since is None and not there.all():
        what = "supervoxel" if supervoxels else "body"
        raise NotFound(f"there is no {what} {asked[~there][0]} in {instance.name!r} at {instance.version.uuid}")
    return asked[there], asked[~there]


def _exist(space: Space, labels: NDArray[np.uint64], supervoxels: bool) -> NDArray[np.bool_]:
    """Which labels have voxels."""
    index = Index(space)
    there = np.zeros(len(labels), np.bool_)
    if not supervoxels:
        for at in range(0, len(labels), _BATCH):
            found = index.headers(labels[at : at + _BATCH].tolist())
            there[at : at + _BATCH] = [header is not None and header.voxels > 0 for header in found]
        return there
    for body, members in _by_body(space, labels):
        there[members] = index.voxels_of(body, labels[members]) > 0
    return there


def _count(instance: BodyVolume, space: Space, wanted: NDArray[np.uint64] | None, supervoxels: bool) -> int:
    """About how many labels there are."""
    if wanted is not None:
        return len(wanted)
    if not instance.indexed:
        return 1 << 16
    return sum(header.supervoxels if supervoxels else 1 for _, header in Index(space).scan())


def _by_body(space: Space, supervoxels: NDArray[np.uint64]) -> list[tuple[int, NDArray[np.int64]]]:
    """Bodies with the positions of their supervoxels."""
    if not len(supervoxels):
        return []
    bodies = Mapping(space).bodies(supervoxels)
    order = np.argsort(bodies, kind="stable")
    owners, starts = np.unique(bodies[order], return_index=True)
    return list(zip(owners.tolist(), np.split(order, starts[1:]), strict=True))


def _bricks(
    instance: BodyVolume,
    space: Space,
    wanted: NDArray[np.uint64] | None,
    scale: int,
    per_brick: NDArray[np.int64],
    supervoxels: bool,
    part: Within | None,
) -> NDArray[np.int64]:
    """Grid positions (n, 3) of the bricks that have cells with voxels of the labels."""
    found = [np.empty((0, 3), np.int64)]
    inside = None if part is None else part.region.rescaled([n << scale for n in instance.block_shape])
    if wanted is None:
        for blocks in block_batches(instance, space, scale):
            if inside is not None:
                blocks = blocks[inside.contains_blocks(blocks)]
            found.append(neighbours_before(blocks.astype(np.int64), per_brick))
        return distinct_rows(np.concatenate(found))
    index = Index(space)
    if supervoxels:
        scans = (index.scan_rows_of(body, wanted[members]) for body, members in _by_body(space, wanted))
    else:
        scans = (index.scan_rows(body) for body in wanted.tolist())
    for scan in scans:
        for rows in scan:
            blocks = distinct_rows(distinct_blocks(rows.sorted()) >> scale).astype(np.int64)
            if inside is not None:
                blocks = blocks[inside.contains_blocks(blocks)]
            found.append(neighbours_before(blocks, per_brick))
    return distinct_rows(np.concatenate(found))
