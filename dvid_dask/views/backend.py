"""xarray's engine ``dvid``: an instance at a version as a dataset, all its scales as a tree of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

import xarray
from xarray.backends import BackendEntrypoint

from dvid_dask.datatypes import LABEL_VOLUMES
from dvid_dask.errors import BadRequest, UnknownVersion

from .volume import Volume

if TYPE_CHECKING:
    from dvid_dask.datatypes.base import Datatype

__all__ = ["DvidBackend"]


class DvidBackend(BackendEntrypoint):
    """Opens a store: ``xarray.open_dataset("fly-store", engine="dvid", version="master", instance="grayscale")``.

    ``open_dataset`` gives one scale as a dataset with one variable of the instance's name, z, y, x in physical units as
    coordinates; ``open_datatree`` gives every scale as a node ``s0``, ``s1`` ... Voxels are read when they are needed.
    """

    description: ClassVar[str] = "Volumes of dvid-dask stores at any version"
    open_dataset_parameters: ClassVar[tuple[str, ...]] = (
        "filename_or_obj",
        "drop_variables",
        "version",
        "instance",
        "scale",
        "supervoxels",
    )
    supports_groups: ClassVar[bool] = True

    def open_dataset(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        version: str = "master",
        instance: str = "",
        scale: int = 0,
        supervoxels: bool = False,
    ) -> xarray.Dataset:
        """One scale of an instance at a version."""
        found = _instance(filename_or_obj, version, instance)
        return _dataset(found, scale, supervoxels, drop_variables)

    def open_groups_as_dict(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        version: str = "master",
        instance: str = "",
        supervoxels: bool = False,
    ) -> dict[str, xarray.Dataset]:
        """All scales of an instance at a version by ``/s0``, ``/s1`` ..."""
        found = _instance(filename_or_obj, version, instance)
        levels = Volume(found, supervoxels=supervoxels).levels
        groups = {f"/s{level.scale}": _dataset(found, level.scale, supervoxels, drop_variables) for level in levels}
        return {"/": xarray.Dataset(attrs={"instance": found.name, "version": found.version.uuid}), **groups}

    def open_datatree(self, filename_or_obj: Any, **options: Any) -> xarray.DataTree:
        """All scales of an instance at a version, as a tree."""
        return xarray.DataTree.from_dict(self.open_groups_as_dict(filename_or_obj, **options))

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Never: a store is named together with a version."""
        return False


def _instance(store: Any, version: str, name: str) -> Datatype:
    import dvid_dask
    from dvid_dask.versions import Datastore

    datastore = store if isinstance(store, Datastore) else dvid_dask.open(str(store))
    try:
        found = datastore[version]
    except UnknownVersion:
        if ":" in version:
            raise
        found = datastore[f":{version}"]  # a branch of the only repository
    if not name:
        names = [i for i in found if found[i].typename in LABEL_VOLUMES or found[i].typename.endswith("blk")]
        if len(names) != 1:
            raise BadRequest(f"name the instance: version {found.uuid[:12]} has {', '.join(sorted(names)) or 'none'}")
        name = names[0]
    return found[name]


def _dataset(
    instance: Any, scale: int, supervoxels: bool, drop_variables: str | Iterable[str] | None
) -> xarray.Dataset:
    options = {"supervoxels": True} if supervoxels else {}
    array: xarray.DataArray = instance.to_xarray(scale=scale, **options)
    dropped = [drop_variables] if isinstance(drop_variables, str) else list(drop_variables or ())
    dataset = array.to_dataset(name=instance.name)
    return dataset.drop_vars([name for name in dropped if name in dataset])
