"""How a datatype shows itself over HTTP: a :class:`Face` of handlers, each of which gets a :class:`Call`.

::

    face = Face("keyvalue", about="Named values.", common=("tags", "mutations"))

    @face.get("key", args="/<key>")
    def get_key(call: Call) -> Response:
        '''The value of a key.'''                    # the docstring is the reference text and the help page
        return octets(call.instance.get(call.arg(0, "key")))

A handler is a plain function; it runs in a worker thread and may block. It raises errors of :mod:`dvid_dask.errors` and
returns one of :mod:`dvid_dask.api.responses`; status codes of errors are the errors' own.

A handler that mostly looks up a few values is registered with ``quick=True``: it is then called on the event loop,
which saves the way to a thread and back, and before it begins with what may take longer it says
``call.needs_thread(...)``.
"""

from __future__ import annotations

import builtins
import contextlib
import hmac
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, overload

import msgspec
from starlette.datastructures import Headers, QueryParams

from dvid_dask.errors import BadRequest, DvidError, did_you_mean

from .body import Body
from .failures import BrokenBody

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from starlette.responses import Response
    from starlette.types import Scope

    from dvid_dask.datatypes.base import Datatype
    from dvid_dask.versions import Repo, Version

    from .app import Pace
    from .state import ServerState

__all__ = [
    "Awaits",
    "Body",
    "BrokenBody",
    "Call",
    "Face",
    "Handler",
    "NeedsThread",
    "Request",
    "VersionRequest",
    "decode_json",
    "learned",
]

T = TypeVar("T")
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS")
ANY = "*"


