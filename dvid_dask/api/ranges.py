"""Requests for parts of a body, and for a body only if it is another than the client has.

Source: RFC 9110, sections 13 (conditional requests) and 14 (ranges); of ranges only single ones of bytes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from starlette.responses import Response

from .failures import NOSNIFF

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.datastructures import Headers

__all__ = ["conditional", "header_range", "names_tag"]


def names_tag(header: str | None, tag: str) -> bool:
    """Whether a list of entity tags holds one.

    Examples
    --------
    >>> names_tag('W/"b", "a"', '"a"'), names_tag("*", '"a"'), names_tag(None, '"a"')
    (True, True, False)
    """
    if header is None:
        return False
    given = {text.strip().removeprefix("W/") for text in header.split(",")}
    return tag in given or "*" in given


_RANGE = re.compile(r"bytes=[ \t]*([0-9]*)[ \t]*-[ \t]*([0-9]*)[ \t]*")


def header_range(header: str, length: int) -> tuple[int, int] | None:
    """First and last byte of a Range header, the last within the value; ``None`` = a form that is ignored.

    A range that can't be satisfied has its first byte behind its last or behind the end.

    Examples
    --------
    >>> header_range("bytes=2-5", 26), header_range("bytes=-3", 26), header_range("bytes=20-99", 26)
    ((2, 5), (23, 25), (20, 25))
    >>> header_range("bytes=5-2", 26), header_range("items=0-5", 26), header_range("bytes=-", 26)
    (None, None, None)
    """
    match = _RANGE.fullmatch(header)
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        return max(0, length - int(match[2])), length - 1
    first = int(match[1])
    if not match[2]:
        return first, length - 1
    return (first, min(int(match[2]), length - 1)) if first <= int(match[2]) else None


def conditional(body: bytes, tag: str, given: Headers, headers: Mapping[str, str], media_type: str) -> Response:
    """The answer with a body that is in memory, or a part of it, or 304 where the client has it.

    Parameters
    ----------
    body : bytes
    tag : str
        Its entity tag, in quotes.
    given : Headers
        Of the request.
    headers : Mapping
        Of all answers.
    media_type : str
    """
    common = {"Accept-Ranges": "bytes", "ETag": tag, **headers}
    if names_tag(given.get("if-none-match"), tag):
        return Response(b"", 304, common)
    header = given.get("range")
    span = None if header is None or given.get("if-range", tag) != tag else header_range(header, len(body))
    if span is None:
        return Response(body, 200, common, media_type)
    first, last = span
    if first >= len(body) or first > last:
        length = {"Content-Range": f"bytes */{len(body)}", **NOSNIFF}
        return Response("the range begins behind the end\n", 416, length, "text/plain; charset=utf-8")
    where = {"Content-Range": f"bytes {first}-{last}/{len(body)}", **common}
    return Response(body[first : last + 1], 206, where, media_type)
