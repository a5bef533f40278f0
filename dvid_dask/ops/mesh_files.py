"""Where meshes go: supervoxels' files, keys of a keyvalue instance, or a folder, in the formats that are read there."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.datatypes.keyvalue import KeyValue
from dvid_dask.datatypes.tarsupervoxels import TarSupervoxels
from dvid_dask.errors import Conflict
from dvid_dask.formats.meshes.files import EXTENSIONS, encode
from dvid_dask.formats.meshes.mesh import placed, simplified
from dvid_dask.formats.meshes.multires import encode_multires, multires_info
from dvid_dask.formats.meshes.shard import encode_shard, shard_name, shard_of, sharding_json
from dvid_dask.formats.sharding import Sharding
from dvid_dask.ops.label_bricks import partition_of

if TYPE_CHECKING:
    from dvid_dask.formats.meshes.surfaces import Piece

__all__ = [
    "FOLDER_FORMATS",
    "FileWriter",
    "FolderWriter",
    "KeyWriter",
    "MeshWriter",
    "ShardWriter",
    "SupervoxelWriter",
]

FOLDER_FORMATS = ("precomputed", "sharded", "legacy", *EXTENSIONS)
"""Of meshes in a folder."""

_BATCH = 16 << 20
_LEVELS = 6  # of a multi-resolution mesh at most
_FEWEST = 64  # triangles of a level
_CHUNK = 128  # voxels along a side of the finest fragments


@dataclass(frozen=True)
class MeshWriter(ABC):
    """Encodes meshes and puts them where they belong; pickled with the tasks.

    Attributes
    ----------
    format
        One of `FOLDER_FORMATS`.
    voxel_nm
        Size of a voxel (z, y, x) at the scale of the meshes.
    keep
        Fraction of triangles of the finest mesh.
    """

    format: str
    voxel_nm: tuple[float, float, float]
    keep: float

    def partition(self, label: int, partitions: int) -> int:
        """Which partition the pieces of a label go to."""
        return int(partition_of(np.array([label], np.uint64), partitions)[0])

    @property
    def finishes(self) -> bool:
        """Whether a label can be written by any task; else those of a partition are written together."""
        return True

    def write(self, meshes: Iterable[tuple[int, Piece]]) -> tuple[int, int]:
        """Write the surfaces of labels; returns triangles and bytes."""
        held: list[tuple[str, bytes]] = []
        waiting = triangles = total = 0
        for label, piece in meshes:
            triangles += len(piece.faces)
            for name, data in self.files(label, piece):
                held.append((name, data))
                waiting += len(data)
                total += len(data)
            if waiting > _BATCH:
                self.put(held)
                held, waiting = [], 0
        if held:
            self.put(held)
        return triangles, total

    def files(self, label: int, piece: Piece) -> Iterator[tuple[str, bytes]]:
        """Names and contents of the files of a label."""
        mesh = placed(piece, self.voxel_nm)
        if self.format in ("precomputed", "sharded"):
            levels = [mesh]
            while len(levels) < _LEVELS and len(piece.faces) >= 4 * _FEWEST:
                coarser = simplified(piece, self.keep / 4 ** len(levels), self.voxel_nm)
                if len(coarser.faces) > 0.6 * len(piece.faces):
                    break
                piece = coarser
                levels.append(placed(piece, self.voxel_nm))
            chunk = [_CHUNK * size for size in self.voxel_nm[::-1]]
            manifest, fragments = encode_multires(levels, chunk, min(self.voxel_nm))
            # a viewer asks for the manifest first
            yield str(label), fragments
            yield f"{label}.index", manifest
        elif self.format == "legacy":
            yield f"{label}.ngmesh", encode(mesh, "ngmesh", min(self.voxel_nm))
            yield f"{label}:0", json.dumps({"fragments": [f"{label}.ngmesh"]}).encode()
        else:
            yield f"{label}.{self.format}", encode(mesh, self.format, min(self.voxel_nm))

    def names(self, label: int) -> list[str]:
        """Names of the files of a label."""
        if self.format == "precomputed":
            return [f"{label}.index", str(label)]
        if self.format == "legacy":
            return [f"{label}:0", f"{label}.ngmesh"]
        return [f"{label}.{self.format}"]

    @abstractmethod
    def put(self, files: Sequence[tuple[str, bytes]]) -> None:
        """Write files, durably, in place of those that are there."""

    @abstractmethod
    def remove(self, labels: Sequence[int]) -> None:
        """Remove the files of labels that are no more."""


def _label_of(name: str) -> int:
    return int(name.partition(".")[0])


@dataclass(frozen=True)
class SupervoxelWriter(MeshWriter):
    """Files of a tarsupervoxels instance, which all versions share."""

    instance: TarSupervoxels
    who: dict[str, Any] = field(default_factory=dict)

    def put(self, files: Sequence[tuple[str, bytes]]) -> None:
        """One commit."""
        self.instance.put_many({_label_of(name): data for name, data in files}, **self.who)

    def remove(self, labels: Sequence[int]) -> None:
        """Nothing: older versions may still have these supervoxels."""


@dataclass(frozen=True)
class KeyWriter(MeshWriter):
    """Values of a keyvalue instance at a version."""

    instance: KeyValue
    who: dict[str, Any] = field(default_factory=dict)

    def put(self, files: Sequence[tuple[str, bytes]]) -> None:
        """One commit."""
        self.instance.put_many(files, **self.who)

    def remove(self, labels: Sequence[int]) -> None:
        """Remove the keys, those that are there."""
        for label in labels:
            for name in self.names(label):
                if self.instance.exists(name):
                    self.instance.delete(name, **self.who)


@dataclass(frozen=True)
class FolderWriter(MeshWriter):
    """Files below a URL."""

    url: str

    def _place(self) -> Any:
        import tensorstore as ts

        return ts.KvStore.open(self.url).result()

    @property
    def info(self) -> dict[str, Any] | None:
        """What neuroglancer wants to know of the folder first."""
        if self.format == "precomputed":
            return multires_info()
        return {"@type": "neuroglancer_legacy_mesh"} if self.format == "legacy" else None

    def begin(self) -> None:
        """Write ``info``.

        Raises
        ------
        Conflict
            There is one that says something else.
        """
        info = self.info
        if info is None:
            return
        place = self._place()
        held = place.read("info").result()
        if held.state == "value":
            try:
                same = json.loads(held.value) == info
            except ValueError:
                same = False
            if not same:
                raise Conflict(f"{self.url}info is there and of something else: give another folder for the meshes")
            return
        place.write("info", json.dumps(info)).result()

    def name_in_volume(self) -> None:
        """Name the folder in the ``info`` of the precomputed segmentation around it, unless that names another."""
        import tensorstore as ts

        head, mark, query = self.url.partition("?")
        around, _, name = head.rstrip("/").rpartition("/")
        if self.info is None or around.endswith("/"):  # of a bucket, or of a whole disk
            return
        place = ts.KvStore.open(f"{around}/{mark}{query}").result()
        try:
            info = json.loads(place.read("info").result().value or b"null")
        except ValueError:
            return
        if isinstance(info, dict) and info.get("type") == "segmentation" and info.get("scales") and "mesh" not in info:
            place.write("info", json.dumps({**info, "mesh": name})).result()

    def put(self, files: Sequence[tuple[str, bytes]]) -> None:
        """All at once."""
        place = self._place()
        for write in [place.write(name, data) for name, data in files]:
            write.result()

    def remove(self, labels: Sequence[int]) -> None:
        """Remove the files, those that are there."""
        import tensorstore as ts

        place = self._place()
        for label in labels:
            for name in self.names(label):
                place.delete_range(ts.KvStore.KeyRange(name, name + "\0")).result()


@dataclass(frozen=True)
class ShardWriter(FolderWriter):
    """Shards below a URL: a task writes one of them whole."""

    sharding: Sharding

    @property
    def info(self) -> dict[str, Any]:
        """With the sharding."""
        return multires_info(sharding_json(self.sharding))

    def partition(self, label: int, partitions: int) -> int:
        """The shard."""
        return shard_of(label, self.sharding)

    @property
    def finishes(self) -> bool:
        """Shards are written whole."""
        return False

    def write(self, meshes: Iterable[tuple[int, Piece]]) -> tuple[int, int]:
        """Write the meshes of one shard; returns triangles and bytes."""
        triangles = 0
        held: list[tuple[int, bytes, bytes]] = []
        for label, piece in meshes:
            triangles += len(piece.faces)
            (_, fragments), (_, manifest) = self.files(label, piece)
            held.append((label, manifest, fragments))
        if not held:
            return 0, 0
        data = encode_shard(held, self.sharding)
        self.put([(shard_name(shard_of(held[0][0], self.sharding), self.sharding), data)])
        return triangles, len(data)

    def remove(self, labels: Sequence[int]) -> None:
        """Nothing: a folder of shards is made anew."""


FileWriter = SupervoxelWriter | KeyWriter | FolderWriter | ShardWriter
