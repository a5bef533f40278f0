"""Changes of annotations and documents: each call is one commit."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeAlias

from dvid_dask.datatypes.base import Mutation, TxSpace
from dvid_dask.datatypes.neuronjson.methods.reading import Reading
from dvid_dask.datatypes.neuronjson.posting import check_post, post, time_text
from dvid_dask.datatypes.neuronjson.record import (
    check_body,
    decode,
    document_key,
    encode,
    key_of,
    parse,
    tidy,
    to_json,
)
from dvid_dask.datatypes.neuronjson.schema import check_schema, conform
from dvid_dask.errors import BadRequest
from dvid_dask.versions.records import go_time

__all__ = ["Annotation", "Writing"]

#: An annotation to be written: a mapping, or the JSON of one.
Annotation: TypeAlias = Mapping[str, Any] | bytes

#: Annotations that are parsed at a time.
_PART = 256


class Writing(Reading):
    """Changes of a neuronjson."""

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
        posts = [(check_body(body), annotation) for body, annotation in pairs]
        if not posts:
            self.check_open(force)
            return

        def write(m: Mutation, space: TxSpace) -> None:
            schema = space.get(document_key("json_schema"))
            time = time_text(m.time.astimezone())
            # parsed and put part by part: what a batch takes in memory is what is stored of it
            for at in range(0, len(posts), _PART):
                part = posts[at : at + _PART]
                bodies = list(dict.fromkeys(body for body, _ in part))
                values = space.get_many(list(map(key_of, bodies)))
                held = {
                    body: None if value is None else decode(value) for body, value in zip(bodies, values, strict=True)
                }
                for body, annotation in part:
                    posted, size = _posted(body, annotation)
                    if schema:
                        posted = conform(schema, posted)
                    check_post(body, posted)
                    held[body] = post(
                        held[body], posted, user=user, time=time, replace=replace, conditional=conditional
                    )
                    m.log(self, {"Action": action, "Bytes": size, "Key": str(body), **self._stamp(m)})
                space.put_many((key_of(body), encode(annotation)) for body, annotation in held.items() if annotation)

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


def _posted(body: int, annotation: Annotation) -> tuple[dict[str, Any], int]:
    if isinstance(annotation, (bytes, bytearray, memoryview)):
        return parse(bytes(annotation)), len(annotation)
    if not isinstance(annotation, Mapping):
        raise BadRequest(f"an annotation is a mapping of names to values, not {type(annotation).__name__}")
    posted = {"bodyid": int(body), **tidy(annotation)}
    return posted, len(to_json(posted))
