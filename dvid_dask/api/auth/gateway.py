"""Users by a token of the DatasetGateway (DSG): the service is asked who a token belongs to, and what that one may.

Its answer holds for a while; a failure is never kept. However many requests come with one token at once, it is asked
once. The question is awaited on the event loop, so that a slow service holds up those alone who wait for its answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from typing import TYPE_CHECKING

import httpx2
import msgspec

from dvid_dask.api.failures import AuthServiceFailed, Unauthenticated
from dvid_dask.errors import BadRequest, TooBusy
from dvid_dask.versions.feed import Seldom

from .fetching import Reply, fetch

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable

__all__ = ["Gateway", "GatewayUser"]

log = logging.getLogger(__name__)

#: Seconds that the service may take.
PATIENCE = 10.0
#: Users that are remembered, and questions that may be open at once.
MANY = 10_000
OPEN = 256
#: Bytes of its answer: the largest lists some thousand datasets.
LIMIT = 4 << 20

_ALL = frozenset({"admin", "manage", "edit"})


class GatewayUser(msgspec.Struct, frozen=True):
    """A user as the service describes one; keys that mean nothing here are passed over.

    Attributes
    ----------
    email : str
    admin : bool
        Whether this one may do everything.
    permissions_v2 : dict of str to list of str
        By dataset: ``view``, ``edit``, ``manage``, ``admin``.
    datasets_admin : list of str
        Datasets in which this one may do everything.
    """

    email: str | None = ""
    admin: bool | None = False
    permissions_v2: dict[str, list[str] | None] | None = None
    datasets_admin: list[str] | None = None

    def may(self, dataset: str, *, write: bool) -> bool:
        """Whether the user may read, or write, a dataset.

        Examples
        --------
        >>> ann = GatewayUser("ann@lab.org", permissions_v2={"fly": ["view"]})
        >>> ann.may("fly", write=False), ann.may("fly", write=True), ann.may("mouse", write=False)
        (True, False, False)
        """
        if dataset in (self.datasets_admin or ()):
            return True
        held: Iterable[str] = (self.permissions_v2 or {}).get(dataset) or ()
        return any(p in _ALL or (p == "view" and not write) for p in held)


class Gateway:
    """The service and what it said lately.

    Parameters
    ----------
    address : str
        Its URL; empty: no token is good.
    lasting : float
        Seconds for which its answers hold.
    """

    def __init__(self, address: str, lasting: float) -> None:
        self._address = address
        self._lasting = lasting
        self._known: dict[bytes, tuple[float, GatewayUser]] = {}
        self._asking: dict[bytes, asyncio.Task[GatewayUser]] = {}
        # made once: to read what the system trusts takes longer than a question
        self._tls: ssl.SSLContext = httpx2.create_ssl_context()
        self._say = Seldom(log)

    def known(self, token: str) -> GatewayUser | None:
        """Who a token belongs to, where that is known. From any thread."""
        key = _key(token)
        found = self._known.get(key)
        if found is None:
            return None
        until, user = found
        if time.monotonic() >= until:
            self._known.pop(key, None)
            return None
        return user

    def forget(self) -> None:
        """Ask anew from now on. From any thread; an answer that is under way is not kept."""
        self._known = {}

    async def ask(self, token: str) -> GatewayUser:
        """Who a token belongs to.

        Raises
        ------
        Unauthenticated
            Nobody, says the service.
        AuthServiceFailed
            It can't be reached, is too slow or fails.
        BadRequest
            It answers what can't be read, or its address isn't configured.
        TooBusy
            Too many questions are open.
        """
        key = _key(token)
        loop = asyncio.get_running_loop()
        task = self._asking.get(key)
        if task is None or task.done() or task.get_loop() is not loop:
            if len(self._asking) >= OPEN:
                raise TooBusy("too many tokens are being looked at: try again later")
            task = self._asking[key] = loop.create_task(self._find(key, token))
            task.add_done_callback(lambda done: self._asked(key, done))
        # who leaves doesn't take the answer from others who wait for it
        return await asyncio.shield(task)

    def _asked(self, key: bytes, done: asyncio.Task[GatewayUser]) -> None:
        if self._asking.get(key) is done:
            del self._asking[key]
        if not done.cancelled():
            done.exception()  # it was heard of, if anybody still waited

    async def _find(self, key: bytes, token: str) -> GatewayUser:
        known = self._known
        user = _user_of(await self._reply(token))
        while len(known) >= MANY:
            known.pop(next(iter(known), b""), None)  # the one that expires first
        known[key] = time.monotonic() + self._lasting, user
        return user

    async def _reply(self, token: str) -> Reply:
        if not self._address:
            raise BadRequest("this server has no address of a DatasetGateway (auth.dsg_address), so no token is good")
        url = f"{self._address.rstrip('/')}/api/v1/user/cache"
        try:
            reply = await fetch(url, {"Authorization": f"Bearer {token}"}, PATIENCE, LIMIT, self._tls)
        except (OSError, ValueError) as error:
            self._say("the DatasetGateway at %s can't be asked: %s", self._address, error)
            raise AuthServiceFailed(f"the DatasetGateway can't be asked: {error}") from None
        if reply.status in (401, 403):
            raise Unauthenticated("the DatasetGateway doesn't know this token")
        if reply.status != 200:
            self._say("the DatasetGateway at %s answers with status %d", self._address, reply.status)
            raise AuthServiceFailed(f"the DatasetGateway answers with status {reply.status}")
        return reply


def _key(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _user_of(reply: Reply) -> GatewayUser:
    try:
        return msgspec.json.decode(reply.body, type=GatewayUser)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the DatasetGateway's answer can't be read: {error}") from None
