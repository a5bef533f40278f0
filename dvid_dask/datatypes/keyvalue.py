"""The keyvalue datatype: texts to bytes, per version.

Stored as ``k`` + the key in UTF-8, so that byte order is DVID's order of keys. Values are kept as they come.

As in DVID, a value of length zero reads as absent, though its key is listed and exists; it hides what an older version
had under the key.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, Mapping, MutableMapping, Sequence, ValuesView
from typing import Any, ClassVar, overload

from dvid_dask.datatypes.base import Datatype, Mutation, Space, TxSpace, register
from dvid_dask.errors import BadRequest, NotFound, did_you_mean
from dvid_dask.versions.records import go_time

__all__ = ["KeyValue"]

_CLASS = b"k"

#: Longest key, in bytes of UTF-8. Keys share the nodes of the tree, so a longer one would slow down its neighbours.
MAX_KEY = 4096


def _encode_key(key: str) -> bytes:
    if not isinstance(key, str):
        raise BadRequest(f"a key is a string, not {type(key).__name__}")
    if not key or "\0" in key:
        raise BadRequest(f"key {key!r} can't be used: expected at least one character and no NUL")
    try:
        data = key.encode()
    except UnicodeEncodeError as error:
        raise BadRequest(f"key {key!r} is no valid Unicode text: {error}") from None
    if len(data) > MAX_KEY:
        raise BadRequest(f"key {key[:40]!r}... has {len(data)} bytes: {MAX_KEY} are possible")
    return _CLASS + data


def _decode_key(key: bytes) -> str:
    return key[1:].decode()


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
        return self.view().get(_encode_key(key)) or default

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
        return [v or None for v in self.view().get_many([_encode_key(k) for k in keys])]

    def iter_many(self, keys: Sequence[str], *, batch: int = 256) -> Iterator[bytes | None]:
        """As `get_many`, one after the other: at most `batch` values are in memory at once."""
        space, encoded = self.view(), [_encode_key(k) for k in keys]
        batches = (encoded[at : at + batch] for at in range(0, len(encoded), batch))
        return (v or None for part in batches for v in space.get_many(part))

    def exists(self, key: str) -> bool:
        """True when the key is there, also with a value of length zero."""
        return self.view().get(_encode_key(key)) is not None

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and bool(key) and "\0" not in key and self.exists(key)

    @staticmethod
    def _bounds(first: str | None, last: str | None) -> tuple[bytes | None, bytes | None]:
        # ranges are inclusive: the first key after `last` is `last` + NUL, which no key holds
        start = None if first is None else _CLASS + first.encode(errors="surrogatepass")
        stop = None if last is None else _CLASS + last.encode(errors="surrogatepass") + b"\0"
        return start, stop

    def _keys(self, space: Space, first: str | None, last: str | None) -> Iterator[str]:
        start, stop = self._bounds(first, last)
        return (_decode_key(k) for k in space.keys(_CLASS, start, stop))

    def keyrange(self, first: str, last: str) -> list[str]:
        """Keys from `first` to `last`, both included, in byte order of UTF-8; empty when `first` comes after `last`."""
        return list(self._keys(self.view(), first, last))

    def get_range(self, first: str | None = None, last: str | None = None) -> Iterator[tuple[str, bytes]]:
        """Keys with values from `first` to `last`, both included, in order, from one state and in bounded memory.

        Values of length zero are left out.
        """
        start, stop = self._bounds(first, last)
        return ((_decode_key(k), v) for k, v in self.view().scan(_CLASS, start, stop) if v)

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
        pairs = list(items.items() if isinstance(items, Mapping) else items)
        encoded: list[tuple[bytes, bytes]] = []
        for key, value in pairs:
            data = _encode_key(key)
            if not isinstance(value, (bytes, bytearray, memoryview)):
                raise BadRequest(f"the value of {key!r} must be bytes, not {type(value).__name__}")
            encoded.append((data, bytes(value)))
        if not encoded:
            self.check_open(force)
            return

        def write(m: Mutation, space: TxSpace) -> None:
            space.put_many(dict(encoded).items())
            for (key, _), (_, value) in zip(pairs, encoded, strict=True):
                m.log(self, {"Action": "postkv", "Bytes": len(value), "Key": key, **self._stamp(m)})

        self.mutate(write, user=user, app=app, force=force)

    def delete(self, key: str, *, user: str = "", app: str = "", force: bool = False) -> None:
        """Remove a key, whether it is there or not.

        Raises
        ------
        BadRequest, LockedVersion
        """
        data = _encode_key(key)

        def remove(m: Mutation, space: TxSpace) -> None:
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
        data = _encode_key(key)

        def remove(m: Mutation, space: TxSpace) -> None:
            if space.get(data) is None:
                raise NotFound(f"no key {key!r} in {self.name!r} at version {self.version.uuid}{self._close(key)}")
            space.delete(data)
            m.log(self, {"Action": "delete", "Key": key, **self._stamp(m)})

        self.mutate(remove)

    def update(self, *args: Any, **more: bytes) -> None:
        """Set many keys in one commit, from a mapping or pairs."""
        self.put_many(dict(*args, **more))

    def clear(self) -> None:
        """Remove all keys in one commit."""

        def remove(m: Mutation, space: TxSpace) -> None:
            space.delete_prefix(_CLASS)
            m.log(self, {"Action": "clear", **self._stamp(m)})

        self.mutate(remove)

    # ------------------------------------------------------------------ versions against each other

    def describe_change(self, key: bytes) -> Any:
        """The key as text."""
        return _decode_key(key) if key[:1] == _CLASS else None
