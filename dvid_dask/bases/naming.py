"""What a person writes for a volume, as a URL."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote

from dvid_dask.errors import BadRequest

from .pyramids import FORMATS
from .urls import directory_url, local_path, scheme_of, shown

__all__ = ["file_url", "is_below", "named_directory", "named_url", "split_hdf5"]

# as URLs of neuroglancer name formats, before and behind a URL
_NAMES = {
    **{name: name for name in FORMATS},
    "zarr": "",
    "neuroglancer-precomputed": "precomputed",
}


def split_hdf5(text: str, dataset: str | None) -> tuple[str, str | None] | None:
    """Path or URL of an HDF5 file and the data set in it; None if the text doesn't mean such a file.

    Examples
    --------
    >>> split_hdf5("em.h5:/em/gray", None), split_hdf5("em.h5", None), split_hdf5("em.zarr", None)
    (('em.h5', '/em/gray'), ('em.h5', None), None)
    """
    if match := re.fullmatch(r"(.+\.(?:h5|hdf5|hdf|n?cdf?)):(/.*)", text, re.IGNORECASE):
        return match[1], match[2]
    if dataset is not None or text.lower().endswith((".h5", ".hdf5", ".hdf")):
        return text, dataset
    return None


def named_directory(text: str) -> tuple[str, str]:
    """URL of the directory that a text means, and the format of the volume in it where the text names that.

    Raises
    ------
    BadRequest
        Behind a ``|`` stands what isn't known.

    Examples
    --------
    >>> named_directory("precomputed://gs://bucket/em"), named_directory("/data/em.zarr|zarr3:")
    (('gs://bucket/em/', 'precomputed'), ('file:///data/em.zarr/', 'zarr3'))
    """
    format = ""
    scheme, _, rest = text.partition("://")
    if rest and scheme.lower() in _NAMES:
        text, format = rest, _NAMES[scheme.lower()]
    if "|" in text:
        text, _, adapter = text.partition("|")
        name = adapter.strip().rstrip(":/")
        if name not in _NAMES:
            raise BadRequest(
                f"{shown(text)}: of what may follow '|', {', '.join(sorted(_NAMES))} are known, not {name!r}"
            )
        format = _NAMES[name]
    if scheme_of(text) == "file" and "://" in text:
        text = str(local_path(text))
    return directory_url(text), format


def file_url(text: str) -> str:
    """A path or URL of a file as a URL.

    Examples
    --------
    >>> file_url("/data/em.h5"), file_url("https://host/em.h5")
    ('file:///data/em.h5', 'https://host/em.h5')
    """
    if scheme_of(text) != "file":
        return text
    return directory_url(str(local_path(text)) if "://" in text else text).rstrip("/")


def named_url(text: str, dataset: str | None = None) -> str:
    """The URL that is read where a text names a volume; `dataset` as for `Base.find`."""
    hdf5 = split_hdf5(text, dataset)
    return file_url(hdf5[0]) if hdf5 is not None else named_directory(text)[0]


def is_below(url: str, prefixes: Iterable[str]) -> bool:
    """Whether a URL, as `named_url` gives it, lies in one of some directories.

    Examples
    --------
    >>> is_below("gs://bucket/em/raw/", ["gs://bucket/em"]), is_below("gs://bucket/em2/", ["gs://bucket/em"])
    (True, False)
    >>> is_below("https://host/em/%2e%2e/secret/", ["https://host/em/"])
    False
    """
    plain = url.partition("?")[0]
    if {"..", "."} & set(unquote(unquote(plain)).replace("\\", "/").split("/")):
        return False
    return any(plain.startswith(directory_url(prefix)) for prefix in prefixes)
