"""The table of the server's own endpoints (all but those of datatypes), and how DVID's router treats what isn't in it.

A path has one entry for each method. GET entries answer HEAD too. There is no 405: a known path with another method is
404, and OPTIONS there tells the methods.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.responses import Response

    from .face import Request, VersionRequest

__all__ = ["Route", "Routes"]

H = TypeVar("H", bound="Callable[..., Response]")


class Route(NamedTuple):
    """One endpoint."""

    method: str
    path: str
    handler: Callable[[VersionRequest], Response] | Callable[[Request], Response]


class Routes:
    """Endpoints of one level, by path and method.

    Examples
    --------
    >>> routes = Routes()
    >>> @routes.get("/api/{colour}/ball")
    ... def ball(request): ...
    >>> routes.find("HEAD", "/api/red/ball")[1]
    {'colour': 'red'}
    >>> routes.find("POST", "/api/red/ball") is None, routes.methods("/api/red/ball")
    (True, ['GET', 'HEAD'])
    """

    def __init__(self) -> None:
        self.routes: list[Route] = []
        self._fixed: dict[str, dict[str, Route]] = {}
        self._patterns: dict[str, tuple[re.Pattern[str], dict[str, Route]]] = {}

    def get(self, path: str) -> Callable[[H], H]:
        """Answer GET and HEAD."""
        return self._add("GET", path)

    def head(self, path: str) -> Callable[[H], H]:
        """Answer HEAD alone."""
        return self._add("HEAD", path)

    def post(self, path: str) -> Callable[[H], H]:
        """Answer POST."""
        return self._add("POST", path)

    def _add(self, method: str, path: str) -> Callable[[H], H]:
        def add(handler: H) -> H:
            route = Route(method, path, handler)
            self.routes.append(route)
            if "{" in path:
                pattern = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path))
                self._patterns.setdefault(path, (pattern, {}))[1][method] = route
            else:
                self._fixed.setdefault(path, {})[method] = route
            return handler

        return add

    def _match(self, path: str) -> tuple[dict[str, Route], dict[str, str]] | None:
        fixed = self._fixed.get(path)
        if fixed is not None:
            return fixed, {}
        for pattern, by_method in self._patterns.values():
            matched = pattern.fullmatch(path)
            if matched:
                return by_method, matched.groupdict()
        return None

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]] | None:
        """The endpoint for a request with what its placeholders stand for; ``None`` = not routed."""
        found = self._match(path)
        if found is None:
            return None
        by_method, params = found
        route = by_method.get(method) or (by_method.get("GET") if method == "HEAD" else None)
        return None if route is None else (route, params)

    def methods(self, path: str) -> list[str]:
        """The methods that a path takes; empty for an unknown path."""
        found = self._match(path)
        if found is None:
            return []
        names = set(found[0])
        if "GET" in names:
            names.add("HEAD")
        return sorted(names)
