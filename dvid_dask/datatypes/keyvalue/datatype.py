"""The keyvalue datatype: texts to bytes, per version.

Keys are stored in UTF-8, so that byte order is DVID's order of keys; how values are, says `values`.

As in DVID, a value of length zero reads as absent, though its key is listed and exists; it hides what an older version
had under the key.
"""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping, MutableMapping, Sequence, ValuesView
from functools import partial
from types import TracebackType
from typing import Any, ClassVar, overload

from dvid_dask.datatypes.base import Datatype, Mutation, Space, TxSpace, register
from dvid_dask.errors import BadRequest, NotFound, did_you_mean
from dvid_dask.versions.records import go_time

from .keys import KEYS, decode_key, encode_key
from .values import CHUNK, CHUNKS, NOTES, Upload, Value, drop_chunks, is_large, missing_chunks, size_of

__all__ = ["KeyValue", "ValueWriter"]


def _as_bytes(key: str, value: object) -> bytes | memoryview:
    if isinstance(value, bytes):
        return value
    if isinstance(value, (bytearray, memoryview)):
        view = memoryview(value)
        return view.cast("B") if view.c_contiguous else view.tobytes()
    raise BadRequest(f"the value of {key!r} must be bytes, not {type(value).__name__}")


class _Items(ItemsView[str, bytes]):
    """Pairs of one state, without values of length zero."""

    _mapping: KeyValue

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        return self._mapping.get_range()


class _Values(ValuesView[bytes]):
    """Values of one state, without those of length zero."""

    _mapping: KeyValue

    def __iter__(self) -> Iterator[bytes]:
        return (value for _, value in self._mapping.get_range())


