"""The application: which request goes where, and how a synchronous handler answers on an event loop.

Everything but ASGI plumbing happens in worker threads, so a handler may block on disk or compute in a kernel that
releases the GIL. Two sets of threads: one for requests whose body is in memory already, one for bodies that stream in
or out; a crowd of slow uploads can fill the second and leaves the first alone.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import Route

from . import instances, nodes, repos, server
from .config import ServerConfig
from .face import Body, Call, Request, VersionRequest
from .faces import all_faces
from .failures import Unrouted, error_response
from .middleware import Blocked, CleanPath, Cors, Door, Failures
from .repos import raise_mutation_ids
from .responses import Stream, empty
from .state import ServerState

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from dvid_dask.versions import Datastore

__all__ = ["create_app"]


def create_app(datastore: Datastore, config: ServerConfig | None = None) -> Starlette:
    """The REST API over a datastore, as an ASGI application.

    Parameters
    ----------
    datastore : Datastore
        What to serve; it stays the caller's.
    config : ServerConfig, optional
        Default: no notes, no CORS, no admin.

    Returns
    -------
    Starlette
        ``app.state.server`` is its :class:`~dvid_dask.api.state.ServerState`.

    Raises
    ------
    BadRequest
        The block list of the configuration can't be read.

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
    app = Starlette(
        routes=[Route("/{path:path}", Dispatch(state))],
        middleware=[
            Middleware(Door, server=state),
            Middleware(Cors, domains=state.config.cors_domains),
            Middleware(Failures),
            Middleware(CleanPath),
            Middleware(Blocked, server=state),
        ],
    )
    app.state.server = state
    return app


class Dispatch:
    """Hands each request to a thread that finds and runs its handler, and sends what that returns."""

    def __init__(self, state: ServerState) -> None:
        self.state = state
        self._limiters: tuple[anyio.CapacityLimiter, anyio.CapacityLimiter] | None = None

    def limiters(self) -> tuple[anyio.CapacityLimiter, anyio.CapacityLimiter]:
        """Threads for requests, threads for streams. Made late: they belong to an event loop."""
        if self._limiters is None:
            workers = self.state.config.workers
            self._limiters = anyio.CapacityLimiter(workers), anyio.CapacityLimiter(workers)
        return self._limiters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        direct, streams = self.limiters()
        scope["dvid.streams"] = streams
        body = Body.of(scope, receive, self.state)
        await body.prefetch()
        path = scope["path"]
        if instances.is_instance_path(path):
            request: Request = Call(self.state, scope, body)
            handler = self.at_instance
        else:
            request = VersionRequest(self.state, scope, body)
            handler = self.elsewhere
        response: Response | None = None
        try:
            response = await anyio.to_thread.run_sync(handler, request, limiter=direct if body.small else streams)
            await response(scope, receive, send)
        finally:
            if isinstance(response, Stream):
                # generators end with commits and file handles: not on the loop, and not cut short
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(response.close, limiter=streams)
            request.close()

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

    def at_instance(self, request: Request) -> Response:
        """Runs in a thread: a request at a data instance."""
        try:
            response = self.ready(request, instances.answer(request))  # type: ignore[arg-type]
        except Exception as error:
            request.close()
            response = error_response(error, request.scope)
        if self.state.config.allow_timing:
            response.headers["Timing-Allow-Origin"] = "*"
        return response

    def elsewhere(self, request: Request) -> Response:
        """Runs in a thread: any other request."""
        try:
            return self.ready(request, self.route(request))
        except Unrouted as error:
            return self.options(request) or self.static(request) or error_response(error, request.scope)
        except Exception as error:
            request.close()
            return error_response(error, request.scope)

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
        methods = next(filter(None, (table.methods(path) for table in tables)), [])
        if not methods and not path.startswith(("/api/server/", "/api/repo/", "/api/node/")):
            methods = ["GET", "HEAD"]  # static files
        if not methods:
            return None
        response = empty()
        response.headers["Allow"] = ", ".join([*methods, "OPTIONS"])
        return response

    def static(self, request: Request) -> Response | None:
        """Files of the web client, where one is configured."""
        config = self.state.config
        if not config.web_client or request.method not in ("GET", "HEAD"):
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
