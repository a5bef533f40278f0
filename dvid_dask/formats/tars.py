"""Tar files as streams: one member after the other, none of them believed.

The archives are read by Python's `tarfile`. What it forgives is refused here, since a stream that somebody sends is
either whole or wrong: an archive without its end mark, headers that don't decode behind the first, directories and
links, headers that would fill the memory.

Source: POSIX.1-2001, pax interchange format (https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html).
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator
from typing import IO, TYPE_CHECKING, Any, Protocol, cast

from dvid_dask.formats.errors import FormatError

if TYPE_CHECKING:
    from typing import Self

__all__ = ["END", "Readable", "read_members", "write_member"]

_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE)
_EXTENSIONS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME)

#: Most bytes of an extended header; names and times need a few hundred.
MAX_HEADER = 1 << 16

_BUFFER = 1 << 15  # tarfile copies what is left of it at every read

END = bytes(2 * tarfile.BLOCKSIZE)
"""What ends an archive."""


class Readable(Protocol):
    """Where an archive comes from."""

    def read(self, n: int, /) -> bytes:
        """The next bytes, at most `n`; none at the end."""
        ...


class _Header(tarfile.TarInfo):
    """A header that is a file's, or says more about the file that follows it."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        if not buf:
            raise FormatError("the tar file ends without its end mark: it is empty or cut off")
        if len(buf) == tarfile.BLOCKSIZE and not any(buf):
            return super().frombuf(buf, encoding, errors)  # the end mark, and tarfile's way to say so
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            raise FormatError(f"this is no tar file, or a damaged or compressed one: {error}") from None
        if header.type in _EXTENSIONS:
            if header.size > MAX_HEADER:
                raise FormatError(f"an extended header of the tar file has {header.size} bytes: at most {MAX_HEADER}")
        elif header.type not in _FILES:
            raise FormatError(f"{header.name[:80]!r} in the tar file is no plain file, but a folder, link or device")
        if header.size < 0:
            raise FormatError(f"{header.name[:80]!r} in the tar file has {header.size} bytes")
        return header


class _Source:
    """The stream, and what it raised: a client that left is no fault of the archive."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self.failure: Exception | None = None

    def read(self, n: int) -> bytes:
        try:
            return self._source.read(n)
        except Exception as error:
            self.failure = error
            raise


def read_members(source: Readable, most: int) -> Iterator[tuple[str, bytes]]:
    r"""Names and contents of the files of a tar archive, in bounded memory.

    Parameters
    ----------
    source
        A stream, read forward only. What follows the archive's end mark is read and ignored.
    most
        Largest content, in bytes.

    Raises
    ------
    FormatError
        It is no tar file, is compressed or cut off, holds something else than plain files, or a larger one. What came
        before has been yielded by then.

    Examples
    --------
    >>> import io
    >>> tar = b"".join([*write_member("7.obj", b"mesh"), END])
    >>> list(read_members(io.BytesIO(tar), 100))
    [('7.obj', b'mesh')]
    >>> list(read_members(io.BytesIO(tar[:515]), 100))
    Traceback (most recent call last):
    ...
    dvid_dask.formats.errors.FormatError: the tar file is damaged or cut off: unexpected end of data
    """
    stream = _Source(source)
    try:
        with tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r|", tarinfo=_Header, bufsize=_BUFFER) as archive:
            while (member := archive.next()) is not None:
                cast("Any", archive).members.clear()  # it would keep every header
                if member.issparse():
                    raise FormatError(f"{member.name[:80]!r} in the tar file is sparse: expected plain files")
                if not 0 <= member.size <= most:  # an extended header may have said another size
                    raise FormatError(f"{member.name[:80]!r} in the tar file has {member.size} bytes: at most {most}")
                content = archive.extractfile(member)
                yield member.name, b"" if content is None else content.read()
    except tarfile.TarError as error:
        raise FormatError(f"the tar file is damaged or cut off: {error}") from None
    except (ValueError, OverflowError) as error:
        if isinstance(error, FormatError) or error is stream.failure:
            raise
        raise FormatError(f"a header of the tar file can't be read: {error}") from None
    while source.read(1 << 20):
        pass


def write_member(name: str, content: bytes, time: float = 0) -> Iterable[bytes]:
    """Pieces of an archive that are one file; `END` follows the last.

    Parameters
    ----------
    name
        Any length.
    content
        The file.
    time
        When it was changed, in seconds since 1970.
    """
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = len(content), 0o755, int(time)
    return member.tobuf(tarfile.PAX_FORMAT), content, bytes(-len(content) % tarfile.BLOCKSIZE)
