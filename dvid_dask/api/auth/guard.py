"""Decides which requests need a user, and what that one may read or write.

For a request at a repository or a version, in this order: a read of a public version is for everybody; where the mode
that holds for the request is ``none``, everything is; else it must prove who it comes from, and that one must be
allowed to do this in that repository. What shows repositories otherwise shows strangers the public versions.
"""

from __future__ import annotations

import ipaddress
import logging
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from starlette.requests import cookie_parser

from dvid_dask.api.config import ConfigError
from dvid_dask.api.failures import NotPermitted, Unauthenticated
from dvid_dask.errors import AmbiguousVersion, BadRequest, DvidError, UnknownVersion

from .public import public_versions

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized

    from starlette.responses import Response
    from starlette.types import Scope

    from dvid_dask.api.config import AuthConfig, ServerConfig
    from dvid_dask.api.face import Request
    from dvid_dask.api.origins import Origins
    from dvid_dask.versions import Datastore, Repo, Version

    from .gateway import Gateway, GatewayUser
    from .webtokens import Users, WebTokens

__all__ = ["READS", "Guard", "guard_of", "visible_of"]

log = logging.getLogger(__name__)

#: Methods that only read, unless a handler says otherwise.
READS = frozenset({"GET", "HEAD", "OPTIONS"})
#: Bytes of a token; no token of any kind comes near.
LONGEST = 8192


class Caller(NamedTuple):
    """Who asks."""

    name: str
    gateway: GatewayUser | None = None


