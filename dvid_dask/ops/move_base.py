"""Tell an adopted instance where its volume is now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dvid_dask.bases import Base
from dvid_dask.errors import BadRequest

if TYPE_CHECKING:
    from dvid_dask.datatypes.base import Datatype

__all__ = ["move_base"]


def move_base(instance: Datatype, source: str | Mapping[str, Any] | None = None, *, dataset: str | None = None) -> Base:
    """Let an adopted instance stand on the same volume at another place, or on what was written anew at its place.

    The voxels must be the same: they are not compared. Type, extents and scales are; chunks and format may differ. All
    versions see the change.

    Parameters
    ----------
    instance
        One that stands on a base.
    source, dataset
        Where the volume is now, as for `adopt`; where it was, by default.

    Returns
    -------
    Base
        What the instance stands on now.

    Raises
    ------
    BadRequest
        The instance stands on nothing, or the volume is another one.
    NotFound, Unavailable
        There is no volume, or it can't be read now.

    Examples
    --------
    >>> import shutil, tempfile, zarr
    >>> import dvid_dask
    >>> from dvid_dask import ops
    >>> folder = tempfile.mkdtemp()
    >>> zarr.create_array(f"{folder}/a.zarr", shape=(64, 64, 64), chunks=(32, 32, 32), dtype="uint8")[:] = 7
    >>> gray = ops.adopt(f"{folder}/a.zarr", dvid_dask.create("memory://").new_repo("fly")["master"], "grayscale")
    >>> _ = shutil.move(f"{folder}/a.zarr", f"{folder}/b.zarr")
    >>> move_base(gray, f"{folder}/b.zarr").format, int(gray[0, 0, 0])
    ('zarr3', 7)
    """
    spec = instance.info.settings.get("Base")
    if spec is None:
        raise BadRequest(f"{instance.name!r} was not adopted: all of its voxels are in the store")
    held = Base.of(spec)
    found = held.at(source, dataset=dataset)
    if found != held:
        instance.update_settings(Base=found.to_json())
    return found
