"""The runs of all labels of a labelvol as files, one for each cube of the volume, as DVID's ``dump`` has them."""

from __future__ import annotations

import contextlib
import struct
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from dvid_dask.bases import directory_url
from dvid_dask.datatypes.labelvol import LabelVol
from dvid_dask.errors import BadRequest, NotSupported
from dvid_dask.formats import rles
from dvid_dask.ops.folders import plain_url, write_whole

if TYPE_CHECKING:
    from dvid_dask.datatypes.base import Datatype

__all__ = ["dump_volumes"]

_HEAD = struct.Struct("<Qi")
_HELD = 64 << 20  # bytes of records that wait in memory, of all files together


def dump_volumes(instance: Datatype, destination: str, *, edge: int = 512) -> int:
    """Write the runs of all labels into a folder, a file for each cube in which there are some.

    A file ``subvols-XXX_YYY_ZZZ.dat`` is that of the cube with these coordinates, in cubes. It has a record for each
    label and block, labels ascending: uint64 label, int32 number of runs, and int32 x, y, z, length of each,
    little-endian. Files of that name in the folder are replaced, those of other cubes are left alone.

    Parameters
    ----------
    instance
        A labelvol.
    destination
        Path or URL of a folder.
    edge
        Voxels of a side of a cube: a multiple of the block's sides.

    Returns
    -------
    int
        How many files were written.

    Raises
    ------
    NotSupported
        If the instance is no labelvol.
    BadRequest
        If blocks don't fit into cubes.
    """
    if not isinstance(instance, LabelVol):
        raise NotSupported(f"{instance.name!r} is a {instance.info.typename}: runs by label are those of a labelvol")
    if edge < 1 or any(edge % n for n in instance.block_shape):
        raise BadRequest(f"cubes of {edge} voxels a side aren't made of blocks of {instance.block_shape} (z, y, x)")
    folder = plain_url(directory_url(destination))
    with tempfile.TemporaryDirectory(prefix="dvid-dask-") as scratch:
        files = _Files(Path(scratch))
        for label, block, runs in instance.all_volumes():
            z, y, x = (c * n // edge for c, n in zip(block, instance.block_shape, strict=True))
            files.add(f"subvols-{x:03d}_{y:03d}_{z:03d}.dat", _HEAD.pack(label, len(runs)) + rles.encode_srles(runs))
        files.flush()
        for name in sorted(files.names):
            with write_whole(folder + name, folder + ".drafts/") as out, open(Path(scratch) / name, "rb") as held:
                while part := held.read(1 << 20):
                    out.write(part)
        _remove_empty(folder + ".drafts/")
    return len(files.names)


def _remove_empty(url: str) -> None:
    import fsspec

    fs, path = fsspec.core.url_to_fs(url)
    with contextlib.suppress(OSError):
        fs.rmdir(path)


class _Files:
    """Records that are added to files, many at a time."""

    def __init__(self, folder: Path) -> None:
        self.names: set[str] = set()
        self._folder = folder
        self._parts: dict[str, list[bytes]] = {}
        self._held = 0

    def add(self, name: str, record: bytes) -> None:
        self._parts.setdefault(name, []).append(record)
        self._held += len(record)
        if self._held > _HELD:
            self.flush()

    def flush(self) -> None:
        for name, parts in self._parts.items():
            with open(self._folder / name, "ab") as file:
                file.writelines(parts)
        self.names |= self._parts.keys()
        self._parts, self._held = {}, 0
