"""Git for teravoxel volumes, native to Dask, that speaks DVID's REST API.

Examples
--------
>>> import dvid_dask
>>> ds = dvid_dask.create("memory://")
>>> repo = ds.new_repo("fly")
>>> notes = repo.new_instance("keyvalue", "notes")
>>> notes["soma"] = b"left of the midline"
>>> repo["master"].commit("first notes")
>>> work = repo["master"].new_branch("work")
>>> work["notes"]["soma"]
b'left of the midline'
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

from dvid_dask import errors

if TYPE_CHECKING:
    from dvid_dask.versions import Datastore

try:
    __version__ = _version("dvid-dask")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0+unknown"

__all__ = ["__version__", "create", "errors", "open"]


def create(url: str, *, compact: str = "background", **settings: Any) -> Datastore:
    """Make a new, empty datastore and open it.

    Parameters
    ----------
    url : str
        Where: a path, or ``file://``, ``memory://NAME``, ``s3://``, ``gs://``. ``memory://`` alone is a new store each
        time, in this process, and gone when nothing of it is held any more.
    compact : {"background", "now", "never"}
        When committed versions are compacted; see `dvid_dask.versions.Datastore`.
    **settings
        Passed to `dvid_dask.store.Store.create`.

    Raises
    ------
    dvid_dask.store.StoreExists
        When there is a store already.

    Examples
    --------
    >>> import dvid_dask
    >>> dvid_dask.create("memory://").repos
    <Repos: 0>
    """
    from dvid_dask.store import Store
    from dvid_dask.versions import Datastore

    return Datastore.create(Store.create(url, **settings), compact=compact)


def open(url: str, read_only: bool = False, *, compact: str = "background") -> Datastore:
    """Open an existing datastore.

    Parameters
    ----------
    url : str
        Where it lies.
    read_only : bool
        Refuse all writes.
    compact : {"background", "now", "never"}
        When committed versions are compacted; see `dvid_dask.versions.Datastore`.

    Raises
    ------
    dvid_dask.store.StoreNotFound
        When there is no store.
    dvid_dask.store.BadStore, dvid_dask.store.NewerFormat
        When it can't be read.
    """
    from dvid_dask.store import Store
    from dvid_dask.versions import Datastore

    return Datastore(Store.open(url, read_only=read_only), compact=compact)
