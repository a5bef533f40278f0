"""Adopt a volume in place: a data instance that stands on voxels which others keep. Nothing is copied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from dvid_dask.bases import Base, holds_labels
from dvid_dask.datatypes.labelmap import LabelMap
from dvid_dask.errors import BadRequest
from dvid_dask.ops.adopt_labels import adopt_labels, check_labels

if TYPE_CHECKING:
    from dvid_dask.datatypes.base import Datatype
    from dvid_dask.versions.version import Version

__all__ = ["adopt", "type_for"]

_TYPES = {
    "uint64": "labelmap",
    "uint8": "uint8blk",
    "uint16": "uint16blk",
    "uint32": "uint32blk",
    "float32": "float32blk",
}

_COARSEST = 128  # a segmentation gets scales until it is about as small as this


def type_for(dtype: np.dtype[Any]) -> str:
    """The datatype that holds a volume of some type of value.

    Raises
    ------
    BadRequest
        None does.

    Examples
    --------
    >>> type_for(np.dtype("uint64")), type_for(np.dtype("uint8"))
    ('labelmap', 'uint8blk')
    """
    if dtype.name not in _TYPES:
        raise BadRequest(f"no datatype holds {dtype.name}: there are those of {', '.join(_TYPES)}")
    return _TYPES[dtype.name]


def adopt(
    source: str | Mapping[str, Any],
    version: Version,
    name: str,
    typename: str | None = None,
    *,
    axes: str | Sequence[str] | None = None,
    select: Mapping[str, int] | None = None,
    dataset: str | None = None,
    offset: Sequence[int] | None = None,
    settings: Mapping[str, str] | None = None,
    client: Any = None,
    progress: bool = True,
    user: str = "",
    app: str = "",
    force: bool = False,
) -> Datatype:
    """Make an instance whose voxels are those of an existing volume, until they are written over.

    Of an image only the metadata are read. A segmentation is read once, to make its label index
    (`dvid_dask.ops.adopt_labels`); killed and called again with the same arguments, that goes on where it was.

    The instance remembers the volume: when it goes away or becomes another one, reads fail, with an error that says so.
    Whoever keeps it must not change it.

    Parameters
    ----------
    source
        A path or URL of zarr 2 or 3, OME-Zarr, N5, neuroglancer precomputed or HDF5, as `Base.find` takes it.
    version
        Where the instance is recorded as made; it is seen from all versions.
    name, typename
        Of the new instance. By default a labelmap for uint64 and for what the volume's metadata call a segmentation,
        else an image of the values' type; ``"labelmap"`` takes any unsigned integers, ``"rgba8blk"`` a volume of four
        channels.
    axes, select, dataset
        As for `open_volume`.
    offset
        First voxel (z, y, x) in the instance; by default what the volume's metadata say, or 0.
    settings
        Further settings of the instance, as for `Repo.new_instance`. A labelmap's ``MaxDownresLevel`` is that of the
        volume by default; where it has only full resolution, as many scales are made as it takes to make it small.
    client, progress, user, app
        Of a segmentation, as for `ingest`.
    force
        Also at a committed version; not of a segmentation.

    Raises
    ------
    NotFound, BadRequest
        There is no volume, or none that a datatype can hold.
    BrokenBase, Unavailable
        It can't be read, or not now.

    Examples
    --------
    >>> import tempfile, zarr
    >>> import dvid_dask
    >>> where = tempfile.mkdtemp() + "/em.zarr"
    >>> zarr.create_array(where, shape=(64, 64, 64), chunks=(32, 32, 32), dtype="uint8")[:] = 7
    >>> repo = dvid_dask.create("memory://").new_repo("fly")
    >>> gray = adopt(where, repo["master"], "grayscale")
    >>> gray[10, 10, 10:13] = 200
    >>> gray[10, 10, 9:14]
    array([  7, 200, 200, 200,   7], dtype=uint8)
    """
    if typename is None or typename == LabelMap.typename:
        found = Base.find(source, axes=axes, select=select, dataset=dataset, offset=offset)
        labels = typename is None and found.dtype.kind == "u" and holds_labels(source)
        typename = typename or (LabelMap.typename if labels else type_for(found.dtype))
        if typename == LabelMap.typename:
            made = _labelmap_for(found, version, name, settings or {})
            adopt_labels(found, made, client=client, progress=progress, user=user, app=app)
            return made
    given: dict[str, str] = dict(settings or {})
    given["Base"] = source if isinstance(source, str) else msgspec.json.encode(source).decode()
    if axes is not None:
        given["BaseAxes"] = "".join(axes)
    if select:
        given["BaseSelect"] = ",".join(f"{axis}={index}" for axis, index in select.items())
    if dataset is not None:
        given["BaseDataset"] = dataset
    if offset is not None:
        given["BaseOffset"] = ",".join(str(int(v)) for v in reversed(offset))
    return version.repo.new_instance(typename, name, given, at=version, force=force)


def _labelmap_for(base: Base, version: Version, name: str, settings: Mapping[str, str]) -> Datatype:
    """A new labelmap for a base; or the one that an earlier run made, which was killed."""
    check_labels(base)
    if name in version and version[name].info.settings.get("Base") is not None:
        return version[name]
    given = {key.lower(): value for key, value in settings.items()}
    own = 0
    while base.level(own + 1) is not None:
        own += 1
    natural = max(0, (max(base.extents().shape) // _COARSEST).bit_length() - 1)
    given.setdefault("maxdownreslevel", str(own or natural))
    if base.nanometres is not None:
        given.setdefault("voxelsize", ",".join(f"{v:.12g}" for v in reversed(base.nanometres)))
    return version.repo.new_instance(LabelMap.typename, name, given, at=version)
