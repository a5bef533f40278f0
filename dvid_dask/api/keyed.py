"""What types of named values share: listings, and batches of values as protobuf, JSON or tar."""

from __future__ import annotations

import tarfile
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
from google.protobuf.message import DecodeError

from dvid_dask.errors import BadRequest
from dvid_dask.formats import dvid_pb2 as pb

from .responses import encode_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .face import Call

__all__ = ["check_json", "json_array", "json_list", "json_object", "parse_protobuf", "protobuf", "tar", "wanted_form"]


def wanted_form(call: Call) -> tuple[bool, bool]:
    """Whether a batch is wanted as JSON or as tar (``json=true``, ``tar=true``, ``jsontar=true``); else as protobuf.

    Raises
    ------
    BadRequest
        Both are.
    """
    as_json, as_tar = call.flag("json"), call.flag("tar") or call.flag("jsontar")
    if as_json and as_tar:
        raise BadRequest("json and tar can't be had together: choose one")
    return as_json, as_tar


def check_json(key: str, value: bytes | memoryview) -> None:
    """Refuse a value that is no JSON.

    Raises
    ------
    BadRequest
    """
    try:
        msgspec.json.decode(value, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f'the value of key "{key[:200]}" is no JSON: {error}') from None


def json_list(keys: Iterable[str]) -> Iterator[bytes]:
    """Texts as a JSON array."""
    lead = b"["
    for key in keys:
        yield lead + encode_json(key)
        lead = b","
    yield b"[]" if lead == b"[" else b"]"


def json_array(texts: Iterable[bytes]) -> Iterator[bytes]:
    """Values that are JSON as a JSON array."""
    lead = b"["
    for text in texts:
        yield lead + text
        lead = b","
    yield b"[]" if lead == b"[" else b"]"


def json_object(pairs: Iterable[tuple[str, bytes]], *, check: bool = False) -> Iterator[bytes]:
    """Values that should be JSON, which may be checked, as a JSON object."""
    lead = b"{"
    for key, value in pairs:
        if check:
            check_json(key, value)
        yield b"".join((lead, encode_json(key), b":", value))
        lead = b","
    yield b"{}" if lead == b"{" else b"}"


class InPieces(Protocol):
    """A value that is read piece by piece."""

    def __len__(self) -> int: ...

    def pieces(self) -> Iterator[bytes]:
        """All of it."""
        ...


def tar(pairs: Iterable[tuple[str, bytes | InPieces]]) -> Iterator[bytes]:
    """Values as the members of a tar file."""
    for key, value in pairs:
        member = tarfile.TarInfo(key)
        member.size, member.mode = len(value), 0o755
        yield member.tobuf(tarfile.PAX_FORMAT)
        if isinstance(value, bytes):
            yield value
        else:
            yield from value.pieces()
        yield bytes(-len(value) % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def protobuf(pairs: Iterable[tuple[str, bytes]]) -> Iterator[bytes]:
    """Values as protobuf ``KeyValues``."""
    # a message with repeated messages is the messages with one of them each, one after the other
    for key, value in pairs:
        yield pb.KeyValues(kvs=[pb.KeyValue(key=key, value=value)]).SerializeToString()


def parse_protobuf(message: Any, data: bytes) -> Any:
    """The protobuf message of a class.

    Raises
    ------
    BadRequest
    """
    try:
        return message.FromString(data)
    except DecodeError as error:
        raise BadRequest(f"the body is no protobuf {message.DESCRIPTOR.name}: {error}") from None
