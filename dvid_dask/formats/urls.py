"""URLs in texts that others read."""

from __future__ import annotations

import re

__all__ = ["shown"]


def shown(text: str) -> str:
    """A URL, or a message that holds URLs, without what signs requests.

    Examples
    --------
    >>> shown("can't read https://me:pw@host/em/info?sig=a12: gone")
    "can't read https://host/em/info?...: gone"
    """
    text = re.sub(r"(\w://)[^/@\s]*@", r"\1", text)
    return re.sub(r"(://[^\s?\"']*\?)[^\s\"':,;]*", r"\1...", text)
