"""Settings that all data instances share at creation, in DVID's terms.

Compression and checksum are kept as DVID's clients see them in ``info``; what is stored here has its own codecs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dvid_dask.errors import BadRequest, Conflict

__all__ = [
    "check_instance_name",
    "parse_checksum",
    "parse_compression",
    "parse_tags",
    "parse_versioned",
    "setting_flag",
    "setting_text",
]

#: Names that would shadow an action of a node in URLs.
RESERVED = frozenset({"log", "branch", "note", "commit", "newversion"})

_CODECS = {
    "none": "No compression",
    "snappy": "Go Snappy compression",
    "lz4": "LZ4 compression",
    "gzip": "gzip compression",
    "jpeg": "jpeg compression",
}
_CHECKSUMS = {"none": "No checksum", "crc32": "CRC32 checksum"}


def setting_text(config: Mapping[str, Any], name: str) -> str | None:
    """A setting as text, or None where it isn't given.

    Raises
    ------
    BadRequest
        When the value is not a text: DVID takes strings, also for numbers.
    """
    if name not in config:
        return None
    value = config[name]
    if not isinstance(value, str):
        raise BadRequest(f"setting {name!r} must be a string, not {value!r}")
    return value


def setting_flag(config: Mapping[str, Any], name: str, default: bool) -> bool:
    """A setting that is ``true``, ``false``, ``1`` or ``0``, in any case.

    Examples
    --------
    >>> setting_flag({"countlabels": "FALSE"}, "countlabels", True)
    False
    """
    text = setting_text(config, name)
    if text is None:
        return default
    value = {"true": True, "1": True, "false": False, "0": False}.get(text.lower())
    if value is None:
        raise BadRequest(f"setting {name!r}: {text[:80]!r} is none of true, false, 1, 0")
    return value


def parse_compression(config: Mapping[str, Any], default: str = "lz4") -> str:
    """DVID's text of the ``Compression`` setting.

    Examples
    --------
    >>> parse_compression({}), parse_compression({"compression": "GZIP:5"})
    ('LZ4 compression, level -1', 'gzip compression, level 5')
    >>> parse_compression({"compression": "gzip:10"})
    'No compression, level 0'
    >>> parse_compression({"compression": "jpeg", "blocksize": "64,64,64"})
    'jpeg compression, level 64'
    """
    text = setting_text(config, "compression")
    given = (default if text is None else text).lower()
    name, colon, level = given.partition(":")
    if name not in _CODECS or (colon and name != "gzip"):
        raise BadRequest(f"unknown compression {text!r}: expected none, snappy, lz4, gzip, gzip:1 to gzip:9 or jpeg")
    if colon:
        if not re.fullmatch(r"[+-]?[0-9]+", level):
            raise BadRequest(f"compression {text!r}: the gzip level must be a number from 1 to 9")
        number = int(level)
        if 1 <= number <= 9:
            return f"{_CODECS['gzip']}, level {number}"
        # DVID stores such an instance uncompressed and says so
        return f"{_CODECS['none']}, level {-1 if number == 0 else 0}"
    if name == "jpeg":
        size = (setting_text(config, "blocksize") or "32").split(",")[0].strip()
        if not size.isascii() or not size.isdigit() or not 1 <= int(size) <= 127:
            raise BadRequest(f"jpeg compression needs a block width from 1 to 127, not {size!r}")
        return f"{_CODECS['jpeg']}, level {int(size)}"
    return f"{_CODECS[name]}, level -1"


def parse_checksum(config: Mapping[str, Any]) -> str:
    """DVID's text of the ``Checksum`` setting.

    Examples
    --------
    >>> parse_checksum({"checksum": "CRC32"})
    'CRC32 checksum'
    """
    text = setting_text(config, "checksum")
    if text is None:
        return _CHECKSUMS["none"]
    if text.lower() not in _CHECKSUMS:
        raise BadRequest(f"unknown checksum {text!r}: expected none or crc32")
    return _CHECKSUMS[text.lower()]


def parse_versioned(config: Mapping[str, Any]) -> bool:
    """The ``Versioned`` setting: a boolean, or the text true, false, 1 or 0 in any case.

    Examples
    --------
    >>> parse_versioned({}), parse_versioned({"versioned": "False"})
    (True, False)
    """
    value = config.get("versioned", True)
    if isinstance(value, bool):
        return value
    named = {"true": True, "1": True, "false": False, "0": False}
    if isinstance(value, str) and value.lower() in named:
        return named[value.lower()]
    raise BadRequest(f"setting 'versioned' must be true or false, not {value!r}")


def parse_tags(config: Mapping[str, Any]) -> dict[str, str] | None:
    """The ``Tags`` setting, ``a=b,c=d``; entries of another form are dropped, as DVID does.

    Examples
    --------
    >>> parse_tags({"tags": "kind=mesh,n=5,junk,a=b=c,e="})
    {'kind': 'mesh', 'n': '5', 'e': ''}
    >>> parse_tags({"tags": ""}), parse_tags({})
    ({}, None)
    """
    text = setting_text(config, "tags")
    if text is None:
        return None
    found = {}
    for entry in text.split(","):
        parts = entry.split("=")
        if len(parts) == 2 and parts[0]:
            found[parts[0]] = parts[1]
    return found


def check_instance_name(name: object) -> str:
    """The name, if an instance may have it.

    Raises
    ------
    BadRequest
        When it is no text, empty, holds a slash (no URL could name it), or shadows an action of a node.
    """
    if not isinstance(name, str):
        raise BadRequest(f"an instance's name is a string, not {name!r}")
    if not name:
        raise BadRequest("an instance needs a name that is not empty")
    if "/" in name or any(ord(c) < 32 for c in name):
        raise BadRequest(f"instance name {name!r} holds a slash or a control character, so no URL could name it")
    if name in RESERVED:
        raise Conflict(f"{name!r} is reserved: nodes have an action of that name; choose another")
    return name
