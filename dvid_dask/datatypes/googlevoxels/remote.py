"""Requests to the BrainMaps service: signed with a service account's key, limited in time and number.

The key is a JSON file of Google's on the server's disk. Only its path is kept in the store. Where requests go is for
whoever put that file there to say: to Google, or where its member ``brainmaps_url`` points.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from dvid_dask.errors import BadRequest, NotSupported, TooBusy, Unavailable

if TYPE_CHECKING:
    from google.auth.transport.requests import AuthorizedSession

__all__ = ["MAX_ANSWER", "Remote", "list_volumes"]

URL = "https://brainmaps.googleapis.com/v1"
SCOPE = "https://www.googleapis.com/auth/brainmaps"
CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
"""Without a byte."""

MAX_ANSWER = 1 << 29
"""Bytes of an answer that is taken into memory."""

REQUESTS = 16
"""That a process has under way: a slow service must not hold all threads of this server."""

_NO_KEY = "there is no service account's key (a JSON file of Google's) at {!r} on this server"
_RETRIES = 2
_BACKOFF = 0.2
_PIECE = 1 << 20
_slots = threading.BoundedSemaphore(REQUESTS)


class Remote:
    """The service, as one key sees it.

    Parameters
    ----------
    keyfile
        Path of a service account's key.

    Raises
    ------
    BadRequest
        No such file, or no key of a service account.
    NotSupported
        The library that signs requests isn't installed.
    """

    def __init__(self, keyfile: str) -> None:
        try:
            changed = Path(keyfile).stat().st_mtime_ns
        except (OSError, ValueError):
            raise BadRequest(_NO_KEY.format(keyfile)) from None
        self._session, self._url = _session(keyfile, changed)

    def get(self, path: str) -> bytes:
        """An answer to GET."""
        with self._answer("GET", path, None) as answer:
            return b"".join(_pieces(answer, MAX_ANSWER))

    def post(self, path: str, body: dict[str, Any], *, expected: int | None = None) -> bytes:
        """An answer to POST of JSON, of so many bytes if that is known.

        Raises
        ------
        BadRequest
            The service refuses the request.
        Unavailable
            It doesn't answer, answers slowly, breaks off, or has an error of its own.
        TooBusy
            Too many requests to it are under way.
        """
        return b"".join(self.stream(path, body, expected=expected))

    def stream(self, path: str, body: dict[str, Any], *, expected: int | None = None) -> Iterator[bytes]:
        """As `post`, in pieces."""
        with self._answer("POST", path, body) as answer:
            taken = 0
            for piece in _pieces(answer, MAX_ANSWER if expected is None else expected):
                taken += len(piece)
                yield piece
            if expected is not None and taken != expected:
                raise Unavailable(f"BrainMaps sent {taken} of {expected} bytes")

    @contextlib.contextmanager
    def _answer(self, method: str, path: str, body: dict[str, Any] | None) -> Iterator[Any]:
        import google.auth.exceptions
        import requests

        if not _slots.acquire(timeout=CONNECT_SECONDS):
            raise TooBusy(f"{REQUESTS} requests to BrainMaps are under way, as many as are allowed: try again later")
        try:
            with self._session.request(
                method,
                f"{self._url}/{path}",
                data=None if body is None else msgspec.json.encode(body),
                headers={} if body is None else {"Content-Type": "application/json"},
                timeout=(CONNECT_SECONDS, READ_SECONDS),
                max_allowed_time=CONNECT_SECONDS + 2 * READ_SECONDS,
                stream=True,
            ) as answer:
                _check(answer)
                yield answer
        except google.auth.exceptions.RefreshError as error:
            raise BadRequest(f"the service account's key is refused: {str(error.args[0])[:300]}") from None
        except (google.auth.exceptions.GoogleAuthError, requests.exceptions.RequestException) as error:
            raise Unavailable(f"BrainMaps doesn't answer: {type(error).__name__}: {str(error)[:300]}") from None
        finally:
            _slots.release()


def list_volumes(keyfile: str) -> Any:
    """The volumes that a service account may read, as the service lists them.

    Parameters
    ----------
    keyfile
        Path of the account's key.

    Raises
    ------
    BadRequest, Unavailable
        As `Remote`.
    """
    try:
        return msgspec.json.decode(Remote(keyfile).get("volumes"))
    except msgspec.DecodeError as error:
        raise Unavailable(f"BrainMaps' list of volumes can't be read: {error}") from None


def _check(answer: Any) -> None:
    status = answer.status_code
    if status == 200:
        return
    said = b"".join(_pieces(answer, 1 << 12, cut=True)).decode(errors="replace").strip()[:300]
    if status in (429, 500, 502, 503, 504):
        raise Unavailable(f"BrainMaps answers {status}: {said}")
    raise BadRequest(f"BrainMaps refuses the request with {status}: {said}")


def _pieces(answer: Any, limit: int, *, cut: bool = False) -> Iterator[bytes]:
    taken = 0
    for piece in answer.iter_content(_PIECE):
        taken += len(piece)
        if taken > limit:
            if cut:
                return
            raise Unavailable(f"BrainMaps sent more than the {limit} bytes that were expected")
        yield piece


@functools.lru_cache(maxsize=16)
def _session(keyfile: str, changed: int) -> tuple[AuthorizedSession, str]:
    """The session of a key, made anew when its file has changed."""
    try:
        from google.auth.transport.requests import AuthorizedSession
        from google.oauth2 import service_account
        from requests.adapters import HTTPAdapter
        from urllib3.util import Retry
    except ImportError:
        raise NotSupported("googlevoxels needs google-auth: pip install 'dvid-dask[brainmaps]'") from None
    try:
        info = msgspec.json.decode(Path(keyfile).read_bytes(), type=dict[str, Any])
        credentials = service_account.Credentials.from_service_account_info(info, scopes=[SCOPE])
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        # not a word of what the file holds, or whether there is one: it may be any file of this machine
        raise BadRequest(_NO_KEY.format(keyfile)) from error
    session = AuthorizedSession(credentials, refresh_timeout=READ_SECONDS)
    # the service's POSTs are reads as well
    retry = Retry(
        total=_RETRIES,
        backoff_factor=_BACKOFF,
        status_forcelist=(429, 500, 502, 503, 504),
        allowed_methods=None,
        raise_on_status=False,
        respect_retry_after_header=False,
    )
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry, pool_maxsize=REQUESTS))
    return session, str(info.get("brainmaps_url") or URL).rstrip("/")