@register
class KeyValue(Datatype, MutableMapping[str, bytes]):
    """Bytes by name, at a version; a mutable mapping.

    Every call that changes something is one atomic commit and one entry per key in the mutation log. Reads of one call
    see one state.

    Examples
    --------
    >>> import dvid_dask
    >>> repo = dvid_dask.create("memory://").new_repo()
    >>> kv = repo.new_instance("keyvalue", "notes")
    >>> kv["soma"] = b"left"
    >>> kv.put_many({"axon": b"long", "tail": b"none"})
    >>> list(kv), kv["axon"], "dendrite" in kv, len(kv)
    (['axon', 'soma', 'tail'], b'long', False, 3)
    >>> kv.keyrange("b", "t")
    ['soma']
    >>> dict(kv.get_range("b", "tz"))
    {'soma': b'left', 'tail': b'none'}
    >>> del kv["tail"]
    >>> kv.get("tail") is None
    True
    """

    typename: ClassVar[str] = "keyvalue"
    typeurl: ClassVar[str] = "github.com/janelia-flyem/dvid/datatype/keyvalue"
    typeversion: ClassVar[str] = "0.2"

    __hash__ = Datatype.__hash__
    __eq__ = Datatype.__eq__

    # ------------------------------------------------------------------ reads

    @overload
    def get(self, key: str, /) -> bytes | None: ...
    @overload
    def get(self, key: str, /, default: bytes) -> bytes: ...
    @overload
    def get(self, key: str, /, default: Any) -> Any: ...
    def get(self, key: str, /, default: Any = None) -> Any:
        """The value of a key; `default` when there is none or it has length zero.

        Raises
        ------
        BadRequest
            When the key is empty, holds NUL or is longer than 4096 bytes.
        """
        space = self.view()
        stored = space.get(encode_key(key))
        if stored is not None and is_large(stored):
            return Value(space, stored).read()
        return stored or default

    def value(self, key: str) -> Value | None:
        """The value of a key, to be read in parts; None when there is none. One of length zero is there, but false.

        Raises
        ------
        BadRequest
            As `get`.

        Examples
        --------
        >>> import dvid_dask
        >>> kv = dvid_dask.create("memory://").new_repo().new_instance("keyvalue", "notes")
        >>> kv["mesh"] = bytes(5_000_000) + b"end"
        >>> mesh = kv.value("mesh")
        >>> mesh.size, mesh.read(mesh.size - 3)
        (5000003, b'end')
        """
        space = self.view()
        stored = space.get(encode_key(key))
        return None if stored is None else Value(space, stored)

    def __getitem__(self, key: str) -> bytes:
        """The value of a key.

        Raises
        ------
        NotFound
            When there is none or it has length zero.
        """
        value = self.get(key)
        if value is None:
            raise NotFound(f"no key {key!r} in {self.name!r} at version {self.version.uuid}{self._close(key)}")
        return value

    def _close(self, key: str) -> str:
        near = []
        for name in self._keys(self.view(), key[:1], key[:1] + "\U0010ffff"):
            near.append(name)
            if len(near) >= 1000:
                break
        return did_you_mean(key, near) if near else ""

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """The values of keys, in their order, from one state; None where there is none or it has length zero."""
        return list(self.iter_many(keys))

    def iter_many(self, keys: Sequence[str], *, batch: int = 256) -> Iterator[bytes | None]:
        """As `get_many`, one after the other: at most `batch` values are in memory at once."""
        return ((value.read() if value else None) for value in self.iter_values(keys, batch=batch))

    def iter_values(self, keys: Sequence[str], *, batch: int = 256) -> Iterator[Value | None]:
        """As `iter_many`, each to be read in parts; a value of length zero is there, but false."""
        space, encoded = self.view(), [encode_key(k) for k in keys]
        batches = (encoded[at : at + batch] for at in range(0, len(encoded), batch))
        return (None if v is None else Value(space, v) for part in batches for v in space.get_many(part))

    def exists(self, key: str) -> bool:
        """True when the key is there, also with a value of length zero."""
        return self.view().get(encode_key(key)) is not None

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and bool(key) and "\0" not in key and self.exists(key)

    @staticmethod
    def _bounds(first: str | None, last: str | None) -> tuple[bytes | None, bytes | None]:
        # ranges are inclusive: the first key after `last` is `last` + NUL, which no key holds
        start = None if first is None else KEYS + first.encode(errors="surrogatepass")
        stop = None if last is None else KEYS + last.encode(errors="surrogatepass") + b"\0"
        return start, stop

    def _keys(self, space: Space, first: str | None, last: str | None) -> Iterator[str]:
        start, stop = self._bounds(first, last)
        return (decode_key(k) for k in space.keys(KEYS, start, stop))

    def keyrange(self, first: str, last: str) -> list[str]:
        """Keys from `first` to `last`, both included, in byte order of UTF-8; empty when `first` comes after `last`."""
        return list(self._keys(self.view(), first, last))

    def get_range(self, first: str | None = None, last: str | None = None) -> Iterator[tuple[str, bytes]]:
        """Keys with values from `first` to `last`, both included, in order, from one state and in bounded memory.

        Values of length zero are left out.
        """
        return ((key, value.read()) for key, value in self.scan_values(first, last))

    def scan_values(self, first: str | None = None, last: str | None = None) -> Iterator[tuple[str, Value]]:
        """As `get_range`, each value to be read in parts."""
        start, stop = self._bounds(first, last)
        space = self.view()
        return ((decode_key(k), Value(space, v)) for k, v in space.scan(KEYS, start, stop) if v)

    def sizes(self, first: str | None = None, last: str | None = None) -> Iterator[tuple[str, int]]:
        """Keys from `first` to `last`, both included, in order, with the bytes of their values, zero too.

        Values are not read.
        """
        start, stop = self._bounds(first, last)
        space = self.view()
        for key, length, stored in space.lengths(KEYS, start, stop):
            yield decode_key(key), size_of(length, stored, partial(space.get, key))

    def __iter__(self) -> Iterator[str]:
        """All keys, in byte order of UTF-8, also those with values of length zero."""
        return self._keys(self.view(), None, None)

    def items(self) -> ItemsView[str, bytes]:
        """Pairs of key and value, read from one state when iterated; values of length zero are left out."""
        return _Items(self)

    def values(self) -> ValuesView[bytes]:
        """Values, as `items`."""
        return _Values(self)

    def __len__(self) -> int:
        """Number of keys; walks all of them."""
        return sum(1 for _ in self)

    def __bool__(self) -> bool:
        return next(iter(self), None) is not None

    # ------------------------------------------------------------------ writes

    def put(self, key: str, value: bytes, *, user: str = "", app: str = "", force: bool = False) -> None:
        """Set a key.

        Parameters
        ----------
        key : str
        value : bytes
        user, app : str
            Who asks, with which program.
        force : bool
            Also at a committed version.

        Raises
        ------
        BadRequest
            When key or value can't be used.
        LockedVersion
        """
        self.put_many([(key, value)], user=user, app=app, force=force)

    def put_many(
        self,
        items: Mapping[str, bytes] | Iterable[tuple[str, bytes]],
        *,
        user: str = "",
        app: str = "",
        force: bool = False,
    ) -> None:
        """Set many keys in one commit: all or nothing. Of a key given twice, the last value stays."""
        pairs = [(k, _as_bytes(k, v)) for k, v in (items.items() if isinstance(items, Mapping) else items)]
        encoded = [encode_key(key) for key, _ in pairs]
        self.check_open(force)
        if not pairs:
            return
        stage = self._stage(user, app, force)
        uploads: dict[bytes, Upload] = {}
        stored: dict[bytes, bytes] = {}
        try:
            for key, (_, value) in dict(zip(encoded, pairs, strict=True)).items():
                if len(value) <= CHUNK and not is_large(value):
                    stored[key] = bytes(value)
                    continue
                upload = uploads[key] = Upload(stage)
                upload.write(value)
                stored[key] = upload.end()

            def write(m: Mutation, space: TxSpace) -> None:
                drop_chunks(space, stored)
                for upload in uploads.values():
                    upload.finish(space)
                space.put_many(stored.items())
                for key, value in pairs:
                    m.log(self, {"Action": "postkv", "Bytes": len(value), "Key": key, **self._stamp(m)})

            self.mutate(write, user=user, app=app, force=force)
        except BaseException:
            for upload in uploads.values():
                upload.abort()
            raise

    def _stage(self, user: str, app: str, force: bool) -> Callable[[Callable[[Any, TxSpace], None]], None]:
        return partial(self.mutate, user=user, app=app, force=force)

    def writer(self, key: str, *, user: str = "", app: str = "", force: bool = False) -> ValueWriter:
        """A key's value, to be written piece by piece in bounded memory; it is there as a whole, or not at all.

        Raises
        ------
        BadRequest, LockedVersion

        Examples
        --------
        >>> import dvid_dask
        >>> kv = dvid_dask.create("memory://").new_repo().new_instance("keyvalue", "notes")
        >>> with kv.writer("log") as out:
        ...     for line in (b"one,", b"two"):
        ...         _ = out.write(line)
        >>> kv["log"]
        b'one,two'
        """
        return ValueWriter(self, key, user=user, app=app, force=force)

    def delete(self, key: str, *, user: str = "", app: str = "", force: bool = False) -> None:
        """Remove a key, whether it is there or not.

        Raises
        ------
        BadRequest, LockedVersion
        """
        data = encode_key(key)

        def remove(m: Mutation, space: TxSpace) -> None:
            drop_chunks(space, (data,))
            space.delete(data)
            m.log(self, {"Action": "delete", "Key": key, **self._stamp(m)})

        self.mutate(remove, user=user, app=app, force=force)

    def delete_many(self, keys: Iterable[str], *, user: str = "", app: str = "", force: bool = False) -> None:
        """Remove many keys in one commit, whether they are there or not.

        Raises
        ------
        BadRequest, LockedVersion
        """
        names = list(keys)
        encoded = [encode_key(key) for key in names]

        def remove(m: Mutation, space: TxSpace) -> None:
            drop_chunks(space, encoded)
            for key, data in zip(names, encoded, strict=True):
                space.delete(data)
                m.log(self, {"Action": "delete", "Key": key, **self._stamp(m)})

        self.mutate(remove, user=user, app=app, force=force)

    def _stamp(self, m: Mutation) -> dict[str, str]:
        return {"Timestamp": go_time(m.time), "UUID": self.version.uuid}

    def __setitem__(self, key: str, value: bytes) -> None:
        self.put(key, value)

    def __delitem__(self, key: str) -> None:
        """Remove a key.

        Raises
        ------
        NotFound
            When it isn't there.
        """
        data = encode_key(key)

        def remove(m: Mutation, space: TxSpace) -> None:
            if space.get(data) is None:
                raise NotFound(f"no key {key!r} in {self.name!r} at version {self.version.uuid}{self._close(key)}")
            drop_chunks(space, (data,))
            space.delete(data)
            m.log(self, {"Action": "delete", "Key": key, **self._stamp(m)})

        self.mutate(remove)

    def update(self, *args: Any, **more: bytes) -> None:
        """Set many keys in one commit, from a mapping or pairs."""
        self.put_many(dict(*args, **more))

    def clear(self) -> None:
        """Remove all keys in one commit."""

        def remove(m: Mutation, space: TxSpace) -> None:
            for prefix in (KEYS, CHUNKS, NOTES):
                space.delete_prefix(prefix)
            m.log(self, {"Action": "clear", **self._stamp(m)})

        self.mutate(remove)

    # ------------------------------------------------------------------ versions against each other

    def describe_change(self, key: bytes) -> Any:
        """The key as text."""
        return decode_key(key) if key[:1] == KEYS else None

    def disagreements(self) -> Iterator[str]:
        """Large values of which chunks are missing."""
        space = self.view(0)
        for key, length, stored in space.lengths(KEYS):
            if size_of(length, stored, partial(space.get, key)) == length:
                continue
            held = stored if stored is not None else space.get(key)
            missing = missing_chunks(space, held) if held is not None else []
            if missing:
                yield f"key {decode_key(key)!r}: chunks {missing[:5]} of its value are missing or of a wrong length"


