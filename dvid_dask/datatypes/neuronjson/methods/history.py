"""Versions against each other: what changed, who changed it, and what a merge makes of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from dvid_dask.datatypes.base import CONFLICT
from dvid_dask.datatypes.neuronjson.methods.writing import Writing
from dvid_dask.datatypes.neuronjson.posting import merge_annotations
from dvid_dask.datatypes.neuronjson.record import (
    NEURON,
    Selection,
    body_of,
    check_body,
    decode,
    document_of,
    encode,
    is_stamp,
    key_of,
    plain_part,
    to_json,
)
from dvid_dask.datatypes.neuronjson.schema import check_schema
from dvid_dask.errors import BadRequest
from dvid_dask.store import prefix_end

if TYPE_CHECKING:
    from dvid_dask.versions.meaning import MergeStep
    from dvid_dask.versions.version import Version

__all__ = ["FieldChange", "History"]


class FieldChange(msgspec.Struct, frozen=True):
    """A field that changed between two versions of an annotation.

    Attributes
    ----------
    body : int
    field : str
    old, new : object
        Values; None where there is none.
    user, time : str
        The stamps that the field has now, empty if it has none.
    version : str
        UUID of the newer version.
    """

    body: int
    field: str
    old: Any
    new: Any
    user: str
    time: str
    version: str


class History(Writing):
    """A neuronjson at several versions."""

    def describe_change(self, key: bytes) -> Any:
        """The body id, or the name of the document."""
        return body_of(key) if key[:1] == NEURON else document_of(key)

    def merge_versions(self, step: MergeStep) -> None:
        """Merge annotations field by field.

        Of a field that both sides set to different values ours stays, and it is listed as a conflict; so is an
        annotation that one side removed and the other changed, which stays.
        """

        def settle(key: bytes, base: bytes | None, sides: Sequence[bytes | None]) -> Any:
            if key[:1] != NEURON:
                return CONFLICT
            ours, theirs = sides
            if ours is None or theirs is None:
                step.conflict(key, {"body": body_of(key), "removed": True})
                return theirs if ours is None else ours
            before = None if base is None else decode(base)
            merged, fields = merge_annotations(before, decode(ours), decode(theirs))
            if fields:
                step.conflict(key, {"body": body_of(key), "fields": sorted(fields)})
            return encode(merged)

        step.merge_keys(settle=settle)

    def changes(self, since: Version, bodies: Collection[int] | None = None) -> Iterator[FieldChange]:
        """What changed from another version to this one, field by field, in order of the body ids.

        Costs what differs, not what there is.

        Parameters
        ----------
        since : Version
        bodies : collection of int, optional
            Only these.
        """
        for key, old, new in self._changed(since):
            body = body_of(key)
            if bodies is None or body in bodies:
                yield from _field_changes(body, old, new, self.version.uuid)

    def changed_texts(self, since: Version | None) -> Iterator[tuple[int, bytes | None]]:
        """Body ids with the JSON of annotations, stamps and all, that differ from another version; None: removed.

        Since None: all annotations.
        """
        everything = Selection("all")
        if since is None:
            yield from self.texts_between(1, 2**64 - 1, everything)
        else:
            for key, _, new in self._changed(since):
                yield body_of(key), None if new is None else everything.apply(new)

    def _changed(self, since: Version) -> Iterator[tuple[bytes, bytes | None, bytes | None]]:
        """Keys of annotations that differ, with both values."""
        if not self.info.versioned:
            raise BadRequest(f"{self.name!r} is unversioned: it is the same at all versions")
        if since.repo != self.repo:
            raise BadRequest(f"versions {since.uuid} and {self.version.uuid} belong to different repositories")
        before, after = self.space_in(since.tree().view(0)), self.view(0)
        low, cut = self.info.prefix + NEURON, len(self.info.prefix)
        found = (c.key[cut:] for c in self.version.datastore.store.diff(before.view, after.view, low, prefix_end(low)))
        while part := list(islice(found, 1024)):
            yield from zip(part, before.get_many(part), after.get_many(part), strict=True)

    def changes_of(self, body: int) -> list[FieldChange]:
        """Who changed which field of a body's annotation when: along the first parents, oldest first."""
        key = key_of(check_body(body))
        found: list[FieldChange] = []
        old: bytes | None = None
        path = self.version.path_to_root() if self.info.versioned else [self.version]
        for version in reversed(path):
            new = version.instance(self.info).view().get(key)
            if new != old:
                found += _field_changes(body, old, new, version.uuid)
            old = new
        return found

    def disagreements(self) -> Iterator[str]:
        """Annotations that can't be read, or name another body than the one they belong to."""
        for key, value in self.view().scan(NEURON):
            body = body_of(key)
            try:
                annotation = decode(value)
            except (ValueError, msgspec.DecodeError) as error:
                yield f"the annotation of body {body} can't be read: {error}"
                continue
            if annotation.get("bodyid") != body:
                yield f"the annotation of body {body} names body {annotation.get('bodyid')}"
            if to_json({n: v for n, v in annotation.items() if not is_stamp(n)}) != plain_part(value):
                yield f"the annotation of body {body} isn't kept in canonical form"
        schema = self.document("json_schema")
        if schema:
            try:
                check_schema(schema)
            except BadRequest as error:
                yield str(error)


def _field_changes(body: int, old: bytes | None, new: bytes | None, version: str) -> Iterator[FieldChange]:
    before, after = decode(old) if old else {}, decode(new) if new else {}
    for name in sorted(before.keys() | after.keys()):
        if is_stamp(name) or name == "bodyid":
            continue
        a, b = before.get(name), after.get(name)
        if to_json(a) != to_json(b):
            user, time = (str(after.get(name + end, "")) for end in ("_user", "_time"))
            yield FieldChange(body, name, a, b, user, time, version)