class Guard:
    """Lets requests pass, or refuses them.

    Parameters
    ----------
    datastore : Datastore
    auth : AuthConfig
    origins : Origins
        Pages of which may change something in the name of whoever looks at them.

    Attributes
    ----------
    public : frozenset of str
        UUIDs of the versions that everybody may read.
    reloads : Synchronized or None
        Counts how often `reload` was asked for, over all processes that serve.

    Raises
    ------
    ConfigError
        A secret or a file is missing, or a public version isn't committed.
    """

    def __init__(self, datastore: Datastore, auth: AuthConfig, origins: Origins) -> None:
        self.auth = auth
        self.protects = auth.mode != "none"
        self.public = public_versions(datastore, auth.public_versions)
        self.reloads: Synchronized[int] | None = None
        self._reloaded = 0
        self._origins = origins
        self._networks = [ipaddress.ip_network(network, strict=False) for network in auth.trusted_proxies]
        self._tokens: WebTokens | None = None
        self._users: Users | None = None
        self._gateway: Gateway | None = None
        modes = auth.modes
        if modes & {"token", "authfile"}:
            from .webtokens import WebTokens, load_users

            try:
                self._tokens = WebTokens(auth.jwt_secret)
                if "authfile" in modes:
                    if not auth.auth_file:
                        raise ConfigError("auth.auth_file must name the file of users")
                    self._users = load_users(auth.auth_file)
            except (ConfigError, BadRequest) as error:
                raise ConfigError(f"authentication by {' and '.join(sorted(modes))}: {error}") from None
        if "dsg" in modes:
            from .gateway import Gateway

            lasting = auth.dsg_cache_ttl if auth.dsg_cache_ttl > 0 else 300
            self._gateway = Gateway(auth.dsg_address, lasting)
            self._warn_of_gateway(datastore)

    def _warn_of_gateway(self, datastore: Datastore) -> None:
        auth = self.auth
        url = urlsplit(auth.dsg_address)
        if not auth.dsg_address:
            log.warning("auth.dsg_address is empty: nobody is known, so only public versions can be read")
        elif url.scheme == "http" and url.hostname not in ("localhost", "127.0.0.1", "::1"):
            log.warning("auth.dsg_address is no https address: tokens can be read on their way")
        roots = {repo.record.root for repo in datastore.state(0).repos.values()}
        for root in auth.dataset_map.keys() - roots:
            log.warning("auth.dataset_map: %s is the root of no repository here", root)
        for root in roots - auth.dataset_map.keys():
            log.warning("auth.dataset_map doesn't name repository %s: it is closed to all but administrators", root)

    # ------------------------------------------------------------------ what the doors ask

    def select(self, among: Datastore | Repo, selector: str) -> Version:
        """The version that a selector names; where it names none, strangers aren't told what there is instead.

        Raises
        ------
        UnknownVersion, AmbiguousVersion, BadRequest
        """
        try:
            return among[selector]
        except UnknownVersion:
            raise UnknownVersion(f"no version answers to {selector[:80]!r}") from None
        except AmbiguousVersion:
            raise AmbiguousVersion(f"{selector[:80]!r} names more than one version: give more of the UUID") from None

    def check(self, request: Request, version: Version, *, write: bool) -> None:
        """Refuse a request at a version if it has no right to it.

        Parameters
        ----------
        request : Request
        version : Version
        write : bool
            Whether it would change something.

        Raises
        ------
        Unauthenticated
            It is not known who asks (401).
        NotPermitted
            That one may not do this (403).
        BadRequest
            The web token is missing or no good, or its user may not do this (400, as in DVID).
        AuthServiceFailed
            Nobody can tell who asks (502).
        Awaits
            The gateway has to be asked.
        """
        if self.protects and (write or version.uuid not in self.public):
            mode = self._mode(request.scope)
            if mode != "none":
                request.scope["dvid.private"] = True
                caller = self._caller(request, mode)
                request.scope["dvid.user"] = caller.name
                self._permit(caller, mode, version.repo, write)
        if write:
            # handlers ask for it when they have read the body, and the gateway can't be asked then
            self.is_admin(request)

    def is_admin(self, request: Request) -> bool:
        """Whether a request comes from an administrator of the gateway.

        Raises
        ------
        Awaits
            The gateway has to be asked.
        """
        if self._gateway is None:
            return False
        try:
            user = self._gateway_user(request)
        except DvidError:
            return False
        request.scope["dvid.private"] = True
        request.scope.setdefault("dvid.user", user.email or "")
        return bool(user.admin)

    def visible(self, request: Request, repo: Repo) -> frozenset[str] | None:
        """UUIDs of the versions that may be shown to who asks; None: all of this repository.

        Raises
        ------
        Awaits
            The gateway has to be asked.
        """
        mode = self._mode(request.scope)
        if mode == "none":
            return None
        request.scope["dvid.private"] = True
        if request.admin:
            return None
        try:
            caller = self._caller(request, mode)
            self._permit(caller, mode, repo, request.method not in READS)
        except DvidError:
            return self.public
        return None

    def mark(self, response: Response, scope: Scope) -> None:
        """Keep an answer that depends on who asks out of caches that others share."""
        if "dvid.private" in scope:
            said = response.headers.get("Cache-Control", "no-cache")
            rest = [part for part in said.split(", ") if part not in ("public", "private")]
            response.headers["Cache-Control"] = ", ".join(["private", *rest])
            response.headers.append("Vary", "Authorization, Cookie")

    def reload(self) -> str:
        """Read the file of users again and forget what the gateway said, in all processes that serve.

        Returns
        -------
        str
            What was done.

        Raises
        ------
        BadRequest
            The file is bad; the old rules stay.
        """
        self._reload()
        if self.reloads is not None:
            with self.reloads.get_lock():
                self.reloads.value += 1
        said = []
        if self._users is not None:
            said.append(f"authorization file read again from {self.auth.auth_file}\n")
        if self._gateway is not None:
            said.append("users of the DatasetGateway are asked for anew\n")
        return "".join(said) or "nothing to read again: there is neither an authorization file nor a gateway\n"

    # ------------------------------------------------------------------ how it decides

    def _mode(self, scope: Scope) -> str:
        """What holds for a request."""
        auth = self.auth
        if not auth.enforce_internal:
            return auth.mode
        if _header(scope, b"x-dvid-internal").lower() != "true":
            return auth.mode
        return auth.internal_mode if self._trusts(scope) else auth.mode

    def _trusts(self, scope: Scope) -> bool:
        if not self._networks:
            return True
        client = scope.get("client")
        try:
            address: Any = ipaddress.ip_address(client[0] if client else "")
        except ValueError:
            return False
        address = getattr(address, "ipv4_mapped", None) or address
        return any(address in network for network in self._networks)

    def _caller(self, request: Request, mode: str) -> Caller:
        self._keep_up()
        if mode == "dsg":
            user = self._gateway_user(request)
            return Caller(user.email or "", user)
        known = request.scope.get("dvid.caller")
        if known is None:
            known = request.scope["dvid.caller"] = self._web_caller(request.scope)
        if isinstance(known, DvidError):
            raise known
        found: Caller = known
        return found

    def _web_caller(self, scope: Scope) -> Caller | DvidError:
        token = _bearer(scope)
        try:
            if not token or self._tokens is None:
                raise BadRequest("a JSON Web Token is needed: Authorization: Bearer <token>")
            if len(token) > LONGEST:
                raise BadRequest(f"the token is longer than {LONGEST} bytes")
            return Caller(self._tokens.user_of(token))
        except DvidError as error:
            return error

    def _gateway_user(self, request: Request) -> GatewayUser:
        from dvid_dask.api.face import learned

        gateway = self._gateway
        if gateway is None:
            raise Unauthenticated("no DatasetGateway is configured")
        token = self._gateway_token(request.scope)
        found = request.scope.get("dvid.gateway")
        if found is None:
            self._keep_up()
            found = gateway.known(token)
            if found is not None:
                request.scope["dvid.gateway"] = found
        return learned(request, "dvid.gateway", lambda: gateway.ask(token))

    def _gateway_token(self, scope: Scope) -> str:
        token = _bearer(scope)
        if not token:
            token = cookie_parser(_header(scope, b"cookie")).get("dsg_token", "")
            if token and scope["method"] not in READS and self._is_foreign(scope):
                # a browser sends the cookie along whatever page makes it do so
                raise Unauthenticated("a page of another origin may change nothing by your cookie: see corsDomains")
        if not token:
            raise Unauthenticated("a token of the DatasetGateway is needed: Authorization: Bearer <token>")
        if len(token) > LONGEST or not (token.isascii() and token.isprintable()) or " " in token:
            raise Unauthenticated("this is no token of the DatasetGateway")
        return token

    def _is_foreign(self, scope: Scope) -> bool:
        """Whether a browser says that a request comes from a page that isn't ours, nor of an allowed origin."""
        site, origin = _header(scope, b"sec-fetch-site"), _header(scope, b"origin")
        if site:
            foreign = site not in ("same-origin", "none")
        else:
            foreign = bool(origin) and origin.partition("://")[2].lower() != _header(scope, b"host").lower()
        return foreign and not self._origins.allows(origin)

    def _permit(self, caller: Caller, mode: str, repo: Repo, write: bool) -> None:
        wanted = "write" if write else "read"
        if mode == "authfile":
            users = self._users
            if users is None or not users.may(caller.name, write=write):
                raise BadRequest(f"{caller.name[:80]!r} may not {wanted} here")
        user = caller.gateway
        if user is None or user.admin:
            return
        root = repo.root
        dataset = self.auth.dataset_map.get(root)
        if not dataset:
            raise NotPermitted(f"repository {root} belongs to no dataset of the DatasetGateway (auth.dataset_map)")
        if not user.may(dataset, write=write):
            raise NotPermitted(f"{caller.name[:80]!r} may not {wanted} the dataset {dataset!r}")

    def _keep_up(self) -> None:
        """Follow a reload that another process was told of."""
        if self.reloads is not None and self.reloads.get_obj().value != self._reloaded:
            self._reloaded = self.reloads.get_obj().value
            try:
                self._reload()
            except BadRequest as error:
                log.error("%s: the old rules stay", error)

    def _reload(self) -> None:
        if self._users is not None:
            from .webtokens import load_users

            self._users = load_users(self.auth.auth_file)
        if self._gateway is not None:
            self._gateway.forget()


def guard_of(datastore: Datastore, config: ServerConfig, origins: Origins) -> Guard | None:
    """The guard that a configuration asks for; None where nobody needs to say who they are.

    Raises
    ------
    ConfigError
        What it asks for can't hold.
    """
    if config.auth.modes == {"none"}:
        # told all the same if they are wrong: with a mode they would hold
        public_versions(datastore, config.auth.public_versions)
        return None
    return Guard(datastore, config.auth, origins)


def visible_of(request: Request, repo: Repo) -> frozenset[str] | None:
    """UUIDs of the versions that may be shown to who asks; None: all of this repository."""
    guard = request.server.guard
    return None if guard is None else guard.visible(request, repo)


def _header(scope: Scope, name: bytes) -> str:
    """The first header of a name; empty where there is none."""
    for key, value in scope["headers"]:
        if key == name:
            text: str = value.decode("latin-1")
            return text
    return ""


def _bearer(scope: Scope) -> str:
    scheme, _, token = _header(scope, b"authorization").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
