"""The neuronjson datatype: JSON annotations of bodies, per version, with who set each field and when."""

from __future__ import annotations

from typing import ClassVar

from dvid_dask.datatypes.base import register

from .methods.history import FieldChange, History

__all__ = ["FieldChange", "NeuronJSON"]


@register
class NeuronJSON(History):
    """JSON annotations by body id, at a version; a read-only mapping of body ids to dictionaries.

    A field that is set gets two stamps, ``<field>_user`` and ``<field>_time``, which readers see if they ask for them.
    So everything that changes annotations needs the name of a user. Every call that changes something is one atomic
    commit, and the reads of one call see one state.

    Questions that concern all annotations are answered from memory, at any version; see
    `dvid_dask.datatypes.neuronjson.set_memory`.

    Examples
    --------
    >>> import dvid_dask
    >>> repo = dvid_dask.create("memory://").new_repo()
    >>> neurons = repo.new_instance("neuronjson", "neurons")
    >>> neurons.put_many({101: {"type": "KC", "size": 3}, 202: {"type": "PN"}}, user="ann")
    >>> neurons.update(202, {"side": "L"}, user="bob")
    >>> neurons[202]
    {'bodyid': 202, 'side': 'L', 'type': 'PN'}
    >>> neurons.get(202, show="user", fields=["side"])
    {'bodyid': 202, 'side': 'L', 'side_user': 'bob'}
    >>> neurons.query({"type": "re/^K"})
    [{'bodyid': 101, 'size': 3, 'type': 'KC'}]
    >>> neurons.query_bodies({"size": "exists/0"})
    array([202], dtype=uint64)
    >>> neurons.delete(101, user="ann")
    >>> list(neurons)
    [202]
    """

    typename: ClassVar[str] = "neuronjson"
    typeurl: ClassVar[str] = "github.com/janelia-flyem/dvid/datatype/neuronjson"
    typeversion: ClassVar[str] = "0.1"
    merges_by_meaning: ClassVar[bool] = True
    reads_by_post: ClassVar[frozenset[str]] = frozenset({"query"})