class ValueWriter:
    """Writes a key's value piece by piece; see `KeyValue.writer`.

    As a context manager it commits at the end, and discards after an error.

    Parameters
    ----------
    kv, key, user, app, force
        As for `KeyValue.put`.
    """

    def __init__(self, kv: KeyValue, key: str, *, user: str = "", app: str = "", force: bool = False) -> None:
        self._key = key
        self._encoded = encode_key(key)
        kv.check_open(force)
        self._kv = kv
        self._stage = kv._stage(user, app, force)
        self._upload: Upload | None = Upload(self._stage)

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append bytes; returns how many."""
        return self._open().write(data)

    def _open(self) -> Upload:
        if self._upload is None:
            raise ValueError(f"the value of {self._key!r} was committed or discarded already")
        return self._upload

    def commit(self) -> None:
        """Have the key hold what was written, in one commit.

        Raises
        ------
        LockedVersion, Conflict
            The version was committed, or the instance cleared, meanwhile.
        """
        upload = self._open()
        stored, kv = upload.end(), self._kv

        def write(m: Mutation, space: TxSpace) -> None:
            drop_chunks(space, (self._encoded,))
            upload.finish(space)
            space.put(self._encoded, stored)
            m.log(kv, {"Action": "postkv", "Bytes": upload.size, "Key": self._key, **kv._stamp(m)})

        self._stage(write)
        self._upload = None

    def discard(self) -> None:
        """Forget what was written; the key stays as it was."""
        if self._upload is not None:
            upload, self._upload = self._upload, None
            upload.abort()

    def __enter__(self) -> ValueWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is not None:
            self.discard()
            return
        try:
            self.commit()
        except BaseException:
            self.discard()
            raise
