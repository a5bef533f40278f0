"""Paths and URLs of volumes: what tensorstore opens for them, and what a person may see of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import tensorstore as ts

from dvid_dask.errors import BadRequest
from dvid_dask.formats.urls import shown

__all__ = ["TENSORSTORE", "directory_url", "join", "kvstore_spec", "local_path", "scheme_of", "shown"]

#: Schemes that tensorstore reads by itself.
TENSORSTORE = frozenset({"file", "http", "https", "gs", "s3"})

_S3 = frozenset({"endpoint", "region", "anonymous", "profile"})


def scheme_of(url: str) -> str:
    """Scheme of a URL, ``"file"`` for a path.

    Examples
    --------
    >>> scheme_of("gs://bucket/em"), scheme_of("/data/em")
    ('gs', 'file')
    """
    return url.partition("://")[0].lower() if "://" in url else "file"


def directory_url(path: str) -> str:
    """A path or URL as the URL of a directory, with a slash at its end.

    Examples
    --------
    >>> directory_url("/data/em"), directory_url("gs://bucket/em/"), directory_url("s3://b/em?anonymous=1")
    ('file:///data/em/', 'gs://bucket/em/', 's3://b/em/?anonymous=1')
    """
    url = path if "://" in path else Path(path).resolve().as_uri()
    head, mark, query = url.partition("?")
    return head.rstrip("/") + "/" + mark + query


def join(url: str, path: str) -> str:
    """The URL of what lies below a directory's.

    Raises
    ------
    BadRequest
        If the path leads out of the directory.

    Examples
    --------
    >>> join("s3://b/em/?anonymous=1", "s0")
    's3://b/em/s0/?anonymous=1'
    >>> join("gs://b/em/", "../secret")
    Traceback (most recent call last):
    ...
    dvid_dask.errors.BadRequest: the path '../secret' leads out of gs://b/em/
    """
    head, mark, query = url.partition("?")
    parts = path.strip("/").split("/")
    if path.startswith("/") or ".." in parts or "://" in path:
        raise BadRequest(f"the path {path!r} leads out of {shown(url)}")
    below = "/".join(p for p in parts if p not in ("", "."))
    return f"{head.rstrip('/')}/{below}/{mark}{query}" if below else url


def local_path(url: str) -> Path | None:
    """The path of a ``file://`` URL; None for other URLs."""
    if scheme_of(url) != "file":
        return None
    spec = ts.KvStore.Spec(url).to_json() if "://" in url else {"path": url}
    return Path(spec["path"])


def kvstore_spec(url: str) -> dict[str, Any]:
    """The directory at a URL as tensorstore's JSON spec of a key-value store.

    ``s3://`` takes ``endpoint``, ``region``, ``profile`` and ``anonymous`` in its query; what follows ``?`` in other
    URLs is sent along, as signed URLs need it.

    Raises
    ------
    BadRequest
        A malformed URL.

    Examples
    --------
    >>> kvstore_spec("gs://bucket/em/")
    {'bucket': 'bucket', 'driver': 'gcs', 'path': 'em/'}
    >>> kvstore_spec("s3://bucket/em/?anonymous=1&region=us-west-2")["aws_credentials"]
    {'type': 'anonymous'}
    """
    spec: dict[str, Any]
    parts = urlsplit(url)
    if parts.scheme == "s3":
        query = dict(parse_qsl(parts.query))
        if unknown := set(query) - _S3:
            raise BadRequest(f"{shown(url)}: unknown {sorted(unknown)[0]!r}; s3:// knows {', '.join(sorted(_S3))}")
        spec = {"driver": "s3", "bucket": parts.netloc, "path": parts.path.lstrip("/")}
        if "endpoint" in query:
            spec["endpoint"] = query["endpoint"]
        if "region" in query:
            spec["aws_region"] = query["region"]
        if query.get("anonymous") in ("1", "true"):
            spec["aws_credentials"] = {"type": "anonymous"}
        elif "profile" in query:
            spec["aws_credentials"] = {"type": "profile", "profile": query["profile"]}
    else:
        try:
            spec = ts.KvStore.Spec(url).to_json()
        except ValueError as e:
            raise BadRequest(f"{shown(url)}: {e}") from e
    try:
        ts.KvStore.Spec(spec)
    except ValueError as e:
        raise BadRequest(f"{shown(url)}: {e}") from e
    return spec
