"""Versions that everybody may read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dvid_dask.api.config import ConfigError
from dvid_dask.versions.records import is_hex_uuid

if TYPE_CHECKING:
    from dvid_dask.versions import Datastore

__all__ = ["public_versions"]


def public_versions(datastore: Datastore, released: tuple[str, ...]) -> frozenset[str]:
    """UUIDs of released versions and of all versions above them, through all parents.

    What is above a committed version never changes, so this holds until others are released.

    Parameters
    ----------
    datastore : Datastore
    released : tuple of str
        Full UUIDs, in lower case.

    Raises
    ------
    ConfigError
        One is no full UUID, names no version, or a version that isn't committed.

    Examples
    --------
    >>> import dvid_dask
    >>> repo = dvid_dask.create("memory://").new_repo()
    >>> repo["master"].commit()
    >>> child = repo["master"].newversion()
    >>> public_versions(repo.datastore, (repo.root,)) == {repo.root}
    True
    >>> public_versions(repo.datastore, (child.uuid,))
    Traceback (most recent call last):
    ...
    dvid_dask.api.config.ConfigError: auth.public_versions: version ... is not committed
    """
    shown: set[str] = set()
    for uuid in released:
        if not is_hex_uuid(uuid) or uuid != uuid.lower():
            raise ConfigError(f'auth.public_versions holds "{uuid[:80]}": expected a full UUID, 32 hex digits')
        state = datastore.state(0)
        at = state.uuids.get(uuid)
        if at is None:
            raise ConfigError(f"auth.public_versions: there is no version {uuid}")
        repo = state.repos[at[0]]
        if not repo.nodes[at[1]].locked:
            raise ConfigError(f"auth.public_versions: version {uuid} is not committed")
        shown.update(repo.nodes[vid].uuid for vid in repo.ancestors(at[1]))
    return frozenset(shown)
