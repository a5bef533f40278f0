"""Small files of a directory at any URL: metadata of volumes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, cast

import msgspec
import tensorstore as ts

from dvid_dask.errors import BadRequest, BrokenBase

from . import remote
from .urls import TENSORSTORE, kvstore_spec, local_path, scheme_of, shown

__all__ = ["Files", "filesystem", "open_files"]


class Files(ABC):
    """A directory whose files are read whole."""

    def __init__(self, url: str) -> None:
        self.url = url

    @abstractmethod
    def _read(self, name: str) -> bytes | None: ...

    def read(self, name: str) -> bytes | None:
        """The bytes of a file; None where there is none.

        Raises
        ------
        Unavailable
            Nobody knows, since the store doesn't answer.
        """
        try:
            with remote.slot(self.url):
                return self._read(name)
        except (ValueError, OSError, RuntimeError, ImportError) as e:
            raise remote.translated(e, self.url) from e

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON object; empty where there is no such file.

        Raises
        ------
        BrokenBase
            The file holds something else.
        """
        value = self.read(name)
        if value is None:
            return {}
        try:
            found = msgspec.json.decode(value)
        except msgspec.DecodeError as e:
            raise BrokenBase(f"{shown(self.url)}{name} is no JSON: {e}") from e
        if not isinstance(found, dict):
            raise BrokenBase(f"{shown(self.url)}{name} holds no JSON object")
        return cast("dict[str, Any]", found)


class _Local(Files):
    def __init__(self, url: str, folder: Path) -> None:
        super().__init__(url)
        self._folder = folder

    def _read(self, name: str) -> bytes | None:
        try:
            return (self._folder / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None


class _Tensorstore(Files):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        remote.check_process()
        self._kvstore = ts.KvStore.open(kvstore_spec(url), context=remote.context()).result(remote.READ_SECONDS)

    def _read(self, name: str) -> bytes | None:
        found = self._kvstore.read(name).result(remote.READ_SECONDS)
        return found.value if found.state == "value" else None


class _Fsspec(Files):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._fs, self._path = filesystem(url)

    def _read(self, name: str) -> bytes | None:
        def get() -> bytes | None:
            try:
                return cast("bytes", self._fs.cat_file(f"{self._path.rstrip('/')}/{name}"))
            except (FileNotFoundError, IsADirectoryError):
                return None

        return remote.in_time(get, remote.READ_SECONDS)


def open_files(url: str) -> Files:
    """The directory at a URL, through tensorstore where it knows the scheme, else through fsspec."""
    folder = local_path(url)
    if folder is not None:
        return _Local(url, folder)
    return _Tensorstore(url) if scheme_of(url) in TENSORSTORE else _Fsspec(url)


def filesystem(url: str) -> tuple[Any, str]:
    """Fsspec's file system for a URL, and the path in it. Queries of ``s3://`` and ``gs://`` become its options.

    Raises
    ------
    BadRequest
        fsspec doesn't know the scheme, or lacks the library for it.
    """
    import fsspec

    scheme = scheme_of(url)
    options: dict[str, Any] = {}
    if scheme == "s3":
        spec = kvstore_spec(url)
        options["anon"] = spec.get("aws_credentials") == {"type": "anonymous"}
        if "endpoint" in spec:
            options["endpoint_url"] = spec["endpoint"]
        options["config_kwargs"] = {"connect_timeout": 5, "read_timeout": remote.READ_SECONDS}
        url = url.partition("?")[0]
    elif scheme in ("http", "https"):
        import aiohttp

        options["client_kwargs"] = {"timeout": aiohttp.ClientTimeout(total=None, sock_read=remote.READ_SECONDS)}
    try:
        fs, path = fsspec.core.url_to_fs(url, **options)
    except (ImportError, ValueError) as e:
        raise BadRequest(f"{shown(url)}: fsspec can't open it: {e}") from e
    return fs, str(path)
