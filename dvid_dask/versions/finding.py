"""Versions by what people type: selectors, with aliases of repositories beside UUIDs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dvid_dask.errors import UnknownVersion, did_you_mean

if TYPE_CHECKING:
    from dvid_dask.versions.datastore import Datastore
    from dvid_dask.versions.version import Version

__all__ = ["find_version"]


def find_version(datastore: Datastore, selector: str) -> Version:
    """The version of a selector.

    Parameters
    ----------
    datastore : Datastore
    selector : str
        As `Datastore` takes it, or ``alias:branch``, or in a store with one repository the name of a branch.

    Raises
    ------
    UnknownVersion, AmbiguousVersion, BadRequest

    Examples
    --------
    >>> import dvid_dask
    >>> ds = dvid_dask.create("memory://")
    >>> repo = ds.new_repo("fly")
    >>> find_version(ds, "fly:master") == find_version(ds, "master") == repo["master"]
    True
    """
    try:
        return datastore[selector]
    except UnknownVersion as unknown:
        head, colon, branch = selector.partition(":")
        if colon:
            aliases = [r for r in datastore.repos.values() if r.alias == head]
            if len(aliases) == 1:
                return aliases[0][branch]
        elif len(datastore.repos) == 1:
            return next(iter(datastore.repos.values()))[selector]
        known = [r.alias for r in datastore.repos.values() if r.alias]
        if colon and head and known:
            raise UnknownVersion(
                f"no version {selector!r}: no repository {head!r}{did_you_mean(head, known)}"
            ) from None
        raise unknown
