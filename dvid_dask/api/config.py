"""The server's configuration: DVID's TOML, checked by schema.

Section and key names are matched without regard to case, as DVID does. A key that has no meaning here is reported as a
warning, never silently dropped; one that would protect something in a way that can't hold stops the start.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec

__all__ = ["AuthConfig", "ConfigError", "KafkaConfig", "ServerConfig", "load_config", "parse_config"]

log = logging.getLogger(__name__)

Text = Annotated[str, msgspec.Meta(max_length=1 << 20)]


class ConfigError(ValueError):
    """The configuration can't be used: wrong syntax, a wrong type, or a demand that this server can't meet."""


class KafkaConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where mutations are announced; see :mod:`dvid_dask.api.kafka`.

    Attributes
    ----------
    servers : tuple of str
        Brokers to begin with, ``host:port``. Without any, nothing is sent.
    topic_prefix : str
        First part of the names of all topics but that of activity.
    topic_suffixes : tuple of str
        ``<data uuid>:<suffix>``: the topic of this data instance ends in ``-<suffix>``.
    topic_activity : str
        Topic that gets a record of each request; empty = ``dvidactivity-<host>``.
    buffer_size : int
        Messages that wait at most while no broker can be reached; 0 = 100,000. Beyond them the newest are lost.
    sec_protocol : str
        ``PLAINTEXT``, ``SSL``, ``SASL_PLAINTEXT`` or ``SASL_SSL``; empty = ``PLAINTEXT``.
    sasl_mechanisms, sasl_username, sasl_password : str
        How the server proves to the brokers who it is, as ``SCRAM-SHA-512``.
    """

    servers: tuple[str, ...] = ()
    topic_prefix: str = ""
    topic_suffixes: tuple[str, ...] = ()
    topic_activity: str = ""
    buffer_size: int = 0
    sec_protocol: str = ""
    sasl_mechanisms: str = ""
    sasl_username: str = ""
    sasl_password: str = ""

    @property
    def addresses(self) -> str:
        """The servers as clients of Kafka take them; DVID's configurations may write them as URLs."""
        return ",".join(server.partition("://")[2] or server for server in self.servers)


#: How requests may have to prove who they come from.
AUTH_MODES = ("none", "token", "authfile", "dsg")


class AuthConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Who may read and write; see :mod:`dvid_dask.api.auth`.

    Attributes
    ----------
    enforce : {"", "none", "token", "authfile", "dsg"}
        What requests at repositories and versions need: nothing, a JSON Web Token that is signed with the secret of
        ``DVID_JWT_SECRET_KEY``, such a token of a user that `auth_file` lists, or a token of the DatasetGateway at
        `dsg_address`. Empty = ``token`` where `proxy_address` is set, else ``none``.
    no_enforce : bool
        Without `enforce`: ask for nothing although `proxy_address` is set.
    enforce_internal : {"", "none", "token", "authfile", "dsg"}
        What requests with the header ``X-DVID-Internal: true`` need instead; empty = the same. ``none`` needs
        `trusted_proxies`.
    trusted_proxies : tuple of str
        Networks (``10.1.0.0/16``) from whose addresses that header counts; without any, from all.
    proxy_address : str
        ``host[:port]`` of the proxy that knows who is logged in: ``/api/server/token`` asks it.
    auth_file : str
        JSON file of users for ``authfile``: ``{"ann@lab.org": "readwrite", "*": "read"}``.
    dsg_address : str
        URL of the DatasetGateway.
    dsg_cache_ttl : int
        Seconds for which its answer about a token holds; 0 or less = 300.
    dataset_map : dict of str to str
        The gateway's dataset of each repository, by the UUID of its root. One that isn't named is closed to all but
        the gateway's administrators.
    public_versions : tuple of str
        Full UUIDs of committed versions that everybody may read, and all versions above them.
    jwt_secret : str
        Key by which tokens are signed. From ``DVID_JWT_SECRET_KEY``, never from the file.
    """

    enforce: str = ""
    no_enforce: bool = False
    enforce_internal: str = ""
    trusted_proxies: tuple[str, ...] = ()
    proxy_address: str = ""
    auth_file: str = ""
    dsg_address: str = ""
    dsg_cache_ttl: int = 300
    dataset_map: dict[str, str] = {}
    public_versions: tuple[str, ...] = ()
    jwt_secret: str = ""

    def __post_init__(self) -> None:
        for key, given in (("enforce", self.enforce), ("enforce_internal", self.enforce_internal)):
            if given and given.lower() not in AUTH_MODES:
                raise ConfigError(f'auth.{key} is "{given[:40]}": expected one of {", ".join(AUTH_MODES)}')
        for network in self.trusted_proxies:
            try:
                ipaddress.ip_network(network, strict=False)
            except ValueError:
                raise ConfigError(
                    f'auth.trusted_proxies holds "{network[:80]}": expected a network as 10.1.0.0/16'
                ) from None
        if self.mode != "none" and self.internal_mode == "none" and not self.trusted_proxies:
            raise ConfigError(
                'auth.enforce_internal = "none" without auth.trusted_proxies would let in everybody who sends the '
                "header X-DVID-Internal: name the networks of the proxies that set it"
            )
        if self.proxy_address and not re.fullmatch(r"[\w.-]+(:\d+)?|\[[0-9a-fA-F:.]+\](:\d+)?", self.proxy_address):
            raise ConfigError(f'auth.proxy_address is "{self.proxy_address[:80]}": expected host or host:port')
        if self.dsg_address:
            try:
                url = urlsplit(self.dsg_address)
                sound = url.scheme in ("http", "https") and url.hostname and (url.port or 1) and not url.query
            except ValueError:
                sound = False
            if not sound:
                raise ConfigError(f'auth.dsg_address is "{self.dsg_address[:80]}": expected https://host[:port]')

    @property
    def mode(self) -> str:
        """What holds for requests from outside: one of `AUTH_MODES`."""
        if self.enforce:
            return self.enforce.lower()
        return "token" if self.proxy_address and not self.no_enforce else "none"

    @property
    def internal_mode(self) -> str:
        """What holds for internal requests."""
        return self.enforce_internal.lower() or self.mode

    @property
    def modes(self) -> set[str]:
        """All that some requests meet."""
        return {self.mode, self.internal_mode}


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the server needs to know beside its store.

    Attributes
    ----------
    host : str
        Alias of this server in ``/api/server/info``; empty = the machine's name.
    http_address : str
        ``host:port`` to listen on. Empty host = the loopback interface.
    note : str
        Free text of ``/api/server/note`` and ``/api/server/info``.
    cors_domains : tuple of str
        Origins whose scripts may read answers: ``*`` for all, complete origins (``https://host[:port]``), or patterns
        with one ``*`` in them. Where users are asked for: no ``*`` for all, but also domains (``lab.org``), each with
        all below it.
    mode : {"", "readonly", "fullwrite"}
        ``readonly`` refuses every change (but for requests with the admin token); ``fullwrite`` lets clients write to
        committed versions.
    allow_labelmap_split : bool
        Whether ``POST .../split`` of labelmap is answered.
    allow_timing : bool
        Send ``Timing-Allow-Origin: *`` with answers of instances.
    allow_bases : tuple of str
        Directories (``gs://bucket/em``, ``https://host/volumes``, ``file:///data``) below which clients may name a
        volume for a new instance to stand on; without any, only the admin token may. What is named is read with this
        server's network and credentials.
    block_list_file : str
        File with ``u=<user>[,note]`` and ``ip=<pattern>[,note]`` lines: who gets 429.
    web_client, web_redirect_path, web_default_file : str
        Folder of static files served beside the API; where to send requests for missing files (308), or which file to
        answer them with.
    pid_file : str
        Gets the process id while the server runs.
    min_mutation_id_start : int
        Mutation ids start at least here.
    shutdown_delay : float
        Seconds that requests in flight get to finish once the server is told to stop.
    admin_token : str
        The value of ``admintoken=`` that grants admin rights; empty = nobody has them. From ``DVID_ADMIN_TOKEN``, never
        from the file.
    log_file : str
        Log here instead of on the terminal.
    access_log : bool
        One line in the log for each request.
    workers : int
        Threads that answer requests, and as many again for bodies that stream.
    max_body : int
        Largest request body in bytes that a handler may take into memory as a whole.
    body_memory : int
        Bytes that all such bodies together may hold; beyond it 503.
    body_timeout : float
        Seconds that a client may stay silent in the middle of a body.
    kafka : KafkaConfig
        Where mutations are announced.
    auth : AuthConfig
        Who may read and write.
    path, text : str
        The file it came from and what stood in it.
    """

    host: str = ""
    http_address: str = "127.0.0.1:8000"
    note: str = ""
    cors_domains: tuple[str, ...] = ()
    mode: Literal["", "readonly", "fullwrite"] = ""
    allow_labelmap_split: bool = False
    allow_timing: bool = False
    allow_bases: tuple[str, ...] = ()
    block_list_file: str = ""
    web_client: str = ""
    web_redirect_path: str = ""
    web_default_file: str = ""
    pid_file: str = ""
    min_mutation_id_start: int = 0
    shutdown_delay: float = 20.0
    admin_token: str = ""
    log_file: str = ""
    access_log: bool = False
    workers: int = 32
    max_body: int = 1 << 30
    body_memory: int = 2 << 30
    body_timeout: float = 120.0
    kafka: KafkaConfig = KafkaConfig()
    auth: AuthConfig = AuthConfig()
    path: str = ""
    text: str = ""

    @property
    def nobody_writes(self) -> bool:
        """Whether the store can be opened for reading alone: through a read-only server, administrators write."""
        return self.mode == "readonly" and not self.admin_token and "dsg" not in self.auth.modes


