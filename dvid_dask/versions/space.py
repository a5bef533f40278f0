"""The key space of one data instance: a view or a transaction of its tree, behind the instance's prefix."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from dvid_dask.store import Amount, Transaction, View
    from dvid_dask.versions.mutation import HasKeys

__all__ = ["Space", "TxSpace"]

T = TypeVar("T")


def prefix_stop(prefix: bytes) -> bytes | None:
    r"""The first key after all keys that begin with `prefix`; None when there is none.

    Examples
    --------
    >>> prefix_stop(b"ab"), prefix_stop(b"a\xff"), prefix_stop(b"\xff")
    (b'ac', b'b', None)
    """
    head = prefix.rstrip(b"\xff")
    return head[:-1] + bytes([head[-1] + 1]) if head else None


class _Reads:
    """Reads that a view and a transaction share. Keys are relative to the instance."""

    __slots__ = ("_reader", "prefix")

    def __init__(self, reader: View | Transaction, prefix: bytes) -> None:
        self._reader = reader
        self.prefix = prefix

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, or None."""
        return self._reader.get(self.prefix + key)

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of keys, in their order; None for each that is missing."""
        prefix = self.prefix
        return self._reader.get_many([prefix + k for k in keys])

    def decoded(
        self, kind: str, keys: Sequence[bytes], decode: Callable[[bytes, bytes | None], tuple[T, int]]
    ) -> list[T]:
        """What `decode` makes of the values of keys, kept while they stay the same; see `View.decoded`.

        `decode` gets keys as given here, and values, None for each that is missing.
        """
        prefix, cut = self.prefix, len(self.prefix)
        return self._reader.decoded(kind, [prefix + k for k in keys], lambda key, value: decode(key[cut:], value))

    def _range(self, prefix: bytes, start: bytes | None, stop: bytes | None) -> tuple[bytes, bytes | None]:
        low = self.prefix + prefix
        high = prefix_stop(low)
        if start is not None:
            low = max(low, self.prefix + start)
        if stop is not None:
            end = self.prefix + stop
            high = end if high is None else min(high, end)
        return low, high

    def keys(self, prefix: bytes = b"", start: bytes | None = None, stop: bytes | None = None) -> Iterator[bytes]:
        """Keys that begin with `prefix` and lie in [start, stop), in byte order."""
        low, high = self._range(prefix, start, stop)
        if high is not None and low >= high:
            return
        cut = len(self.prefix)
        for key in self._reader.keys(low, high):
            yield key[cut:]

    def scan(
        self, prefix: bytes = b"", start: bytes | None = None, stop: bytes | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """Keys with values, as `keys`; in bounded memory."""
        low, high = self._range(prefix, start, stop)
        if high is not None and low >= high:
            return
        cut = len(self.prefix)
        for key, value in self._reader.scan(low, high):
            yield key[cut:], value

    @property
    def kvstore(self) -> Any:
        """`tensorstore.KvStore` at the instance's prefix, for arrays that lie in this space."""
        return self._reader.kvstore / self.prefix.decode("ascii")

    def kvstore_of(self, folder: bytes) -> Any:
        """As `kvstore`, for reads of keys that begin with `folder`: faster where no small commit has touched those."""
        return self._reader.kvstore_of(self.prefix + folder) / self.prefix.decode("ascii")


class Space(_Reads):
    """One pinned state of an instance at a version.

    All reads of one operation go through one space, so they see one state, whatever is written meanwhile.
    """

    __slots__ = ()
    _reader: View

    def beside(self, instance: HasKeys) -> Space:
        """The keys of another instance in the same state of the same tree."""
        return instance.space_in(self._reader)

    @property
    def view(self) -> View:
        """The pinned state of the whole tree below."""
        return self._reader

    @property
    def token(self) -> str:
        """Equal tokens mean the same state of the tree."""
        return self._reader.token

    def measure(self, prefix: bytes = b"") -> Amount:
        """Number of keys that begin with `prefix`, and of their bytes as stored; see `View.measure`."""
        return self._reader.measure(*self._range(prefix, None, None))

    def lengths(
        self, prefix: bytes = b"", start: bytes | None = None, stop: bytes | None = None
    ) -> Iterator[tuple[bytes, int, bytes | None]]:
        """Keys, as `keys`, with the length of each value, which isn't read; a small one comes along, else None."""
        from dvid_dask.store import lengths

        low, high = self._range(prefix, start, stop)
        if high is not None and low >= high:
            return
        cut = len(self.prefix)
        for key, length, value in lengths(self._reader, low, high):
            yield key[cut:], length, value

    def __reduce__(self) -> tuple[type[Space], tuple[View, bytes]]:
        return Space, (self._reader, self.prefix)


class TxSpace(_Reads):
    """An instance inside a transaction: reads see the transaction's own writes."""

    __slots__ = ()
    _reader: Transaction

    def beside(self, instance: HasKeys) -> TxSpace:
        """The keys of another instance in the same transaction."""
        return instance.tx_space_in(self._reader)

    def put(self, key: bytes, value: bytes) -> None:
        """Set a key."""
        self._reader.put(self.prefix + key, value)

    def put_many(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Set many keys."""
        prefix = self.prefix
        self._reader.put_many((prefix + k, v) for k, v in items)

    def delete(self, key: bytes) -> None:
        """Remove a key, whether it is there or not."""
        self._reader.delete(self.prefix + key)

    def delete_range(self, start: bytes, stop: bytes) -> None:
        """Remove all keys in [start, stop)."""
        self._reader.delete_range(self.prefix + start, self.prefix + stop)

    def delete_prefix(self, prefix: bytes) -> None:
        """Remove all keys that begin with `prefix`."""
        low, high = self._range(prefix, None, None)
        if high is None:
            raise ValueError(f"no key follows the prefix {prefix!r}: an instance's keys begin with a class letter")
        self._reader.delete_range(low, high)

    def to_nodes(self) -> None:
        """Say that what is written is read through `kvstore`; see `Transaction.to_nodes`."""
        self._reader.to_nodes()

    @property
    def ts(self) -> Any:
        """The `tensorstore.Transaction`, to write arrays inside this same commit."""
        return self._reader.ts
