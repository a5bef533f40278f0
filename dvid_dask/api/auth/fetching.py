"""One GET at a service that knows users: bounded in time and size, and never led elsewhere."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

import httpx2

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

__all__ = ["Reply", "fetch"]


class Reply(NamedTuple):
    """What a service answered."""

    status: int
    body: bytes


async def fetch(url: str, headers: Mapping[str, str], patience: float, limit: int, tls: ssl.SSLContext) -> Reply:
    """Ask, with what proves who asks; a redirect is an answer like any other, as it could lead to somebody else.

    Parameters
    ----------
    url : str
    headers : mapping of str to str
    patience : float
        Seconds for all of it.
    limit : int
        Bytes of the body.
    tls : SSLContext
        Who is trusted.

    Raises
    ------
    OSError
        The service can't be reached, breaks off, or takes longer.
    ValueError
        The answer is too long.
    """
    try:
        async with (
            asyncio.timeout(patience),
            httpx2.AsyncClient(verify=tls, timeout=patience, follow_redirects=False) as client,
            client.stream("GET", url, headers={"Accept-Encoding": "identity", **headers}) as answer,
        ):
            body = bytearray()
            async for piece in answer.aiter_raw():
                body += piece
                if len(body) > limit:
                    raise ValueError(f"its answer is longer than {limit} bytes")
            return Reply(answer.status_code, bytes(body))
    except TimeoutError:
        raise OSError(f"no answer within {patience:g} seconds") from None
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise OSError(str(error) or type(error).__name__) from None
