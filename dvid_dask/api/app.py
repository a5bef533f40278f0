"""The application: which request goes where, and how a synchronous handler answers on an event loop.

Handlers run in worker threads, so that they may block on disk or compute in a kernel that releases the GIL. Two sets of
threads: one for requests whose body is in memory already, one for bodies that stream in or out; a crowd of slow uploads
can fill the second and leaves the first alone.

The way to a thread and back takes longer than a lookup in what is cached. So handlers that say they are quick run on
the loop, in a store that is on a local disk: as long as they keep to a budget, and until they say that this request
isn't (see :meth:`dvid_dask.api.face.Call.needs_thread`).
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.responses import FileResponse, RedirectResponse, Response

from . import instances, nodes, repos, server
from .body import Body
from .config import ServerConfig
from .face import Awaits, Call, NeedsThread, Request, VersionRequest
from .faces import all_faces
from .failures import Unrouted, error_response
from .middleware import Blocked, CleanPath, Cors, Door, Failures
from .pages import page_of
from .repos import raise_mutation_ids
from .responses import Stream, empty
from .state import ServerState

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Receive, Scope, Send

    from dvid_dask.versions import Datastore

    from .face import Door as FaceDoor

__all__ = ["create_app"]

#: Seconds that a quick handler may take on the event loop, on average of the last few times; one that took more runs in
#: threads for the other time, and then gets another chance.
BUDGET = 0.002
PENALTY = 0.25

#: Paths at which no file of a web client can be, even where they are no endpoint.
WITHOUT_FILES = re.compile("/api/(server/[^/]+|node/[^/]+(/[^/]+)?|repo/[^/]+(/[^/]+){0,2})")


def create_app(datastore: Datastore, config: ServerConfig | None = None) -> Application:
    """The REST API over a datastore, as an ASGI application.

    Parameters
    ----------
    datastore : Datastore
        What to serve; it stays the caller's.
    config : ServerConfig, optional
        Default: no notes, no CORS, no admin.

    Returns
    -------
    Application
        A Starlette application; ``app.state.server`` is its :class:`~dvid_dask.api.state.ServerState`.

    Raises
    ------
    BadRequest
        The block list of the configuration can't be read.
    ConfigError
        The users can't be told apart as configured: a secret or a file is missing, a public version isn't committed.

    Examples
    --------
    >>> import dvid_dask
    >>> from starlette.testclient import TestClient
    >>> client = TestClient(create_app(dvid_dask.create("memory://app-example/")))
    >>> client.get("/api/heartbeat").text
    'OK'
    """
    state = ServerState(datastore, config)
    if state.config.min_mutation_id_start:
        for repo in datastore.repos.values():
            raise_mutation_ids(repo, state.config.min_mutation_id_start)
    all_faces()  # a wrong face is a defect to hear of now, not at the first request
    return Application(state)


class Application(Starlette):
    """Starlette with our layers alone: it has one route, so none of its own is needed to find it."""

    def __init__(self, state: ServerState) -> None:
        super().__init__()
        self.state.server = state
        self.dispatch = Dispatch(state)

    def build_middleware_stack(self) -> ASGIApp:
        """The layers around the dispatch; lifespan messages are Starlette's."""
        state: ServerState = self.state.server
        dispatch = self.dispatch

        async def http(scope: Scope, receive: Receive, send: Send) -> None:
            await (dispatch if scope["type"] == "http" else self.router)(scope, receive, send)

        layers: ASGIApp = Failures(CleanPath(Blocked(http, state)))
        if state.config.cors_domains:
            layers = Cors(layers, state.origins)
        return Door(layers, state)


