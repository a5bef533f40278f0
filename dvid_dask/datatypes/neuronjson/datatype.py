"""The neuronjson datatype: JSON annotations of bodies, per version, with who set each field and when."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import msgspec
import numpy as np

from dvid_dask.datatypes.base import CONFLICT, Datatype, Mutation, Space, TxSpace, register
from dvid_dask.errors import BadRequest, NotFound
from dvid_dask.store import prefix_end
from dvid_dask.versions.records import go_time

from .library import Bodies, Table, tables
from .posting import check_post, field_of, merge_annotations, moment_of, post, time_text
from .query import parse_query
from .record import (
    NEURON,
    Selection,
    body_of,
    check_body,
    decode,
    document_key,
    document_of,
    encode,
    is_stamp,
    key_of,
    parse,
    plain_part,
    tidy,
    to_json,
)
from .schema import check_schema, conform

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from dvid_dask.versions.meaning import MergeStep
    from dvid_dask.versions.version import Version

__all__ = ["FieldChange", "NeuronJSON"]

#: An annotation to be written: a mapping, or the JSON of one.
Annotation: TypeAlias = Mapping[str, Any] | bytes


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


@register
class NeuronJSON(Datatype, Mapping[int, dict[str, Any]]):
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

    __hash__ = Datatype.__hash__
    __eq__ = Datatype.__eq__

    # ------------------------------------------------------------------ reads of single annotations

    def get(self, body: int, default: Any = None, *, show: str = "", fields: Iterable[str] | None = None) -> Any:
        """The annotation of a body.

        Parameters
        ----------
        body : int
        default : object
            What to return if it has none.
        show : {"", "user", "time", "all"}
            Which stamps to show.
        fields : iterable of str, optional
            Only these fields; ``bodyid`` is always there.

        Returns
        -------
        dict
        """
        selection = Selection(show, fields)
        value = self.view().get(key_of(check_body(body)))
        return default if value is None else selection.decode(value)

    def __getitem__(self, body: int) -> dict[str, Any]:
        """The annotation of a body, without stamps.

        Raises
        ------
        NotFound
            It has none.
        """
        found: dict[str, Any] | None = self.get(body)
        if found is None:
            raise NotFound(f"body {body} has no annotation in {self.name!r} at version {self.version.uuid}")
        return found

    def exists(self, body: int) -> bool:
        """Whether a body has an annotation."""
        return self.view().get(key_of(check_body(body))) is not None

    def __contains__(self, body: object) -> bool:
        try:
            return self.exists(check_body(body))
        except BadRequest:
            return False

    def __iter__(self) -> Iterator[int]:
        """The ids of all annotated bodies, ascending."""
        return (body_of(key) for key in self.view().keys(NEURON))

    def __len__(self) -> int:
        """Number of annotations; walks all of them."""
        return sum(1 for _ in self)

    def bodies(self, first: int = 1, last: int = 2**64 - 1) -> Bodies:
        """Ids of annotated bodies from `first` to `last`, both included, ascending: uint64 (n,)."""
        return np.fromiter((body_of(key) for key in self._keys(self.view(), first, last)), np.uint64)

    @staticmethod
    def _span(first: int, last: int) -> tuple[bytes, bytes]:
        return key_of(first), key_of(last) + b"\0"

    def _keys(self, space: Space, first: int, last: int) -> Iterator[bytes]:
        return space.keys(NEURON, *self._span(first, last))

    def texts_of(self, bodies: Sequence[int], selection: Selection) -> Iterator[bytes | None]:
        """JSON of the annotations of bodies, in their order, from one state; None where there is none."""
        space, keys = self.view(), [key_of(check_body(body)) if body else b"n" for body in bodies]
        batches = (space.get_many(keys[at : at + 1024]) for at in range(0, len(keys), 1024))
        return (None if v is None else selection.apply(v) for values in batches for v in values)

    def texts_between(self, first: int, last: int, selection: Selection) -> Iterator[tuple[int, bytes]]:
        """Body ids from `first` to `last`, both included, with the JSON of their annotations, from one state."""
        pairs = self.view().scan(NEURON, *self._span(first, last))
        return ((body_of(key), selection.apply(value)) for key, value in pairs)

    # ------------------------------------------------------------------ reads of all

    def _tables(self, space: Space | None = None) -> Iterator[Table]:
        version = self.version
        trees: list[str] = []
        if self.info.versioned:
            nodes = self.repo.state().nodes
            trees = [nodes[v].tree for v in self.repo.state().first_parents(version.id)]
        name = version.datastore.url, self.info.data_uuid
        return tables(space or self.view(), name, version.datastore.store, trees)

    def find_texts(self, query: Any, selection: Selection) -> Iterator[bytes]:
        """JSON of the annotations that a query finds; see `query`."""
        wanted = parse_query(query)
        if wanted.bodies is not None:
            return (text for text in self.texts_of(wanted.bodies, selection) if text is not None)
        return (text for table in self._tables() for text in table.texts(selection, table.find(wanted)))

    def query(self, query: Any, *, show: str = "", fields: Iterable[str] | None = None) -> list[dict[str, Any]]:
        """Annotations that a query finds, in order of their body ids.

        Parameters
        ----------
        query : dict or list of dict
            What members must be like: all those of a dictionary, and one dictionary of a list. A value, a list of
            values of which one is enough, ``"re/REGEX"``, ``"exists/0"`` or ``"exists/1"``. A member that is a list
            fits if one of its elements does. A query for nothing but ``bodyid`` answers in the order of the ids asked.
        show, fields
            As `get`.

        Raises
        ------
        BadRequest
        """
        found = self.find_texts(query, Selection(show, fields))
        return [msgspec.json.decode(text) for text in found]

    def query_bodies(self, query: Any) -> Bodies:
        """Ids of the bodies that a query finds: uint64 (n,); see `query`."""
        wanted = parse_query(query)
        if wanted.bodies is not None:
            values = self.view().get_many([key_of(body) for body in wanted.bodies])
            return np.array([b for b, v in zip(wanted.bodies, values, strict=True) if v is not None], np.uint64)
        found = [table.bodies[table.find(wanted)] for table in self._tables()]
        return np.concatenate([np.zeros(0, np.uint64), *found])

    def all_texts(self, selection: Selection) -> Iterator[bytes]:
        """JSON of all annotations, in order of their body ids, but of those of which only ``bodyid`` is left."""
        for table in self._tables():
            for body, text in zip(table.bodies.tolist(), table.texts(selection), strict=True):
                if selection.only_bodies or text != b'{"bodyid":%d}' % body:
                    yield text

    def fields(self) -> dict[str, int]:
        """Names of all members, ``bodyid`` and stamps too, and how many annotations have each."""
        counts: dict[str, int] = {}
        for table in self._tables():
            for name, count in table.field_counts().items():
                counts[name] = counts.get(name, 0) + count
        return dict(sorted(counts.items()))

    def field_times(self) -> dict[str, str]:
        """When each field was last set or removed: the latest of its stamps."""
        latest: dict[str, str] = {}
        for table in self._tables():
            names = [name for name in table.field_counts() if name.endswith("_time")]
            for name, (codes, texts) in zip(names, table.columns(names), strict=True):
                field = field_of(name)
                times = [msgspec.json.decode(texts[code]) for code in np.unique(codes).tolist() if code]
                latest[field] = max([*times, latest.get(field, times[0])], key=_by_time)
        return latest

    def arrow(self, fields: Iterable[str] | None = None, *, query: Any = None, show: str = "") -> pa.Table:
        """Annotations as an Arrow table with a row for each body.

        Parameters
        ----------
        fields : iterable of str, optional
            Columns beside ``bodyid``; all fields if not given.
        query : optional
            Only what it finds; see `query`.
        show : {"", "user", "time", "all"}
            Which stamps are columns too.

        Returns
        -------
        pyarrow.Table
            ``bodyid`` is uint64. The type of another column is one that all its values have: integers, floats,
            booleans, texts, lists of these. Where there is none, as with objects, the column holds JSON texts.
        """
        return self.arrow_at(self.view(), Selection(show, fields), query)

    def arrow_at(self, space: Space, selection: Selection, query: Any = None) -> pa.Table:
        """As `arrow`, of a state got from `view`."""
        from .frames import arrow_table

        return arrow_table(list(self._tables(space)), selection, None if query is None else parse_query(query))

    def dataframe(self, fields: Iterable[str] | None = None, *, query: Any = None, show: str = "") -> pd.DataFrame:
        """Annotations as a pandas dataframe, indexed by ``bodyid``; see `arrow`. Its columns have Arrow's types."""
        from .frames import to_pandas

        return to_pandas(self.arrow(fields, query=query, show=show))

    # ------------------------------------------------------------------ writes

    def set(self, body: int, annotation: Annotation, *, user: str, app: str = "", force: bool = False) -> None:
        """Replace the annotation of a body. Fields that stay the same keep their stamps.

        Parameters
        ----------
        body : int
        annotation : dict or bytes
            The fields, or JSON of them. ``bodyid`` may be left out of a dictionary.
        user, app : str
            Who asks, with which program.
        force : bool
            Also at a committed version.

        Raises
        ------
        BadRequest
            No user; no JSON; the annotation breaks the JSON Schema of the instance.
        LockedVersion
        """
        self.put_many([(body, annotation)], user=user, app=app, replace=True, force=force)

    def update(
        self,
        body: int,
        changes: Annotation,
        *,
        user: str,
        app: str = "",
        conditional: Collection[str] = (),
        force: bool = False,
    ) -> None:
        """Set fields of the annotation of a body, and leave the others; None removes a field.

        Parameters
        ----------
        body : int
        changes : dict or bytes
            The fields, or JSON of them. Only those whose value differs get new stamps. A stamp that is given is kept.
        conditional : collection of str
            Fields that are set only where there is none yet.
        user, app, force
            As `set`.
        """
        self.put_many([(body, changes)], user=user, app=app, conditional=conditional, force=force)

    def put_many(
        self,
        annotations: Mapping[int, Annotation] | Iterable[tuple[int, Annotation]],
        *,
        user: str,
        app: str = "",
        replace: bool = False,
        conditional: Collection[str] = (),
        force: bool = False,
        action: str = "ingestneuronjson",
    ) -> None:
        """Set or update many annotations in one commit: all or nothing.

        Parameters
        ----------
        annotations : mapping or iterable of pairs
            Annotations by body id. A body that comes twice is updated twice, in order.
        replace : bool
            As `set` does it; else as `update`.
        conditional, user, app, force
            As `update`.
        action : str
            How the mutation log calls it.
        """
        self._check_user(user)
        if isinstance(conditional, str):
            raise BadRequest(f"conditional is a list of fields, not the text {conditional!r}")
        pairs = annotations.items() if isinstance(annotations, Mapping) else annotations
        posts = [(check_body(body), *_posted(body, annotation)) for body, annotation in pairs]
        if not posts:
            self.check_open(force)
            return

        def write(m: Mutation, space: TxSpace) -> None:
            bodies = list(dict.fromkeys(body for body, _, _ in posts))
            schema, *values = space.get_many([document_key("json_schema"), *map(key_of, bodies)])
            held = {body: value and decode(value) for body, value in zip(bodies, values, strict=True)}
            time = time_text(m.time.astimezone())
            for body, posted, _ in posts:
                if schema:
                    posted = conform(schema, posted)
                check_post(body, posted)
                held[body] = post(
                    held[body] or None, posted, user=user, time=time, replace=replace, conditional=conditional
                )
            space.put_many((key_of(body), encode(annotation)) for body, annotation in held.items() if annotation)
            for body, _, size in posts:
                m.log(self, {"Action": action, "Bytes": size, "Key": str(body), **self._stamp(m)})

        self.mutate(write, user=user, app=app, force=force)

    def load(
        self,
        annotations: Mapping[int, Annotation] | Iterable[tuple[int, Annotation]],
        *,
        user: str = "",
        app: str = "",
        force: bool = False,
    ) -> None:
        """Store annotations as they are, with the stamps that they have, in one commit. What was there is replaced.

        For what comes from elsewhere with its history. No schema is asked. Members that are null are left out.

        Parameters
        ----------
        annotations : mapping or iterable of pairs
            By body id; ``bodyid`` may be left out of them.
        user, app, force
            As `set`, for the mutation log.

        Raises
        ------
        BadRequest, LockedVersion
        """
        pairs = annotations.items() if isinstance(annotations, Mapping) else annotations
        values: dict[bytes, bytes] = {}
        for body, annotation in pairs:
            posted, _ = _posted(check_body(body), annotation)
            posted = {"bodyid": int(body), **{name: value for name, value in posted.items() if value is not None}}
            check_post(int(body), posted)
            values[key_of(int(body))] = encode(posted)

        def write(m: Mutation, space: TxSpace) -> None:
            space.put_many(values.items())
            m.log(self, {"Action": "load", "Bodies": len(values), **self._stamp(m)})

        self.mutate(write, user=user, app=app, force=force)

    def delete(self, bodies: int | Iterable[int], *, user: str = "", app: str = "", force: bool = False) -> None:
        """Remove the annotation of a body, or of several in one commit, whether they are there or not.

        Raises
        ------
        BadRequest, LockedVersion
        """
        each = bodies if isinstance(bodies, Iterable) else [bodies]
        gone = [check_body(body) for body in each]

        def remove(m: Mutation, space: TxSpace) -> None:
            for body in gone:
                space.delete(key_of(body))
                m.log(self, {"Action": "delete", "Key": str(body), **self._stamp(m)})

        self.mutate(remove, user=user, app=app, force=force)

    @staticmethod
    def _check_user(user: str) -> None:
        if not user or not isinstance(user, str):
            raise BadRequest("annotations need the name of the user who sets them")

    def _stamp(self, m: Mutation) -> dict[str, str]:
        return {"Timestamp": go_time(m.time), "UUID": self.version.uuid}

    # ------------------------------------------------------------------ documents

    def document(self, name: str) -> bytes | None:
        """A document that is kept beside the annotations.

        Parameters
        ----------
        name : {"json_schema", "schema", "schema_batch"}
        """
        return self.view().get(document_key(name)) or None

    def set_document(self, name: str, data: bytes, *, user: str = "", app: str = "", force: bool = False) -> None:
        """Keep a document. From ``json_schema`` on, posts that break it are refused; what is there stays.

        Raises
        ------
        BadRequest
            ``json_schema`` isn't one.
        LockedVersion
        """
        key = document_key(name)
        if name == "json_schema":
            check_schema(data)

        def write(m: Mutation, space: TxSpace) -> None:
            space.put(key, data)
            m.log(self, {"Action": "postneuronjson", "Bytes": len(data), "Key": name, **self._stamp(m)})

        self.mutate(write, user=user, app=app, force=force)

    def delete_document(self, name: str, *, user: str = "", app: str = "", force: bool = False) -> None:
        """Remove a document, whether it is there or not."""
        key = document_key(name)

        def remove(m: Mutation, space: TxSpace) -> None:
            space.delete(key)
            m.log(self, {"Action": "delete", "Key": name, **self._stamp(m)})

        self.mutate(remove, user=user, app=app, force=force)

    # ------------------------------------------------------------------ versions against each other

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
        before, after = Space(since.tree().view(0), self.info.prefix), self.view(0)
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


def _posted(body: int, annotation: Annotation) -> tuple[dict[str, Any], int]:
    if isinstance(annotation, (bytes, bytearray, memoryview)):
        return parse(bytes(annotation)), len(annotation)
    if not isinstance(annotation, Mapping):
        raise BadRequest(f"an annotation is a mapping of names to values, not {type(annotation).__name__}")
    posted = {"bodyid": int(body), **tidy(annotation)}
    return posted, len(to_json(posted))


def _by_time(time: str) -> tuple[float, str]:
    return moment_of(time), time


def _field_changes(body: int, old: bytes | None, new: bytes | None, version: str) -> Iterator[FieldChange]:
    before, after = decode(old) if old else {}, decode(new) if new else {}
    for name in sorted(before.keys() | after.keys()):
        if is_stamp(name) or name == "bodyid":
            continue
        a, b = before.get(name), after.get(name)
        if to_json(a) != to_json(b):
            user, time = (str(after.get(name + end, "")) for end in ("_user", "_time"))
            yield FieldChange(body, name, a, b, user, time, version)