@overload
def decode_json(data: bytes) -> Any: ...
@overload
def decode_json(data: bytes, type: type[T]) -> T: ...
def decode_json(data: bytes, type: Any = Any) -> Any:
    """Strict JSON, with the types that are expected.

    Raises
    ------
    BadRequest
        Not JSON, not UTF-8, nested beyond reason, or of other types.

    Examples
    --------
    >>> decode_json(b'{"a": 18446744073709551615}', dict[str, int])
    {'a': 18446744073709551615}
    >>> decode_json(b'{"a": 1}', dict[str, str])
    Traceback (most recent call last):
    ...
    dvid_dask.errors.BadRequest: the JSON body is not what is expected: Expected `str`, got `int` - at `$[...]`
    """
    try:
        return msgspec.json.decode(data, type=type)
    except msgspec.ValidationError as error:
        raise BadRequest(f"the JSON body is not what is expected: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    except RecursionError:
        raise BadRequest("the JSON body is nested too deeply") from None


class Request:
    """One request as a handler of the server's own endpoints sees it.

    Attributes
    ----------
    server : ServerState
    method : str
        In upper case.
    path : str
        The decoded path.
    params : dict
        What the route's placeholders matched.
    body : Body
    """

    def __init__(self, server: ServerState, scope: Scope, body: Body) -> None:
        self.server = server
        self.scope = scope
        self.body = body
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.params: dict[str, str] = scope.get("path_params", {})
        self._at_end: list[Callable[[], None]] = []

    @cached_property
    def query(self) -> QueryParams:
        """The query options; of a repeated one the first counts, as in DVID."""
        return first_values(self.scope["query_string"])

    @cached_property
    def headers(self) -> Headers:
        """The headers; names without regard to case."""
        return Headers(scope=self.scope)

    @cached_property
    def user(self) -> str:
        """Who asks, by query option ``u``; without it, whoever the token belongs to that let the request in."""
        return self.query.get("u", "") or str(self.scope.get("dvid.user", ""))

    @cached_property
    def app(self) -> str:
        """The client program, by query option ``app``."""
        return self.query.get("app", "")

    @cached_property
    def admin(self) -> bool:
        """Whether the request carries the admin token, or comes from an administrator of the DatasetGateway."""
        secret = self.server.config.admin_token
        given = self.query.get("admintoken", "") if b"admintoken" in self.scope["query_string"] else ""
        if secret and hmac.compare_digest(given.encode(), secret.encode()):
            return True
        guard = self.server.guard
        return guard is not None and guard.is_admin(self)

    @property
    def force(self) -> bool:
        """Whether committed versions may be written: an admin, or a server in full-write mode. Pass it on."""
        return self.server.full_write or self.admin

    def flag(self, name: str) -> bool:
        """Whether the query option is exactly ``true``."""
        return self.query.get(name) == "true"

    def int(
        self,
        name: str,
        default: builtins.int = 0,
        low: builtins.int = -(2**31),
        high: builtins.int = 2**31 - 1,
    ) -> builtins.int:
        """The query option as an integer within bounds.

        Raises
        ------
        BadRequest
            It is there and is no such number.
        """
        from .geometry import parse_int

        text = self.query.get(name)
        return default if text is None or text == "" else parse_int(text, name, low, high)

    @overload
    def json(self, *, limit: builtins.int | None = None) -> Any: ...
    @overload
    def json(self, type: builtins.type[T], *, limit: builtins.int | None = None) -> T: ...
    def json(self, type: Any = Any, *, limit: builtins.int | None = None) -> Any:
        """The body as JSON; see :func:`decode_json`."""
        return decode_json(self.body.all(limit), type)

    def throttled(self) -> AbstractContextManager[None]:
        """Take one of the server's slots for heavy work, where the client asks so (``throttle=on`` or ``true``).

        The slot is held until the work is done, for a streamed answer until its last chunk is made, also after the
        ``with`` block.

        Raises
        ------
        TooBusy
            All slots are taken (HTTP 503).
        """
        if self.query.get("throttle") in ("on", "true"):
            self.server.throttle.take()
            self.at_end(self.server.throttle.give_back)
        return contextlib.nullcontext()

    def at_end(self, callback: Callable[[], None]) -> None:
        """Call this once the work of the request is done."""
        self._at_end.append(callback)

    def undo(self) -> None:
        """The handler begins anew: release what it took."""
        while self._at_end:
            self._at_end.pop()()

    def close(self) -> None:
        """End of the request: release what it holds."""
        self.undo()
        self.body.close()


def first_values(query_string: bytes) -> QueryParams:
    """Query options, the first of each name."""
    if not query_string:
        return QueryParams()
    params = QueryParams(query_string)
    if len(params) != len(params.multi_items()):
        seen: dict[str, str] = {}
        for name, value in params.multi_items():
            seen.setdefault(name, value)
        return QueryParams(seen)
    return params


class VersionRequest(Request):
    """A request at a version of a repository."""

    version: Version

    @property
    def repo(self) -> Repo:
        """The repository of that version."""
        return self.version.repo

    def also(self, selector: str) -> Version:
        """Another version of the same repository, which the request wants to read too.

        Raises
        ------
        UnknownVersion, AmbiguousVersion, BadRequest
            No version, or several.
        DvidError
            Who asks may not read it: that the first version is public says nothing of others.
        """
        guard = self.server.guard
        if guard is None:
            return self.repo[selector]
        version = guard.select(self.repo, selector)
        guard.check(self, version, write=False)
        return version


class NeedsThread(Exception):  # noqa: N818  an event, like StopIteration
    """A quick handler found that it isn't: it has to run again, in a thread."""


class Awaits(NeedsThread):
    """Something has to be asked for on the event loop, where no thread waits for it; then the handler runs again.

    To be raised before anything of the body is read and before anything is changed.

    Parameters
    ----------
    key : str
        Under which the request's scope gets the answer, or the error by which it failed.
    ask : callable
        Without arguments, asynchronous; may raise errors of :mod:`dvid_dask.errors`.
    """

    def __init__(self, key: str, ask: Callable[[], Awaitable[Any]]) -> None:
        super().__init__(key)
        self.key = key
        self.ask = ask

    async def learn(self, scope: Scope) -> None:
        """Ask, and keep the answer."""
        try:
            scope[self.key] = await self.ask()
        except DvidError as error:
            scope[self.key] = error


def learned(request: Request, key: str, ask: Callable[[], Awaitable[T]]) -> T:
    """The answer to a question that takes the event loop; see :class:`Awaits`.

    Raises
    ------
    Awaits
        It wasn't asked yet.
    DvidError
        The question failed.
    """
    found = request.scope.get(key)
    if found is None:
        raise Awaits(key, ask)
    if isinstance(found, DvidError):
        raise found
    answer: T = found
    return answer


class Call(VersionRequest):
    """A request at a data instance.

    Attributes
    ----------
    version : Version
        As selected; for an unversioned instance the repository's root.
    instance : Datatype
        Bound to that version.
    keyword : str
        The path part after the instance's name.
    args : list of str
        The parts after the keyword, decoded, without an empty last one.
    """

    # Handlers know their own class: `call.instance` of the labelmap face is a LabelMap.
    instance: Any
    keyword: str
    args: list[str]
    on_loop = False
    warms: Pace | None = None

    def needs_thread(self, when: bool = True) -> None:
        """Leave the event loop, if the handler runs there: it is called again in a thread.

        For handlers registered as quick, before they read the body and before anything that takes more than a
        millisecond or so.
        """
        if when and self.on_loop:
            raise NeedsThread

    @property
    def datatype(self) -> Datatype:
        """The instance, as its base class."""
        typed: Datatype = self.instance
        return typed

    def arg(self, index: int, what: str) -> str:
        """A path part that must be there.

        Raises
        ------
        BadRequest
            It isn't.
        """
        if index >= len(self.args):
            raise BadRequest(f'"{self.keyword}" needs {what} as part {index + 1} of the path after it')
        return self.args[index]


if TYPE_CHECKING:
    Handler = Callable[[Call], Response]
    H = TypeVar("H", bound=Handler)


class Door(NamedTuple):
    """One handler of a face."""

    keyword: str
    method: str
    handler: Handler
    args: str
    head: bool
    quick: bool = False


class Face:
    """The HTTP side of one or more datatypes: which keyword and method goes to which handler.

    Parameters
    ----------
    *typenames : str
        The datatypes that show this face.
    about : str
        What they are, for the help page.
    common : iterable of str
        Keywords answered as all types do (see :mod:`dvid_dask.api.common`): ``tags``, ``sync``, ``mutations`` (with
        ``mutations-range``), ``metadata``, ``resolution``, ``extents``. ``help`` and ``info`` come unasked. A
        handler of the face itself takes precedence.
    methods : tuple of str, optional
        All that the types accept; another one is refused before the keyword is looked at.

    Examples
    --------
    >>> face = Face("toy", about="A toy.")
    >>> @face.get("ball", args="/<colour>")
    ... def get_ball(call):
    ...     '''The ball of a colour.'''
    >>> face.find("GET", "ball").handler is get_ball, face.find("HEAD", "ball").handler is get_ball
    (True, True)
    >>> face.find("GET", "bal")
    Traceback (most recent call last):
    ...
    dvid_dask.errors.BadRequest: "bal" is no keyword of toy (did you mean 'ball'?); see /api/help/toy
    """

    def __init__(
        self,
        *typenames: str,
        about: str = "",
        common: Iterable[str] = (),
        methods: tuple[str, ...] | None = None,
    ) -> None:
        self.typenames = typenames
        self.about = about
        self.common = frozenset(common)
        self.methods = methods
        self.doors: dict[str, dict[str, Door]] = {}

    def __repr__(self) -> str:
        return f"Face({', '.join(map(repr, self.typenames))})"

    def get(self, *keywords: str, args: str = "", head: bool = True, quick: bool = False) -> Callable[[H], H]:
        """Answer GET, and HEAD unless told otherwise; quick: see :meth:`Call.needs_thread`."""
        return self._add("GET", keywords, args, head, quick)

    def head(self, *keywords: str, args: str = "") -> Callable[[H], H]:
        """Answer HEAD otherwise than by GET without its body."""
        return self._add("HEAD", keywords, args, False)

    def post(self, *keywords: str, args: str = "") -> Callable[[H], H]:
        """Answer POST."""
        return self._add("POST", keywords, args, False)

    def put(self, *keywords: str, args: str = "") -> Callable[[H], H]:
        """Answer PUT."""
        return self._add("PUT", keywords, args, False)

    def delete(self, *keywords: str, args: str = "") -> Callable[[H], H]:
        """Answer DELETE."""
        return self._add("DELETE", keywords, args, False)

    def any(self, *keywords: str, args: str = "", quick: bool = False) -> Callable[[H], H]:
        """Answer every method that has no handler of its own; quick: see :meth:`Call.needs_thread`."""
        return self._add(ANY, keywords, args, True, quick)

    def _add(
        self, method: str, keywords: tuple[str, ...], args: str, head: bool, quick: bool = False
    ) -> Callable[[H], H]:
        def add(handler: H) -> H:
            for keyword in keywords:
                doors = self.doors.setdefault(keyword, {})
                if method in doors:
                    raise ValueError(f"{self!r} has two handlers for {method} {keyword}")
                doors[method] = Door(keyword, method, handler, args, head, quick)
            return handler

        return add

    def find(self, method: str, keyword: str) -> Door:
        """The handler for a request.

        Raises
        ------
        BadRequest
            No such keyword, or not with this method: DVID answers both with 400.
        """
        if self.methods is not None and method not in self.methods:
            raise BadRequest(f"{self.typenames[0]} answers {' and '.join(self.methods)} only, not {method}")
        doors = self.doors.get(keyword)
        if doors is None:
            raise BadRequest(
                f'"{keyword[:80]}" is no keyword of {self.typenames[0]}'
                f"{did_you_mean(keyword[:80], self.doors)}; see /api/help/{self.typenames[0]}"
            )
        door = doors.get(method)
        if door is None and method == "HEAD" and "GET" in doors and doors["GET"].head:
            door = doors["GET"]
        if door is None:
            door = doors.get(ANY)
        if door is None:
            raise BadRequest(f'"{keyword}" answers {", ".join(sorted(doors))} only, not {method[:20]}')
        return door

    def all_doors(self) -> Iterator[Door]:
        """Every handler, for the help pages."""
        for doors in self.doors.values():
            yield from doors.values()
