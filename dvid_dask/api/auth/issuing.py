"""Tokens for those whom an authenticating proxy knows.

The proxy answers ``GET /profile`` with the e-mail address of whoever its cookies belong to; that one gets a JSON Web
Token.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import httpx2
import msgspec

from dvid_dask.api.config import ConfigError
from dvid_dask.api.face import learned
from dvid_dask.errors import BadRequest

from .fetching import fetch
from .webtokens import WebTokens

if TYPE_CHECKING:
    from dvid_dask.api.config import AuthConfig
    from dvid_dask.api.face import Request

__all__ = ["token_for"]

log = logging.getLogger(__name__)

#: Seconds that the proxy may take, and bytes of its answer.
PATIENCE = 10.0
LIMIT = 1 << 20


class _Profile(msgspec.Struct):
    email: str = msgspec.field(name="Email", default="")


def token_for(request: Request) -> str:
    """A token for whoever asks.

    Raises
    ------
    BadRequest
        This server issues none, or the proxy doesn't know who asks.
    """
    auth = request.server.config.auth
    if auth.mode == "dsg":
        raise BadRequest("this server takes the DatasetGateway's own tokens and issues none")
    if not auth.proxy_address:
        raise BadRequest(
            "this server issues no tokens: no proxy is configured that could tell who asks (auth.proxy_address)"
        )
    try:
        tokens = WebTokens(auth.jwt_secret)
    except ConfigError as error:
        raise BadRequest(f"this server issues no tokens: {error}") from None
    cookies = request.headers.get("cookie", "")
    if not cookies:
        raise BadRequest(f"log in at {auth.proxy_address} first: the request has no cookies to ask it with")
    user = learned(request, "dvid.profile", lambda: _email(auth, cookies))
    log.info("a token is issued for %r", user)
    return tokens.issue(user)


async def _email(auth: AuthConfig, cookies: str) -> str:
    where = auth.proxy_address
    try:
        # whom the system trusts, or the file that SSL_CERT_FILE names: who can answer for the proxy makes tokens
        tls = httpx2.create_ssl_context()
        reply = await fetch(f"https://{where}/profile", {"Cookie": cookies}, PATIENCE, LIMIT, tls)
    except (OSError, ValueError) as error:
        raise BadRequest(f"the proxy {where} can't be asked who you are: {error}") from None
    if reply.status != 200:
        raise BadRequest(f"the proxy {where} answers with status {reply.status}: log in there first")
    try:
        profile = msgspec.json.decode(reply.body, type=_Profile)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the profile of the proxy {where} can't be read: {error}") from None
    if not profile.email:
        raise BadRequest(f"the proxy {where} tells no e-mail address")
    return profile.email
