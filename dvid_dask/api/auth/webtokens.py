"""Users by a JSON Web Token, signed with a secret that the server knows; and the file that lists users.

DVID's older modes: whoever has the secret makes tokens, and ``/api/server/token`` does.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

import jwt
import msgspec

from dvid_dask.api.config import ConfigError
from dvid_dask.errors import BadRequest

__all__ = ["Users", "WebTokens", "load_users"]

log = logging.getLogger(__name__)

#: Seconds for which a token is made.
LASTING = 30 * 24 * 3600.0
#: Bytes that a secret should have: as many as the longest hash (RFC 7518, section 3.2).
SAFE = 64
# signed with the secret; "none" and those with a public key, for which it would be no secret, are refused
_ALGORITHMS = ["HS256", "HS384", "HS512"]
# as in DVID: times count where they are there, and nothing but the user is asked of the rest
_OPTIONS = {f"verify_{claim}": False for claim in ("aud", "iss", "sub", "jti")}


class WebTokens:
    """Checks and makes tokens.

    Parameters
    ----------
    secret : str
        The key.

    Raises
    ------
    ConfigError
        It is empty, or a public key.

    Examples
    --------
    >>> tokens = WebTokens("not so secret, " * 5)
    >>> tokens.user_of(tokens.issue("ann@lab.org"))
    'ann@lab.org'
    """

    def __init__(self, secret: str) -> None:
        if not secret:
            raise ConfigError(
                "tokens need a secret that signs them: put one into the environment variable DVID_JWT_SECRET_KEY"
            )
        if len(secret.encode()) < SAFE:
            log.warning("DVID_JWT_SECRET_KEY has fewer than %d bytes: who has one token may find it out", SAFE)
        self._secret = secret.encode()
        try:
            self.user_of(self.issue("somebody"))
        except (BadRequest, jwt.PyJWTError) as error:
            raise ConfigError(f"the secret in DVID_JWT_SECRET_KEY can't be used: {error}") from None

    def issue(self, user: str, now: float | None = None) -> str:
        """A token for a user, good for `LASTING` seconds."""
        moment = int(time.time() if now is None else now)
        claims = {"user": user, "iat": moment, "exp": moment + int(LASTING)}
        return jwt.encode(claims, self._secret, algorithm="HS512")

    def user_of(self, token: str) -> str:
        """Whose token it is.

        Raises
        ------
        BadRequest
            It isn't ours, not valid now, or names no user: DVID answers all of these with 400.
        """
        try:
            claims = jwt.decode(token, self._secret, algorithms=_ALGORITHMS, options=_OPTIONS)  # type: ignore[arg-type]
        except (jwt.PyJWTError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
            raise BadRequest(f"the token can't be used: {error}") from None
        user = claims.get("user")
        if not isinstance(user, str) or not user:
            raise BadRequest('the token names no user: its claim "user" must be a text')
        return user


class Users(msgspec.Struct, frozen=True):
    """Who may do what, by name; ``*`` stands for all who have a token.

    Examples
    --------
    >>> users = Users({"ann": "readwrite", "*": "read"})
    >>> users.may("ann", write=True), users.may("bob", write=True), users.may("bob", write=False)
    (True, False, True)
    """

    rights: dict[str, str]

    def may(self, user: str, *, write: bool) -> bool:
        """Whether a user may write, or read."""
        right = self.rights.get(user) or self.rights.get("*", "")
        return right == "readwrite" or right == ("write" if write else "read")


def load_users(path: str) -> Users:
    """The users in a file.

    Raises
    ------
    BadRequest
        It can't be read, or is no JSON object of ``read``, ``write`` and ``readwrite``.
    """
    try:
        rights = msgspec.json.decode(Path(path).read_bytes(), type=dict[str, str])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise BadRequest(f"the authorization file {Path(path).absolute()} can't be read: {error}") from None
    for user, right in rights.items():
        if right not in ("read", "write", "readwrite"):
            raise BadRequest(
                f'the authorization file {path} gives {user[:80]} the right "{right[:40]}": expected read, write or '
                "readwrite"
            )
    return Users(rights)
