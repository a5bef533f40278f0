"""Whose scripts may read answers in a browser, by the configured domains."""

from __future__ import annotations

import logging
import re
from urllib.parse import urlsplit

__all__ = ["Origins"]

log = logging.getLogger(__name__)


class Origins:
    """The origins that the configuration allows; letters count without case.

    Entries are complete origins (``https://host[:port]``) or hold one ``*``; the entry ``*`` allows all. Where users
    are asked for, browsers send what proves who they are along with a script's request. Then ``*`` allows nothing, nor
    does a pattern that leaves the domain open; but a plain domain allows all origins in it, as in DVID.

    Parameters
    ----------
    entries : tuple of str
    with_users : bool
        Whether requests need to say who they come from.

    Examples
    --------
    >>> Origins(("https://a.org", "https://*.b.org")).allows("https://x.B.org")
    True
    >>> users = Origins(("*", "lab.org"), with_users=True)
    >>> users.allows("http://x.lab.org:8080"), users.allows("https://evil-lab.org")
    (True, False)
    """

    def __init__(self, entries: tuple[str, ...] = (), *, with_users: bool = False) -> None:
        self.with_users = with_users
        self.any = "*" in entries and not with_users
        self._domains: list[str] = []
        self._patterns: list[re.Pattern[str]] = []
        for entry in (e.lower() for e in entries):
            if with_users and "*" in entry and "." not in entry.rpartition("*")[2]:
                log.warning("corsDomains: %s is not honoured, since users are asked for: name the domains", entry)
            elif with_users and "://" not in entry and "*" not in entry:
                self._domains.append(entry)
            else:
                self._patterns.append(re.compile(".*".join(map(re.escape, entry.split("*")))))

    def allows(self, origin: str) -> bool:
        """Whether scripts of this origin may read answers."""
        if self.any:
            return True
        origin = origin.lower()
        if any(pattern.fullmatch(origin) for pattern in self._patterns):
            return True
        if not self._domains:
            return False
        try:
            host = urlsplit(origin).hostname or ""
        except ValueError:
            return False
        return any(host == domain or host.endswith(f".{domain}") for domain in self._domains)
