"""The server process: uvicorn with a shutdown that lets writes finish."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import uvicorn

import dvid_dask

from .app import create_app
from .auth import guard_of
from .config import ConfigError, ServerConfig
from .kafka import publishing
from .origins import Origins
from .processes import serve_in_processes
from .protocol import Lane, protocol
from .warming import start_warming

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.sharedctypes import Synchronized
    from types import FrameType

    from dvid_dask.versions import Datastore

    from .kafka import KafkaPublisher
    from .state import ServerState

__all__ = ["Server", "serve"]

log = logging.getLogger(__name__)

#: Seconds without a request after which memory that nothing uses goes back to the system.
_IDLE = 5.0


def serve(
    store: str | os.PathLike[str] | Datastore,
    host: str | None = None,
    port: int | None = None,
    config: ServerConfig | None = None,
    *,
    announce: Callable[[str], None] = print,
    processes: int = 1,
) -> None:
    """Serve a store until the process is told to stop (SIGTERM, SIGINT).

    Requests in flight then get ``config.shutdown_delay`` seconds to finish, new ones 503; a second signal ends at once.

    Parameters
    ----------
    store : str, path or Datastore
        What to serve; a path or URL is opened.
    host, port
        Where to listen; default: as configured, else 127.0.0.1:8000. Port 0 takes a free one.
    config : ServerConfig, optional
        The admin token and the secret of web tokens are taken from the environment, ``DVID_ADMIN_TOKEN`` and
        ``DVID_JWT_SECRET_KEY``, where the configuration has none.
    announce : callable
        Gets one line that says where the server listens, once it does.
    processes : int
        How many processes serve, on one port. More than one needs a store by path or URL, and not one in memory.

    Raises
    ------
    ConfigError
        The address is no ``host:port``, or can't be listened on; Kafka is configured and its client is missing or
        refuses the configuration; users are to be asked for and the secret, their file or a public version isn't there.
    """
    config = config or ServerConfig()
    if not config.admin_token:
        config = msgspec.structs.replace(config, admin_token=os.environ.get("DVID_ADMIN_TOKEN", ""))
    if not config.auth.jwt_secret:
        secret = os.environ.get("DVID_JWT_SECRET_KEY", "")
        config = msgspec.structs.replace(config, auth=msgspec.structs.replace(config.auth, jwt_secret=secret))
    at, number = split_address(config.http_address)
    at, number = host if host is not None else at, port if port is not None else number
    if processes > 1 and (not isinstance(store, (str, os.PathLike)) or os.fspath(store).startswith("memory:")):
        raise ConfigError("several processes can serve a store on disk or in a bucket, by its path or URL")
    with contextlib.ExitStack() as held:
        if isinstance(store, (str, os.PathLike)):
            datastore = held.enter_context(dvid_dask.open(os.fspath(store), read_only=config.nobody_writes))
        else:
            datastore = store
        if processes > 1:
            # in one, the application finds it out before it serves
            guard_of(datastore, config, Origins())
        listener = held.enter_context(_listen(at, number))
        url = datastore.store.url
        said = f"Serving {url} on http://{_shown(listener)} (Ctrl-C stops)"
        held.enter_context(_pid_file(config.pid_file))
        if processes > 1:
            whole = serve_in_processes(url, config, listener, processes, lambda: announce(said))
        else:
            with publishing(datastore, config) as publisher:
                whole = run(datastore, config, listener, lambda: announce(said), publisher)
        if not whole:
            # threads still at work would keep the process alive; commits are all or nothing, so nothing waits for them
            logging.shutdown()
            os._exit(1)


def run(
    datastore: Datastore,
    config: ServerConfig,
    listener: socket.socket,
    on_ready: Callable[[], None],
    publisher: KafkaPublisher | None,
    reloads: Synchronized[int] | None = None,
) -> bool:
    """Serve in this process until told to stop; returns whether all requests could finish."""
    app = create_app(datastore, config)
    if app.state.server.guard is not None:
        app.state.server.guard.reloads = reloads
    if publisher is not None:
        app.state.server.record_activity = publisher.activity
    options = uvicorn.Config(
        app,
        http=protocol(Lane(app.dispatch)),
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # who asks through a proxy is found out by `client_address`
    )
    server = Server(app.state.server, options)
    host, port = listener.getsockname()[:2]
    app.state.server.listening = f"{host}:{port}"
    server.on_ready = on_ready
    server.run(sockets=[listener])
    return not server.broke_off


def _shown(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def start_logging(config: ServerConfig, level: int = logging.INFO) -> None:
    """Log to the terminal, or to the file that the configuration names."""
    form = "%(asctime)s %(levelname)s %(message)s"
    if config.log_file:
        logging.basicConfig(level=level, format=form, filename=config.log_file, force=True)
    else:
        logging.basicConfig(level=level, format=form, force=True)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)


def split_address(address: str) -> tuple[str, int]:
    """``host:port``, ``:port`` or ``[v6]:port``; an empty host is the loopback interface.

    Examples
    --------
    >>> split_address("localhost:8000"), split_address(":80"), split_address("[::1]:0")
    (('localhost', 8000), ('127.0.0.1', 80), ('::1', 0))
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f'"{address}" is no address: expected host:port')
    return host.strip("[]") or "127.0.0.1", int(port)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, proto)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(2048)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise ConfigError(f"can't listen on {host}:{port}: {error.strerror or error}") from None
    return listener


class _pid_file:  # noqa: N801  used as a function
    def __init__(self, path: str) -> None:
        self.path = Path(path) if path else None

    def __enter__(self) -> None:
        if self.path:
            self.path.write_text(f"{os.getpid()}\n")

    def __exit__(self, *exc: object) -> None:
        if self.path:
            self.path.unlink(missing_ok=True)


def _trimmer() -> Callable[[], object]:
    """Gives the pages of freed memory back to the system, where the C library can."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return lambda: None
    return lambda: trim(0)


class Server(uvicorn.Server):
    """uvicorn, but told to stop it first answers 503 to new requests and lets those in flight finish."""

    def __init__(self, state: ServerState, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.state = state
        self.on_ready: Callable[[], None] = lambda: None
        self.broke_off = False
        self._draining: asyncio.Task[None] | None = None
        self._trim = _trimmer()
        self._served = self._trimmed = 0
        self._quiet_since = time.monotonic()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.on_ready()
            sys.stdout.flush()
            start_warming(self.state.datastore)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.state.available:
            # asked twice
            self.broke_off = self.state.in_flight > 0
            self.force_exit = self.should_exit = True
            return
        self.state.available = False
        log.info("%s: finishing %d requests", signal.Signals(sig).name, self.state.in_flight)

    async def on_tick(self, counter: int) -> bool:
        self._tidy()
        if not self.state.available and self._draining is None:
            self._draining = asyncio.create_task(self._drain())
        return await super().on_tick(counter)

    def _tidy(self) -> None:
        """Give memory back that large requests have left behind, once nobody asks: the allocator keeps it."""
        served, now = self.server_state.total_requests, time.monotonic()
        if served != self._served or self.state.in_flight:
            self._served, self._quiet_since = served, now
        elif served != self._trimmed and now - self._quiet_since > _IDLE:
            self._trimmed = served
            self._trim()

    async def _drain(self) -> None:
        deadline = time.monotonic() + self.state.config.shutdown_delay
        while self.state.in_flight and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        if self.state.in_flight:
            log.warning("%d requests did not finish in time and are broken off", self.state.in_flight)
            self.broke_off = self.force_exit = True
        self.should_exit = True