class _Server(msgspec.Struct, kw_only=True):
    host: Text = ""
    httpaddress: Text = ""
    corsdomains: list[str] = []
    note: Text = ""
    rwmode: Literal["", "readonly", "fullwrite"] = ""
    allowlabelmapsplit: bool = False
    allowtiming: bool = False
    allowbases: list[Text] = []
    blocklistfile: Text = ""
    webclient: Text = ""
    webredirectpath: Text = ""
    webdefaultfile: Text = ""
    pidfile: Text = ""
    min_mutation_id_start: Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)] = 0
    shutdowndelay: Annotated[float, msgspec.Meta(ge=0)] | None = None


class _Auth(msgspec.Struct, kw_only=True):
    enforce: Text = ""
    no_enforce: bool = False
    enforce_internal: Text = ""
    trusted_proxies: list[Text] = []
    proxy_address: Text = ""
    auth_file: Text = ""
    dsg_address: Text = ""
    dsg_cache_ttl: Annotated[int, msgspec.Meta(ge=-(1 << 40), le=1 << 40)] = 300
    dataset_map: dict[Text, Text] = {}
    public_versions: list[Text] = []


class _Logging(msgspec.Struct, kw_only=True):
    logfile: Text = ""


class _Kafka(msgspec.Struct, kw_only=True):
    servers: list[Text] = []
    topicprefix: Text = ""
    topicsuffixes: list[Text] = []
    topicactivity: Text = ""
    buffersize: Annotated[int, msgspec.Meta(ge=0, le=10_000_000)] = 0
    secprotocol: Text = ""
    saslmechanisms: Text = ""
    saslusername: Text = ""
    saslpassword: Text = ""


class _File(msgspec.Struct, kw_only=True):
    server: _Server = msgspec.field(default_factory=_Server)
    auth: _Auth = msgspec.field(default_factory=_Auth)
    logging: _Logging = msgspec.field(default_factory=_Logging)
    kafka: _Kafka = msgspec.field(default_factory=_Kafka)


# Keys of DVID that have a meaning there and none here, and what its owner should know.
_WITHOUT_EFFECT: dict[str, str] = {
    "server.rpcaddress": "there is no RPC listener; the dvid-dask command works on the store itself",
    "server.startwebhook": "no start webhook is called",
    "server.startjaneliaconfig": "no start webhook is called",
    "server.instance_id_gen": "instance ids are the store's own",
    "server.instance_id_start": "instance ids are the store's own",
    "server.interactiveopsbeforeblock": "there are no background jobs that would give way",
    "store": "the store is the one that the server was started with",
    "backend": "all instances live in the store that the server was started with",
    "mutations.jsonstore": "the mutation log is always kept, in the store itself",
    "mutations.blobstore": "blobs are always kept, in the store itself",
    "mutations.httpstore": "requests are not recorded",
    "mirror": "writes are NOT mirrored",
    "email": "no mail is sent",
    "logging.max_log_size": "the log is not rotated",
    "logging.max_log_age": "the log is not rotated",
    "mutcache": "label history needs no cache of its own",
    "cache": "caches size themselves",
    "groupcache": "caches are the process's own",
}


def load_config(path: str | os.PathLike[str]) -> ServerConfig:
    """Read a TOML file; see :func:`parse_config`.

    Raises
    ------
    ConfigError
        No such file, not TOML, or refused by :func:`parse_config`.
    """
    file = Path(path)
    try:
        content = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"can't read the configuration {file}: {error}") from None
    return parse_config(content, path=file)