class Pace:
    """How long a quick handler took the last few times. On the loop, a disk that is slow would hold up everybody.

    Examples
    --------
    >>> pace = Pace()
    >>> pace.took(0.0, 0.5)  # once may be chance: the machine had other things to do
    >>> pace.rests_until
    0.0
    >>> for begun in (1, 2, 3):
    ...     pace.took(begun, begun + 0.5)
    >>> pace.rests_until
    3.75
    """

    __slots__ = ("average", "rests_until", "warm")

    def __init__(self) -> None:
        #: whether it has run in a thread: the first time, loops are compiled or machine code is loaded
        self.warm = False
        self.average = 0.0
        self.rests_until = 0.0

    def took(self, begun: float, ended: float) -> None:
        """Note one more time."""
        self.average += (min(ended - begun, 5 * BUDGET) - self.average) / 16
        if self.average > BUDGET:
            self.average, self.rests_until = 0.0, ended + PENALTY


class Dispatch:
    """Runs the handler of each request, mostly in a thread, and sends what that returns."""

    def __init__(self, state: ServerState) -> None:
        self.state = state
        self._limiters: tuple[anyio.CapacityLimiter, anyio.CapacityLimiter] | None = None
        self._paces: dict[FaceDoor, Pace] = {}

    def limiters(self) -> tuple[anyio.CapacityLimiter, anyio.CapacityLimiter]:
        """Threads for requests, threads for streams. Made late: they belong to an event loop."""
        if self._limiters is None:
            workers = self.state.config.workers
            self._limiters = anyio.CapacityLimiter(workers), anyio.CapacityLimiter(workers)
        return self._limiters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = Body.of(scope, receive, self.state)
        if not body.small:
            await body.prefetch()
        path = scope["path"]
        if instances.is_instance_path(path):
            call = Call(self.state, scope, body)
            if body.small and self.state.near:
                answer = self.at_once(call)
                if answer is not None:
                    await answer(scope, receive, send)
                    return
            request: Request = call
            handler = self.at_instance
        else:
            request = VersionRequest(self.state, scope, body)
            handler = self.elsewhere
        direct, streams = self.limiters()
        scope["dvid.streams"] = streams
        response: Response | None = None
        try:
            response = await self.in_thread(handler, request, direct if body.small else streams)
            await response(scope, receive, send)
        finally:
            if isinstance(response, Stream):
                # generators end with commits and file handles: not on the loop, and not cut short
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(response.close, limiter=streams)
            request.close()

    @staticmethod
    async def in_thread(
        handler: Callable[[Request], Response], request: Request, limiter: anyio.CapacityLimiter
    ) -> Response:
        """The answer of a handler; again and again as long as it asks for what the loop has to find out first."""
        while True:
            try:
                return await anyio.to_thread.run_sync(handler, request, limiter=limiter)
            except Awaits as asked:
                await asked.learn(request.scope)

    @staticmethod
    def ready(request: Request, response: Response) -> Response:
        """The answer, with the first piece of a streamed one at hand: until then errors have a status.

        What the request holds is released when its work is done, not when the answer is out: a client that has all of
        it must find its throttle slot free.
        """
        if not isinstance(response, Stream):
            request.close()
        else:
            response.at_end = request.close
            try:
                response.start()
            except BaseException:
                response.close()
                raise
        return response

    def at_once(self, call: Call) -> Response | None:
        """Runs on the loop: the answer of a quick handler; None if a thread has to find it."""
        pace: Pace | None = None
        begun = time.perf_counter()
        try:
            with self.state.datastore.store.one_look():
                door = instances.find(call)
                pace = self.pace(door) if door.quick else None
                if pace is None:
                    return None
                if not pace.warm or pace.rests_until > begun:
                    call.warms = pace
                    return None
                call.on_loop = True
                response = door.handler(call)
                if isinstance(response, Stream):
                    raise TypeError(f"{door.keyword} is said to be quick and answers by a stream")
                call.close()
        except NeedsThread:
            call.undo()
            return None
        except Exception as error:
            call.close()
            response = error_response(error, call.scope)
        finally:
            if pace is not None and call.on_loop:
                call.on_loop = False
                pace.took(begun, time.perf_counter())
        return self.kept_private(self.marked(response), call.scope)

    def pace(self, door: FaceDoor) -> Pace:
        """How quick a handler has been."""
        pace = self._paces.get(door)
        if pace is None:
            pace = self._paces[door] = Pace()
        return pace

    def at_instance(self, request: Request) -> Response:
        """Runs in a thread: a request at a data instance."""
        try:
            reads = request.method in ("GET", "HEAD")
            with self.state.datastore.store.one_look() if reads else contextlib.nullcontext():
                response = self.ready(request, instances.answer(request))  # type: ignore[arg-type]
            if request.warms is not None:  # type: ignore[attr-defined]
                request.warms.warm = True  # type: ignore[attr-defined]
        except Awaits:
            request.undo()
            raise
        except Exception as error:
            request.close()
            response = error_response(error, request.scope)
        return self.kept_private(self.marked(response), request.scope)

    def marked(self, response: Response) -> Response:
        """With the header that lets scripts see how long it took, where the configuration says so."""
        if self.state.config.allow_timing:
            response.headers["Timing-Allow-Origin"] = "*"
        return response

    def kept_private(self, response: Response, scope: Scope) -> Response:
        """Not for caches that others share, where the answer depends on who asks."""
        if self.state.guard is not None:
            self.state.guard.mark(response, scope)
        return response

    def elsewhere(self, request: Request) -> Response:
        """Runs in a thread: any other request."""
        try:
            response = self.ready(request, self.route(request))
        except Awaits:
            request.undo()
            raise
        except Unrouted as error:
            try:
                response = self.options(request) or self.static(request) or error_response(error, request.scope)
            except Awaits:
                raise
            except Exception as failure:
                response = error_response(failure, request.scope)
        except Exception as error:
            request.close()
            response = error_response(error, request.scope)
        return self.kept_private(response, request.scope)

    def route(self, request: Request) -> Response:
        """The answer of the server's own endpoints."""
        path = request.path
        for table in (server.silent, server.routes, repos.top):
            found = table.find(request.method, path)
            if found is not None:
                route, request.params = found
                return route.handler(request)  # type: ignore[arg-type]
        parts = path.split("/")
        # a selector that names nothing is 400 under any action, so it is looked at before the action is
        if parts[1:2] == ["api"] and len(parts) > 3 and parts[3]:
            if parts[2] == "node" and len(parts) <= 5 and parts[-1]:
                return nodes.answer(request)  # type: ignore[arg-type]
            if parts[2] == "repo" and len(parts) <= 6 and parts[-1]:
                return repos.answer(request)  # type: ignore[arg-type]
        raise Unrouted

    def options(self, request: Request) -> Response | None:
        """OPTIONS where no endpoint takes it: the methods of the path."""
        if request.method != "OPTIONS":
            return None
        path = request.path
        if server.silent.methods(path):
            return None
        tables = (server.routes, repos.top, repos.routes, nodes.routes)
        methods = set(next(filter(None, (table.methods(path) for table in tables)), ()))
        if not WITHOUT_FILES.fullmatch(path):
            methods |= {"GET", "HEAD"}  # static files
        if not methods:
            return None
        response = empty()
        response.headers["Allow"] = ", ".join([*sorted(methods), "OPTIONS"])
        return response

    def static(self, request: Request) -> Response | None:
        """Files of the web client, where one is configured; else our own pages."""
        config = self.state.config
        if not config.web_client:
            return page_of(request)
        if request.method not in ("GET", "HEAD"):
            return None
        folder = Path(os.path.realpath(config.web_client))
        file = Path(os.path.realpath(folder / request.path.lstrip("/")))
        if file == folder or folder in file.parents:
            if file.is_dir():
                file = file / "index.html"
            if file.is_file():
                return FileResponse(file)
        if config.web_redirect_path:
            return RedirectResponse("/" + config.web_redirect_path.lstrip("/"), 308)
        if config.web_default_file:
            default = folder / config.web_default_file
            if default.is_file():
                return FileResponse(default)
        return None
