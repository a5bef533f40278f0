"""A file for each supervoxel, usually a mesh; fetched by body as a tar.

As in DVID the files are not versioned: every version sees the same ones. What is versioned is which supervoxels make
a body, and the labelmap that the instance follows says that. A supervoxel never changes its voxels without getting a
new id, so its file stays right for as long as it exists.

Storage, below the instance's prefix in the repository's tree of unversioned data:

===========================================  ==================================================
``f`` extension NUL supervoxel               where the file lies: number of the write, its size, its time
``d`` write, supervoxel                      the file itself; none where it is empty
``L`` write                                  time of a load that has not ended yet
===========================================  ==================================================

Numbers are big-endian, 8 bytes. A load stores files in commits of bounded size, which nobody sees, and then points at
all of them in one last commit. So it is all or nothing, however large. The files of a load that was killed are removed
by the first large load that begins a day later.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, TypeVar, cast

import msgspec
import numpy as np

from dvid_dask.datatypes.base import Datatype, Mutation, Space, TxSpace, register
from dvid_dask.errors import BadRequest, Conflict, NotFound
from dvid_dask.formats.errors import FormatError
from dvid_dask.formats.tars import END, Readable, read_members, write_member
from dvid_dask.store import StoreError, TreeNotFound
from dvid_dask.versions.mutation import MutationRecord, mutate
from dvid_dask.versions.records import go_time
from dvid_dask.versions.settings import setting_text

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    AnySpace = Space | TxSpace

__all__ = ["MAX_FILE", "MAX_FILES", "TarSupervoxels"]

T = TypeVar("T")

MAX_FILE = 1 << 28
"""Largest file in a tar, in bytes."""

MAX_FILES = 1 << 20
"""Most files of one load."""

_POINTER, _DATA, _LOAD = b"f", b"d", b"L"
_FORMAT = 1
_WHERE = struct.Struct("<BQQq")
_BATCH = 16 << 20  # bytes of a commit of a load, and of files read at a time
_TOGETHER = 4096  # files of the same
_PATIENCE = 86_400  # seconds
_NAME = re.compile(r" *([0-9]{1,40})\.(.+)", re.DOTALL)
_EXTENSION = re.compile(r"[^./\x00-\x1f\x7f][^/\x00-\x1f\x7f]{0,99}")


class _Where(NamedTuple):
    """Where the file of a supervoxel lies."""

    write: int
    size: int
    time: int

    def encode(self) -> bytes:
        return _WHERE.pack(_FORMAT, *self)

    @classmethod
    def decode(cls, value: bytes) -> _Where:
        form, *where = _WHERE.unpack(value)
        if form != _FORMAT:
            raise FormatError(f"a supervoxel's file is noted in form {form}; this program knows {_FORMAT}")
        return cls(*where)


class _Bodies(Protocol):
    """What is asked of a labelmap."""

    def supervoxels_of(self, body: int) -> Any: ...


def _data(write: int, supervoxel: int) -> bytes:
    return _DATA + write.to_bytes(8, "big") + supervoxel.to_bytes(8, "big")


def check_supervoxel(supervoxel: int) -> int:
    """The id of a supervoxel that can have a file.

    Raises
    ------
    BadRequest
        It is 0, or no 64-bit number.
    """
    supervoxel = int(supervoxel)
    if not 0 < supervoxel < 1 << 64:
        raise BadRequest(f"supervoxel {supervoxel}: expected 1 to 2^64 - 1")
    return supervoxel


def parse_name(name: str, extension: str) -> int:
    """The supervoxel whose file has this name.

    Raises
    ------
    BadRequest
        It is not an id, a dot and the extension.

    Examples
    --------
    >>> parse_name("007.drc", "drc")
    7
    >>> parse_name("../7.drc", "drc")
    Traceback (most recent call last):
    ...
    dvid_dask.errors.BadRequest: file '../7.drc' in the tar: expected a name such as 17.drc, without folders
    """
    match = _NAME.fullmatch(name)
    if match is None or match[2] != extension:
        raise BadRequest(f"file {name[:80]!r} in the tar: expected a name such as 17.{extension}, without folders")
    return check_supervoxel(int(match[1]))


@register
class TarSupervoxels(Datatype):
    """Files of supervoxels, all with one extension. Not versioned: what is written is seen at every version.

    Every call that changes something is one atomic commit. Reads of one call see one state. Writes through a committed
    version are refused, as for other types.

    Examples
    --------
    >>> import dvid_dask
    >>> repo = dvid_dask.create("memory://").new_repo()
    >>> meshes = repo.new_instance("tarsupervoxels", "meshes", {"Extension": "obj"})
    >>> meshes.put_many({7: b"v 0 0 0", 9: b"v 1 1 1"})
    >>> meshes[7], meshes.exists([7, 8, 9]).tolist(), list(meshes)
    (b'v 0 0 0', [True, False, True], [7, 9])
    >>> meshes.delete(7)
    >>> meshes.get(7) is None
    True
    """

    typename: ClassVar[str] = "tarsupervoxels"
    typeurl: ClassVar[str] = "github.com/janelia-flyem/dvid/datatype/tarsupervoxels"
    # a labelmap tells which supervoxels make a body; DVID lets it follow anything
    sync_partners: ClassVar[frozenset[str] | None] = frozenset({"*"})

    # ------------------------------------------------------------------ settings

    @classmethod
    def parse_settings(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """``Extension`` of the files; required."""
        text = setting_text(config, "extension")
        if not text:
            raise BadRequest("tarsupervoxels needs the setting 'Extension', the files' extension without its dot")
        if not _EXTENSION.fullmatch(text):
            raise BadRequest(
                f"setting 'extension': {text[:80]!r} must have no slash, no control character, no dot before it, and "
                "at most 100 characters"
            )
        return {"Extension": text}

    def configure(self, config: Mapping[str, Any]) -> None:
        """Change the extension; files stored under another one are invisible until it is changed back."""
        if "extension" in config:
            self.update_settings(**self.parse_settings(config))

    def extended(self) -> dict[str, Any]:
        """The extension."""
        return {"Extension": self.extension}

    @property
    def extension(self) -> str:
        """What the names of the files end with, without its dot."""
        text: str = self.info.settings["Extension"]
        return text

    # ------------------------------------------------------------------ where the files lie

    @property
    def _shelf(self) -> TarSupervoxels:
        """The instance as one without versions, which is how its files are stored."""
        return type(self)(self.version, msgspec.structs.replace(self.info, versioned=False))

    def view(self, max_age: float = 0.1) -> Space:
        """The instance's keys, the same at every version; see `Datatype.view`."""
        return self._on_shelf(lambda: Datatype.view(self._shelf, max_age))

    def mutate(self, fn: Callable[[Mutation, TxSpace], T], *, user: str = "", app: str = "", force: bool = False) -> T:
        """Change the instance in one atomic commit; see `Datatype.mutate`.

        Raises
        ------
        LockedVersion
            When the version is committed and `force` isn't set.
        """
        self.check_open(force)
        return self._on_shelf(lambda: mutate(self._shelf, fn, user=user, app=app, force=force))

    def history(self) -> Iterator[MutationRecord]:
        """All that is kept of the mutations of the instance, in the order of their commits."""
        return self._on_shelf(lambda: Datatype.history(self._shelf))

    def _on_shelf(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except TreeNotFound:  # it is made by the first that needs it
            self.repo.ensure_unversioned_tree()
            return action()

    def _pointer(self, supervoxel: int) -> bytes:
        return _POINTER + self.extension.encode() + b"\0" + supervoxel.to_bytes(8, "big")

    def _where(self, space: AnySpace, supervoxels: Iterable[int]) -> list[_Where | None]:
        found = space.get_many([self._pointer(sv) for sv in supervoxels])
        return [None if value is None else _Where.decode(value) for value in found]

    # ------------------------------------------------------------------ single files

    def get(self, supervoxel: int) -> bytes | None:
        """The file of a supervoxel; None when there is none or it is empty.

        Raises
        ------
        BadRequest
            The supervoxel is 0.
        """
        sv = check_supervoxel(supervoxel)
        space = self.view()
        (where,) = self._where(space, [sv])
        return None if where is None or not where.size else space.get(_data(where.write, sv))

    def __getitem__(self, supervoxel: int) -> bytes:
        """The file of a supervoxel.

        Raises
        ------
        NotFound
            When there is none or it is empty.
        """
        found = self.get(supervoxel)
        if found is None:
            raise NotFound(f"Supervoxel {supervoxel} not found")
        return found

    def exists(self, supervoxels: ArrayLike) -> NDArray[np.bool_]:
        """Of each supervoxel whether it has a file, also an empty one. The files themselves are not read."""
        wanted = [int(sv) for sv in np.asarray(supervoxels, np.uint64).reshape(-1)]
        return np.array([where is not None for where in self._where(self.view(), wanted)], np.bool_)

    def __contains__(self, supervoxel: object) -> bool:
        return isinstance(supervoxel, int) and 0 < supervoxel < 1 << 64 and bool(self.exists([supervoxel])[0])

    def __iter__(self) -> Iterator[int]:
        """All supervoxels that have a file, ascending."""
        prefix = _POINTER + self.extension.encode() + b"\0"
        return (int.from_bytes(key[len(prefix) :], "big") for key in self.view().keys(prefix))

    def put(self, supervoxel: int, content: bytes, *, user: str = "", app: str = "", force: bool = False) -> None:
        """Set the file of a supervoxel.

        Raises
        ------
        BadRequest
            The supervoxel is 0.
        LockedVersion
            The version is committed.
        """
        self.put_many({supervoxel: content}, user=user, app=app, force=force)

    def put_many(
        self,
        files: Mapping[int, bytes] | Iterable[tuple[int, bytes]],
        *,
        user: str = "",
        app: str = "",
        force: bool = False,
    ) -> None:
        """Set the files of many supervoxels in one commit: all or nothing. They are in memory meanwhile; see `load`.

        Raises
        ------
        BadRequest, LockedVersion
        """
        wanted = {check_supervoxel(sv): bytes(content) for sv, content in dict(files).items()}
        if not wanted:
            self.check_open(force)
            return

        def write(m: Mutation, space: TxSpace) -> None:
            self.put_within(m, space, wanted)
            size = sum(map(len, wanted.values()))
            one = {"Supervoxel": next(iter(wanted))} if len(wanted) == 1 else {"Count": len(wanted)}
            m.log(self, {"Action": "post-supervoxel", "Bytes": size, **one, **self._stamp(m)})

        self.mutate(write, user=user, app=app, force=force)

    def put_within(self, m: Mutation, space: TxSpace, files: Mapping[int, bytes]) -> None:
        """Set files inside a commit that somebody else makes, on the keys that `mutate` gives."""
        space.put_many((_data(m.id, sv), content) for sv, content in files.items() if content)
        self._point(space, m.id, {sv: len(content) for sv, content in files.items()}, int(m.time.timestamp()))

    def _point(self, space: TxSpace, write: int, sizes: Mapping[int, int], when: int) -> None:
        """Let these supervoxels have the files of one write; those they had are removed."""
        for sv, old in zip(sizes, self._where(space, sizes), strict=True):
            if old is not None and old.size and old.write != write:
                space.delete(_data(old.write, sv))
        space.put_many((self._pointer(sv), _Where(write, size, when).encode()) for sv, size in sizes.items())

    def delete(self, supervoxel: int, *, user: str = "", app: str = "", force: bool = False) -> None:
        """Remove the file of a supervoxel, whether it has one or not.

        Raises
        ------
        BadRequest, LockedVersion
        """
        sv = check_supervoxel(supervoxel)

        def remove(m: Mutation, space: TxSpace) -> None:
            (where,) = self._where(space, [sv])
            if where is None:
                return
            space.delete(self._pointer(sv))
            if where.size:
                space.delete(_data(where.write, sv))
            m.log(self, {"Action": "delete-supervoxel", "Supervoxel": sv, **self._stamp(m)})

        self.mutate(remove, user=user, app=app, force=force)

    def _stamp(self, m: Mutation) -> dict[str, str]:
        return {"Timestamp": go_time(m.time), "UUID": self.version.uuid}

    # ------------------------------------------------------------------ by body

    def supervoxels_of(self, body: int) -> NDArray[np.uint64]:
        """Supervoxels of a body at this version, ascending, as the labelmap has them that this instance follows.

        Raises
        ------
        BadRequest
            There is no such body, or the instance follows no labelmap.
        """
        known = self.repo.state().by_data_uuid
        for partner in self.info.syncs:
            info = known.get(partner)
            if info is not None and info.typename == "labelmap":
                try:
                    held = cast(_Bodies, self.version.instance(info)).supervoxels_of(check_supervoxel(body))
                except NotFound as error:
                    # clients tell a body that is gone by the words "has no supervoxels"
                    raise BadRequest(
                        f"body {body} has no supervoxels: {error} in {info.name!r} at version {self.version.uuid}"
                    ) from None
                ids: NDArray[np.uint64] = held.id
                return ids
        raise BadRequest(
            f"{self.name!r} is synced with no labelmap, which would say what body {body} is made of: POST sync first"
        )

    def missing(self, body: int) -> NDArray[np.uint64]:
        """Supervoxels of a body that have no file; of empty files none is missing. Errors as `supervoxels_of`."""
        ids = self.supervoxels_of(body)
        return ids[~self.exists(ids)]

    def files_of(self, body: int) -> Iterator[tuple[int, bytes | None]]:
        """Supervoxels of a body, ascending, each with its file, from one state and in bounded memory.

        None stands for a file that is missing or empty. Errors as `supervoxels_of`, at once.
        """
        return ((sv, content) for sv, _, content in self._files(self.supervoxels_of(body).tolist()))

    def tar_of(self, body: int) -> Iterator[bytes]:
        """Pieces of a tar file with the files of a body: ``<supervoxel>.<extension>``, or an empty ``.missing``.

        Errors as `supervoxels_of`, at once.
        """
        ids = self.supervoxels_of(body).tolist()

        def pieces() -> Iterator[bytes]:
            for sv, when, content in self._files(ids):
                name = f"{sv}.missing" if content is None else f"{sv}.{self.extension}"
                yield from write_member(name, content or b"", when)
            yield END

        return pieces()

    def _files(self, ids: list[int]) -> Iterator[tuple[int, int, bytes | None]]:
        """Supervoxels with time and content of their files."""
        space = self.view()
        for first in range(0, len(ids), _TOGETHER):
            some = ids[first : first + _TOGETHER]
            waiting: list[tuple[int, _Where | None]] = []
            size = 0
            for sv, where in zip(some, self._where(space, some), strict=True):
                if waiting and size + (where.size if where else 0) > _BATCH:
                    yield from self._read(space, waiting)
                    waiting, size = [], 0
                waiting.append((sv, where))
                size += where.size if where else 0
            yield from self._read(space, waiting)

    def _read(self, space: Space, some: list[tuple[int, _Where | None]]) -> Iterator[tuple[int, int, bytes | None]]:
        keys = [_data(where.write, sv) for sv, where in some if where is not None and where.size]
        contents = iter(space.get_many(keys))
        for sv, where in some:
            yield sv, where.time if where else 0, next(contents) if where and where.size else None

    # ------------------------------------------------------------------ many files

    def load(self, source: Readable, *, user: str = "", app: str = "", force: bool = False) -> int:
        """Set the files of many supervoxels from a tar file: all or nothing, in bounded memory, however many.

        Parameters
        ----------
        source
            A stream of an uncompressed tar with files ``<supervoxel>.<extension>``; of a name given twice, the last
            counts.
        user, app, force
            As `Datatype.mutate`.

        Returns
        -------
        int
            How many supervoxels got a file.

        Raises
        ------
        BadRequest
            A name that isn't such; more than 2^20 files.
        FormatError
            It is no tar file, or compressed, cut off, with folders or links, or a file of more than 256 MiB.
        LockedVersion
        """
        return self.load_files(self._named(source), user=user, app=app, force=force)

    def _named(self, source: Readable) -> Iterator[tuple[int, bytes]]:
        extension = self.extension
        return ((parse_name(name, extension), content) for name, content in read_members(source, MAX_FILE))

    def load_files(
        self, files: Iterable[tuple[int, bytes]], *, user: str = "", app: str = "", force: bool = False
    ) -> int:
        """As `load`, from pairs of a supervoxel and its file, one in memory at a time."""
        self.check_open(force)
        who: dict[str, Any] = {"user": user, "app": app, "force": force}
        batches = _batches(files)
        first, second = next(batches, {}), next(batches, None)
        if second is None:  # one commit will do
            self.mutate(partial(self._load_at_once, batch=first), **who)
            return len(first)
        write = self.mutate(self._begin, **who)
        sizes: dict[int, int] = {}
        try:
            for batch in itertools.chain((first, second), batches):
                sizes.update((sv, len(content)) for sv, content in batch.items())
                if len(sizes) > MAX_FILES:
                    raise BadRequest(f"the tar holds more than {MAX_FILES} files: load it in parts")
                self.mutate(partial(self._stage, write=write, batch=batch), **who)
            self.mutate(partial(self._end, write=write, sizes=sizes), **who)
        except BaseException:
            with contextlib.suppress(StoreError):  # else a later load does it
                self.mutate(partial(_forget, write=write), user=user, app=app, force=True)
            raise
        return len(sizes)

    def _load_at_once(self, m: Mutation, space: TxSpace, batch: Mapping[int, bytes]) -> None:
        if batch:
            self.put_within(m, space, batch)
            self._log_load(m, {sv: len(content) for sv, content in batch.items()})

    def _begin(self, m: Mutation, space: TxSpace) -> int:
        for key, value in space.scan(_LOAD):
            if time.time() - float(value) > _PATIENCE:
                _forget(m, space, int.from_bytes(key[1:], "big"))
        space.put(_LOAD + m.id.to_bytes(8, "big"), b"%d" % int(time.time()))
        return m.id

    def _stage(self, m: Mutation, space: TxSpace, write: int, batch: Mapping[int, bytes]) -> None:
        for sv, content in batch.items():
            if content:
                space.put(_data(write, sv), content)
            else:
                space.delete(_data(write, sv))

    def _end(self, m: Mutation, space: TxSpace, write: int, sizes: Mapping[int, int]) -> None:
        key = _LOAD + write.to_bytes(8, "big")
        if space.get(key) is None:
            raise Conflict(f"a load into {self.name!r} took more than a day and was given up: begin it again")
        space.delete(key)
        self._point(space, write, sizes, int(m.time.timestamp()))
        self._log_load(m, sizes)

    def _log_load(self, m: Mutation, sizes: Mapping[int, int]) -> None:
        m.log(self, {"Action": "load", "Bytes": sum(sizes.values()), "Count": len(sizes), **self._stamp(m)})

    # ------------------------------------------------------------------ versions against each other

    def describe_change(self, key: bytes) -> Any:
        """Nothing: versions don't differ."""
        return None


def _forget(m: Mutation, space: TxSpace, write: int) -> None:
    """Remove a load that didn't end, with what it stored."""
    number = write.to_bytes(8, "big")
    space.delete(_LOAD + number)
    space.delete_prefix(_DATA + number)


def _batches(files: Iterable[tuple[int, bytes]]) -> Iterator[dict[int, bytes]]:
    """Files in groups that a commit can hold."""
    batch: dict[int, bytes] = {}
    size = 0
    for sv, content in files:
        if batch and (size + len(content) > _BATCH or len(batch) >= _TOGETHER):
            yield batch
            batch, size = {}, 0
        batch[check_supervoxel(sv)] = content
        size += len(content)
    if batch:
        yield batch