def parse_config(content: str, path: Path | None = None) -> ServerConfig:
    r"""DVID's TOML text as a :class:`ServerConfig`; relative paths count from the file's folder.

    Raises
    ------
    ConfigError
        Not TOML, a value of the wrong type, a topic suffix without its data UUID, or a rule of authentication
        that can't hold.

    Examples
    --------
    >>> parse_config('[server]\nnote = "at home"\ncorsDomains = ["*"]').cors_domains
    ('*',)
    """
    where = str(path) if path else "the configuration"
    try:
        raw = _lower(tomllib.loads(content))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where} is not TOML: {error}") from None
    try:
        parsed = msgspec.convert(raw, _File)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {error}") from None
    for message in _remarks(raw):
        log.warning("%s: %s", where, message)
    if "kafka" in raw and not parsed.kafka.servers:
        log.warning("%s: kafka.servers is empty, so no messages are sent", where)

    folder = path.parent if path else Path()

    def at(name: str) -> str:
        return str(folder / name) if name else ""

    s = parsed.server
    defaults = ServerConfig()
    return ServerConfig(
        host=s.host,
        http_address=s.httpaddress or defaults.http_address,
        note=s.note,
        cors_domains=tuple(s.corsdomains),
        mode=s.rwmode,
        allow_labelmap_split=s.allowlabelmapsplit,
        allow_timing=s.allowtiming,
        allow_bases=tuple(s.allowbases),
        block_list_file=s.blocklistfile,
        web_client=at(s.webclient),
        web_redirect_path=s.webredirectpath,
        web_default_file=s.webdefaultfile,
        pid_file=at(s.pidfile),
        min_mutation_id_start=s.min_mutation_id_start,
        shutdown_delay=defaults.shutdown_delay if s.shutdowndelay is None else s.shutdowndelay,
        log_file=at(parsed.logging.logfile),
        kafka=_kafka(parsed.kafka, where),
        auth=_auth(parsed.auth, where),
        path=str(path) if path else "",
        text=content,
    )


def _kafka(k: _Kafka, where: str) -> KafkaConfig:
    for spec in k.topicsuffixes:
        data_uuid, _, suffix = spec.partition(":")
        if not data_uuid or not suffix or ":" in suffix:
            raise ConfigError(f'{where}: kafka.topicSuffixes holds "{spec}": expected "<data uuid>:<suffix>"')
    return KafkaConfig(
        servers=tuple(k.servers),
        topic_prefix=k.topicprefix,
        topic_suffixes=tuple(k.topicsuffixes),
        topic_activity=k.topicactivity,
        buffer_size=k.buffersize,
        sec_protocol=k.secprotocol,
        sasl_mechanisms=k.saslmechanisms,
        sasl_username=k.saslusername,
        sasl_password=k.saslpassword,
    )


def _lower(table: Any, depth: int = 0) -> Any:
    """Section and key names in lower case; deeper names (stores, backends) are names, not keys."""
    if depth == 2 or not isinstance(table, dict):
        return table
    return {str(k).lower(): _lower(v, depth + 1) for k, v in table.items()}


def _auth(a: _Auth, where: str) -> AuthConfig:
    given = msgspec.structs.asdict(a)
    given |= {key: tuple(value) for key, value in given.items() if isinstance(value, list)}
    try:
        # the file's path is relative to where the server is started, as in DVID
        return AuthConfig(**given)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _remarks(raw: dict[str, Any]) -> list[str]:
    """What the owner of the file should know about its keys."""
    sections = msgspec.structs.fields(_File)
    known = {section.name: {f.name for f in msgspec.structs.fields(section.type)} for section in sections}
    out = []
    for section, table in raw.items():
        if section in _WITHOUT_EFFECT:
            out.append(f"[{section}] has no effect: {_WITHOUT_EFFECT[section]}")
        elif not isinstance(table, dict) or (section not in known and section != "mutations"):
            out.append(f"[{section}] is unknown and has no effect")
        else:
            for key in table:
                name = f"{section}.{key}"
                if name in _WITHOUT_EFFECT:
                    out.append(f"{name} has no effect: {_WITHOUT_EFFECT[name]}")
                elif key not in known.get(section, ()):
                    out.append(f"{name} is unknown and has no effect")
    return out
