"""Where a store lies: a folder, this process's memory, an S3 or GCS bucket.

A backend is a tensorstore key-value store over the store's root, with what the rest needs said once: how the place is
spelled, whether a write can be made to depend on what is there, and whether two writers can be told apart by it.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import tensorstore as ts

from .errors import StoreError, translate

#: Bytes of decoded tree nodes and manifests that one store keeps in memory.
CACHE_BYTES = 256 << 20

# Parts of a bucket URL's query, by scheme. GCS takes its endpoint from the environment (TENSORSTORE_GCS_HTTP_URL).
_QUERY = {"s3": {"endpoint", "region", "anonymous", "profile"}, "gs": {"project"}}

_forked = False
_in_use = False
_pid = os.getpid()


def _after_fork() -> None:
    global _forked, _pid
    _forked = _in_use
    _pid = os.getpid()


os.register_at_fork(after_in_child=_after_fork)


def canonical(url: str | os.PathLike[str]) -> str:
    """Spell the place of a store in one way: an absolute ``file://`` URL, or a bucket's URL without a trailing slash.

    Raises
    ------
    ValueError
        The scheme or a part of the query is unknown.

    Examples
    --------
    >>> canonical("/data/fly")
    'file:///data/fly'
    >>> canonical("s3://bucket/fly/?region=us-east-1")
    's3://bucket/fly?region=us-east-1'
    """
    text = os.fspath(url)
    if not isinstance(text, str) or not text:
        raise ValueError(f"a store is named by a path or URL, not {url!r}")
    scheme, separator, rest = text.partition("://")
    if not separator:
        return "file://" + os.path.abspath(os.path.expanduser(text))
    if scheme == "file":
        return "file://" + os.path.abspath("/" + rest.lstrip("/"))
    if scheme == "memory":
        return "memory://" + rest.strip("/")
    if scheme not in _QUERY:
        raise ValueError(f"{text!r}: scheme {scheme!r} is unknown; give a path, file://, memory://, s3:// or gs://")
    parts = urlsplit(text)
    if not parts.netloc:
        raise ValueError(f"{text!r} names no bucket")
    unknown = {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)} - _QUERY[scheme]
    if unknown:
        raise ValueError(
            f"{text!r}: unknown {', '.join(sorted(unknown))}; {scheme}:// knows {', '.join(sorted(_QUERY[scheme]))}"
        )
    path = parts.path.strip("/")
    return f"{scheme}://{parts.netloc}" + (f"/{path}" if path else "") + (f"?{parts.query}" if parts.query else "")


class Backend:
    """Files of one store, by their path below its root.

    Parameters
    ----------
    url
        As `canonical` spells it.
    cache_bytes
        Size of the cache of tree nodes.
    """

    def __init__(self, url: str, cache_bytes: int = CACHE_BYTES) -> None:
        global _in_use
        if _forked:
            raise StoreError(
                "this process was forked from one that used a store, and tensorstore does not survive a fork; "
                "start workers with multiprocessing's 'spawn' or 'forkserver' method"
            )
        _in_use = True
        self.url = url
        self.pid = os.getpid()
        self.scheme = url.partition("://")[0]
        self.folder = Path(url[len("file://") :]) if self.scheme == "file" else None
        #: Buckets of S3 have no compare-and-swap that tensorstore relies on: each generation gets a manifest of its
        #: own.
        self.numbered = self.scheme == "s3"
        #: What this process knows of the format, the trees and their nodes; theirs to fill.
        self.format: object = None
        self.trees: dict[str, object] = {}
        self.points: object = None
        self.remote = self.scheme in ("s3", "gs")
        settings: dict[str, Any] = {"cache_pool": {"total_bytes_limit": cache_bytes}, "memory_key_value_store": {}}
        self.spec, extra = self._spec()
        self.context = ts.Context({**settings, **extra})
        try:
            self.root = ts.KvStore.open(self.spec, context=self.context).result()
        except (ValueError, NotImplementedError) as error:
            raise translate(error, "opening it", url) from error

    def _spec(self) -> tuple[dict[str, Any], dict[str, Any]]:
        if self.folder is not None:
            return {"driver": "file", "path": f"{self.folder}/"}, {}
        if self.scheme == "memory":
            return {"driver": "memory"}, {}
        parts = urlsplit(self.url)
        path = parts.path.strip("/")
        spec: dict[str, Any] = {"bucket": parts.netloc, "path": f"{path}/" if path else ""}
        query = dict(parse_qsl(parts.query))
        extra: dict[str, Any] = {}
        if self.scheme == "s3":
            spec["driver"] = "s3"
            if "endpoint" in query:
                spec["endpoint"] = query["endpoint"]
            if "region" in query:
                spec["aws_region"] = query["region"]
            if query.get("anonymous") in ("1", "true"):
                extra["aws_credentials"] = {"type": "anonymous"}
            elif "profile" in query:
                extra["aws_credentials"] = {"type": "profile", "profile": query["profile"]}
        else:
            spec["driver"] = "gcs"
            if "project" in query:
                extra["gcs_user_project"] = {"project_id": query["project"]}
        return spec, extra

    def check(self) -> None:
        """Refuse to work in a forked child.

        Raises
        ------
        StoreError
            This process is not the one that opened the store.
        """
        if _pid != self.pid:
            raise StoreError(
                f"{self.url} was opened by process {self.pid} and used in {os.getpid()}, its fork; "
                "tensorstore does not survive a fork: start workers with multiprocessing's 'spawn' or 'forkserver' "
                "method and open the store there"
            )

    def read(self, path: str) -> bytes | None:
        """Return a file's bytes, or None where there is none."""
        self.check()
        try:
            if self.folder is not None:
                with open(f"{self.folder}/{path}", "rb", buffering=0) as file:
                    return file.readall()
            result = self.root.read(path).result()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, OSError) as error:
            raise translate(error, f"reading {path}", self.url) from error
        return None if result.state == "missing" else result.value

    def write(self, path: str, data: bytes) -> None:
        """Write a file whole, durably."""
        self.check()
        try:
            self.root.write(path, data).result()
        except (ValueError, OSError) as error:
            raise translate(error, f"writing {path}", self.url) from error

    def write_new(self, path: str, data: bytes) -> bool:
        """Write a file unless there is one; tell whether it was written."""
        return self.replace(path, None, data)

    def replace(self, path: str, old: bytes | None, new: bytes) -> bool:
        """Write a file if it still holds `old` (None: if there is none); tell whether it was written."""
        self.check()
        try:
            found = self.root.read(path).result()
            if (None if found.state == "missing" else found.value) != old:
                return False
            written = self.root.write(path, new, if_equal=found.stamp.generation).result()
        except (ValueError, OSError) as error:
            raise translate(error, f"writing {path}", self.url) from error
        return written.generation != b""

    def delete(self, path: str) -> None:
        """Delete a file; none there is fine."""
        self.check()
        try:
            self.root.write(path, None).result()
        except (ValueError, OSError) as error:
            raise translate(error, f"deleting {path}", self.url) from error

    def list(self, prefix: str = "") -> list[str]:
        """List the paths that begin with `prefix`, without it."""
        self.check()
        try:
            names = self.root.list(
                ts.KvStore.KeyRange(prefix, _after(prefix)) if prefix else ts.KvStore.KeyRange(),
                strip_prefix_length=len(prefix),
            ).result()
        except (ValueError, OSError) as error:
            raise translate(error, f"listing {prefix or 'its files'}", self.url) from error
        return [os.fsdecode(name) for name in names]

    def scan(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Iterate over the paths below the folder `prefix` and their sizes; -1 where the place does not say."""
        if self.folder is None:
            for name in self.list(prefix):
                yield name, -1
            return
        self.check()
        try:
            with os.scandir(self.folder / prefix) as entries:
                for entry in entries:
                    try:
                        yield entry.name, entry.stat().st_size
                    except FileNotFoundError:
                        continue
        except FileNotFoundError:
            return

    def sync_folder(self, path: str) -> None:
        """Make the names in a local folder outlive a power cut; elsewhere they do anyway."""
        if self.folder is not None:
            sync_folder(self.folder / path)


def sync_folder(path: Path) -> None:
    """Make the names in a folder outlive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _after(prefix: str) -> str:
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


_backends: weakref.WeakValueDictionary[str, Backend] = weakref.WeakValueDictionary()
#: Data in memory that stays for as long as the process does.
_memories: list[Backend] = []
_backends_lock = threading.Lock()


def backend(url: str, *, keep: bool = True) -> Backend:
    """Return this process's backend of a store, one for all handles: they share caches and see each other's commits.

    What is in memory alone stays if it is to be kept, else until the last of them is gone.
    """
    with _backends_lock:
        known = _backends.get(url)
        if known is None or known.pid != os.getpid():
            known = _backends[url] = Backend(url)
            if keep and known.scheme == "memory":
                _memories.append(known)
        return known
