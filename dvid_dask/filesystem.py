"""A keyvalue instance at a version as a filesystem, for all that reads and writes through fsspec.

::

    dviddask:///data/fly-store@fly:master/meshes/body/1.drc
    dviddask://s3://bucket/fly-store@8f03a1/meshes/body/1.drc
               store                @version/instance/key

The version is a selector: a UUID or its beginning, ``UUID:branch``, ``alias:branch``, or a branch where there is one
repository. An ``@`` in the store's place is written ``%40``. Keys are paths: what comes before a ``/`` is a directory,
which is there as long as a key lies in it. Keys that no path names (with empty parts: ``/a``, ``a//b``, ``a/``) are not
shown.

A file is written in bounded memory, and there when it is closed. Writes go to open versions. `pipe` of many files and
`rm` of many are one commit.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote, unquote

import fsspec
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from dvid_dask.errors import BadRequest, NotSupported

if TYPE_CHECKING:
    from types import TracebackType

    from dvid_dask.datatypes.keyvalue import KeyValue, Value, ValueWriter

__all__ = ["PROTOCOLS", "KeyValueFileSystem", "register"]

PROTOCOLS = ("dviddask", "dvid-dask")
"""What URLs begin with. xarray takes a name with a hyphen for that of a folder: use the first one."""

_URL = re.compile(r"(?:dviddask|dvid-dask)://([^@]*)@([^/]+)/([^/]+)(?:/(.*))?", re.DOTALL)
_FEW = 64  # keys of a directory that are gone through before the listing jumps to its end


def _parse(url: str) -> tuple[str, str, str, str]:
    """Store, version, instance and path of a URL."""
    match = _URL.fullmatch(url)
    if match is None:
        raise BadRequest(f"{url!r} is not of the form dviddask://STORE@VERSION/INSTANCE/KEY (see dvid_dask.filesystem)")
    store, version, instance, path = match.groups()
    return unquote(store), unquote(version), unquote(instance), path or ""


class KeyValueFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """Files that are the values of a keyvalue instance at a version.

    Parameters
    ----------
    store : str
        Path or URL of the store.
    version : str
        A selector; it is looked up once, now.
    instance : str
        Name of the keyvalue instance.
    user, app : str
        Who writes, with which program; for the mutation log.

    Raises
    ------
    NotSupported
        The instance is no keyvalue.

    Examples
    --------
    >>> import dvid_dask
    >>> repo = dvid_dask.create("memory://files").new_repo("fly")
    >>> notes = repo.new_instance("keyvalue", "notes")
    >>> fs = KeyValueFileSystem.of(notes)
    >>> fs.pipe({"soma/1.txt": b"left", "soma/2.txt": b"right", "readme": b"..."})
    >>> fs.ls("", detail=False), fs.glob("**/*.txt"), notes["soma/1.txt"]
    (['readme', 'soma'], ['soma/1.txt', 'soma/2.txt'], b'left')
    >>> import fsspec
    >>> with fsspec.open("dviddask://memory://files@fly:master/notes/soma/2.txt") as file:
    ...     file.read()
    b'right'
    """

    protocol: ClassVar[tuple[str, ...]] = PROTOCOLS
    root_marker: ClassVar[str] = ""
    # the same selector may name another version later
    cachable: ClassVar[bool] = False

    def __init__(
        self, store: str, version: str, instance: str, *, user: str = "", app: str = "", **options: Any
    ) -> None:
        import dvid_dask
        from dvid_dask.versions.finding import find_version

        super().__init__(**options)
        self._bind(find_version(dvid_dask.open(store, compact="never"), version)[instance], user, app)

    def _bind(self, instance: Any, user: str, app: str) -> None:
        from dvid_dask.datatypes.keyvalue import KeyValue

        if not isinstance(instance, KeyValue):
            raise NotSupported(f"{instance.name!r} is a {instance.typename}: files are those of a keyvalue instance")
        self.kv: KeyValue = instance
        self._who: dict[str, Any] = {"user": user, "app": app}

    @classmethod
    def of(cls, kv: KeyValue, *, user: str = "", app: str = "") -> KeyValueFileSystem:
        """The filesystem of an instance that is at hand."""
        version = kv.version
        return cls(version.datastore.url, version.uuid, kv.name, user=user, app=app)

    def __reduce__(self) -> tuple[Any, ...]:
        where = self.kv.version.datastore.url, self.kv.version.uuid, self.kv.name
        return _reopen, (*where, *self._who.values())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KeyValueFileSystem) and other.kv == self.kv

    def __hash__(self) -> int:
        return hash(self.kv)

    @property
    def fsid(self) -> str:
        """Names the instance and the version."""
        return f"dviddask_{self.kv.info.data_uuid}_{self.kv.version.uuid}"

    # ------------------------------------------------------------------ URLs

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(p) for p in path]
        text = fsspec.utils.stringify_path(path)
        if text.startswith(tuple(f"{name}://" for name in PROTOCOLS)):
            text = _parse(text)[3]
        return text.strip("/")

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, str]:
        if "://" not in path:
            return {}
        store, version, instance, _ = _parse(path)
        return {"store": store, "version": version, "instance": instance}

    def unstrip_protocol(self, name: str) -> str:
        """The URL of a path, with the version's UUID."""
        path, version = self._strip_protocol(name), self.kv.version
        store = quote(version.datastore.url.removeprefix("file://"), safe="/:?&=~+,;")
        return f"{PROTOCOLS[0]}://{store}@{version.uuid}/{quote(self.kv.name, safe='')}/{path}"

    # ------------------------------------------------------------------ looking

    def _value(self, path: str) -> Value:
        key = self._strip_protocol(path)
        value = self.kv.value(key) if key else None
        if value is None:
            if self.isdir(key):
                raise IsADirectoryError(path)
            raise FileNotFoundError(path)
        return value

    def _under(self, directory: str, start: str = "") -> Iterator[tuple[str, int]]:
        """Keys in a directory at any depth that a path can name, with their sizes, from `start` on."""
        prefix = f"{directory}/" if directory else ""
        for key, size in self.kv.sizes(max(start, prefix) or None):
            if not key.startswith(prefix):
                return
            if all(key.split("/")):
                yield key, size

    def _entries(self, directory: str) -> Iterator[dict[str, Any]]:
        """Files and directories right in a directory, in order of their keys."""
        begin = len(directory) + 1 if directory else 0
        start, last = "", None
        while True:
            passed = 0
            for key, size in self._under(directory, start):
                name, slash, _ = key[begin:].partition("/")
                entry = key[:begin] + name
                if not slash:
                    yield _file(key, size)
                elif entry != last:
                    last, passed = entry, 0
                    yield _directory(entry)
                else:
                    passed += 1
                    if passed > _FEW:
                        start = f"{entry}0"  # the character after the slash: where the directory ends
                        break
            else:
                return

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """Files and directories in a directory, or the file itself; as dicts with name, size and type, or names.

        Raises
        ------
        FileNotFoundError
        """
        name = self._strip_protocol(path)
        found = list(self._entries(name))
        if not found and name:
            found = [_file(name, self._value(name).size)]
        # a name can be that of a file and of a directory
        found.sort(key=lambda entry: (entry["name"], entry["type"]))
        return found if detail else list(dict.fromkeys(entry["name"] for entry in found))

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Name, size and type of a file or directory; where both have the name, of the file.

        Raises
        ------
        FileNotFoundError
        """
        name = self._strip_protocol(path)
        value = self.kv.value(name) if name else None
        if value is not None:
            return _file(name, value.size)
        if self.isdir(name):
            return _directory(name)
        raise FileNotFoundError(path)

    def isdir(self, path: str) -> bool:
        """Whether there is a key below the path; the root is always there."""
        name = self._strip_protocol(path)
        return not name or next(self._under(name), None) is not None

    def isfile(self, path: str) -> bool:
        """Whether the path is a key."""
        name = self._strip_protocol(path)
        return bool(name) and self.kv.exists(name)

    def exists(self, path: str, **_: Any) -> bool:
        """Whether the path is a file or directory."""
        return self.isfile(path) or self.isdir(path)

    def find(
        self, path: str, maxdepth: int | None = None, withdirs: bool = False, detail: bool = False, **_: Any
    ) -> Any:
        """All files below a path, or the file itself; names, or a dict of what `info` tells."""
        if maxdepth is not None or withdirs:
            return super().find(path, maxdepth=maxdepth, withdirs=withdirs, detail=detail)
        name = self._strip_protocol(path)
        found = {key: _file(key, size) for key, size in self._under(name)}
        if not found and self.isfile(name):
            found = {name: self.info(name)}
        return found if detail else list(found)

    def ukey(self, path: str) -> str:
        """Names the content of a file."""
        return self._value(path).digest

    # ------------------------------------------------------------------ reading and writing

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> KeyValueFile:
        if mode == "rb":
            value = self._value(path)
            if value.whole:
                options["cache_type"] = "none"
            return KeyValueFile(
                self, path, mode, block_size or "default", value=value, cache_options=cache_options, **options
            )
        if mode not in ("wb", "ab", "xb"):
            raise BadRequest(f"mode {mode!r}: files are opened with rb, wb, ab or xb")
        if mode == "xb" and self.isfile(path):
            raise FileExistsError(path)
        key = self._strip_protocol(path)
        before = self.kv.value(key) if mode == "ab" and key else None
        writer = self.kv.writer(key, **self._who)
        return KeyValueFile(
            self, path, mode, block_size or "default", autocommit=autocommit, writer=writer, value=before, **options
        )

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """The bytes of a file, or a slice of them; only that is read.

        Raises
        ------
        FileNotFoundError, IsADirectoryError
        """
        return self._value(path).read(start or 0, end)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        """Write a file in one commit.

        Raises
        ------
        LockedVersion, BadRequest
        FileExistsError
            It is there, and the mode is ``"create"``.
        """
        if mode == "create" and self.isfile(path):
            raise FileExistsError(path)
        self.kv.put(self._strip_protocol(path), value, **self._who)

    def pipe(self, path: str | Mapping[str, bytes], value: bytes | None = None, **options: Any) -> None:
        """Write a file, or those of a mapping, in one commit.

        Raises
        ------
        LockedVersion, BadRequest
        """
        if isinstance(path, str):
            self.pipe_file(path, b"" if value is None else value, **options)
            return
        self.kv.put_many({self._strip_protocol(name): data for name, data in path.items()}, **self._who)

    def cp_file(self, path1: str, path2: str, **_: Any) -> None:
        """Copy a file, in bounded memory.

        Raises
        ------
        FileNotFoundError, LockedVersion, BadRequest
        """
        if not self.isfile(path1) and self.isdir(path1):
            return  # directories are where their files are
        value = self._value(path1)
        with self.kv.writer(self._strip_protocol(path2), **self._who) as out:
            for piece in value.pieces():
                out.write(piece)

    def rm_file(self, path: str) -> None:
        """Remove a file.

        Raises
        ------
        FileNotFoundError, LockedVersion
        """
        self._value(path)
        self.kv.delete(self._strip_protocol(path), **self._who)

    _rm = rm_file

    def rm(self, path: str | list[str], recursive: bool = False, maxdepth: int | None = None) -> None:
        """Remove files, or all below directories, in one commit.

        Raises
        ------
        FileNotFoundError, LockedVersion
        IsADirectoryError
            A directory, and not `recursive`.
        """
        names = self.expand_path(path, recursive=recursive, maxdepth=maxdepth)
        files = [name for name in names if self.isfile(name)]
        if not files:
            raise IsADirectoryError(f"{path}: remove what is in it with recursive=True")
        self.kv.delete_many(files, **self._who)

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:
        """Nothing has to be done: a directory is there when a file is in it."""

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """As `mkdir`."""

    def rmdir(self, path: str) -> None:
        """Nothing has to be done for an empty directory.

        Raises
        ------
        OSError
            There are files in it.
        """
        if next(self._under(self._strip_protocol(path)), None) is not None:
            raise OSError(f"{path} is not empty")


def _file(name: str, size: int) -> dict[str, Any]:
    return {"name": name, "size": size, "type": "file"}


def _directory(name: str) -> dict[str, Any]:
    return {"name": name, "size": 0, "type": "directory"}


@functools.lru_cache(maxsize=32)
def _reopen(store: str, version: str, instance: str, user: str, app: str) -> KeyValueFileSystem:
    # workers unpickle it with every task; by the UUID it is the same each time
    return KeyValueFileSystem(store, version, instance, user=user, app=app)


class KeyValueFile(AbstractBufferedFile):  # type: ignore[misc]
    """An open file: one state of a value, or one that is being written and is there when it is closed.

    Parameters
    ----------
    value : Value, optional
        What is read, or appended to.
    writer : ValueWriter, optional
        Where what is written goes.
    """

    closed: bool

    def __init__(
        self,
        fs: KeyValueFileSystem,
        path: str,
        mode: str,
        block_size: int | str = "default",
        *,
        value: Value | None = None,
        writer: ValueWriter | None = None,
        **options: Any,
    ) -> None:
        self._value = value
        self._writer = writer
        size = {"size": value.size} if value is not None and mode == "rb" else {}
        super().__init__(fs, path, mode, block_size, **options, **size)
        if mode == "ab" and value is not None:
            self.loc = value.size

    def _fetch_range(self, start: int, end: int) -> bytes:
        if self._value is None:
            raise ValueError("the file is not open for reading")
        return self._value.read(start, end)

    def _out(self) -> ValueWriter:
        if self._writer is None:
            raise ValueError("the file is not open for writing")
        return self._writer

    def _initiate_upload(self) -> None:
        for piece in self._value.pieces() if self._value is not None else ():
            self._out().write(piece)

    def _upload_chunk(self, final: bool = False) -> bool:
        self._out().write(self.buffer.getbuffer())
        if final and self.autocommit:
            self.commit()
        return True

    def commit(self) -> None:
        """Have the file hold what was written."""
        try:
            self._out().commit()
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Forget what was written."""
        self._out().discard()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is not None and self._writer is not None and not self.closed:
            # half a file is none
            self.discard()
            self.closed = True
        self.close()


def register() -> None:
    """Make fsspec know the protocols, where the package's entry points don't: in a source tree."""
    for protocol in PROTOCOLS:
        fsspec.register_implementation(protocol, KeyValueFileSystem, clobber=True)


register()
