"""What `[auth]` says, and what stops the start."""

import logging
import os
import subprocess
import sys

import pytest

import dvid_dask
from dvid_dask.api import AuthConfig, ConfigError, ServerConfig, create_app, load_config, parse_config
from dvid_dask.api.origins import Origins

from .conftest import SCRIPT

FULL = """
[auth]
enforce = "DSG"
ENFORCE_internal = "None"
dsg_address = "https://auth.lab.org/"
dsg_cache_ttl = 60
trusted_proxies = ["127.0.0.1/32", "10.10.1.5/24", "fd00::/8"]
public_versions = ["28841c8277e044a7b187dda03e18da13"]
auth_file = "users.json"

[auth.dataset_map]
2f4ac91325c9452a9c1a499e1c5c1c4f = "vnc"
"""
SECRET = "a secret of sixty-four bytes or more, as the longest hash asks for"


def test_all_keys(tmp_path, caplog):
    file = tmp_path / "dvid.toml"
    file.write_text(FULL)
    with caplog.at_level(logging.WARNING):
        auth = load_config(file).auth
    assert caplog.text == ""
    assert (auth.mode, auth.internal_mode, auth.dsg_cache_ttl) == ("dsg", "none", 60)
    assert auth.dataset_map == {"2f4ac91325c9452a9c1a499e1c5c1c4f": "vnc"}
    assert auth.public_versions == ("28841c8277e044a7b187dda03e18da13",)
    # as in DVID, relative to where the server is started
    assert auth.auth_file == "users.json"


@pytest.mark.parametrize(
    ("text", "mode", "internal"),
    [
        ("", "none", "none"),
        ('enforce = "none"', "none", "none"),
        ('proxy_address = "auth.lab.org"', "token", "token"),
        ('no_enforce = true\nproxy_address = "auth.lab.org"', "none", "none"),
        ('no_enforce = true\nenforce = "token"', "token", "token"),
        ('enforce = "authfile"\nenforce_internal = "Token"', "authfile", "token"),
        ('enforce_internal = "dsg"', "none", "dsg"),
    ],
)
def test_the_mode(text, mode, internal):
    auth = parse_config(f"[auth]\n{text}").auth
    assert (auth.mode, auth.internal_mode) == (mode, internal)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('enforce = "oauth"', "expected one of none, token, authfile, dsg"),
        ("enforce = true", "Expected `str`"),
        ('enforce_internal = "maybe"', "enforce_internal"),
        ('enforce = "dsg"\nenforce_internal = "none"', "trusted_proxies"),
        ('trusted_proxies = ["10.1.0.0/33"]', "10.1.0.0/33"),
        ('trusted_proxies = ["proxy.lab.org"]', "proxy.lab.org"),
        ('trusted_proxies = "10.1.0.0/16"', "Expected `array`"),
        ('dsg_address = "auth.lab.org"', "https://host"),
        ('dsg_address = "file:///etc/passwd"', "https://host"),
        ('dsg_address = "https://auth.lab.org:http"', "https://host"),
        ('dsg_cache_ttl = "5 minutes"', "Expected `int`"),
        ('proxy_address = "http://auth.lab.org"', "host or host:port"),
        ('proxy_address = "auth.lab.org/x?y"', "host or host:port"),
        ('dataset_map = ["fly"]', "Expected `object`"),
        ("dataset_map = {a = 1}", "Expected `str`"),
        ('public_versions = "28841c8277e044a7b187dda03e18da13"', "Expected `array`"),
    ],
)
def test_bad_values_stop_the_start(text, says):
    with pytest.raises(ConfigError, match=says.replace("[", r"\[")):
        parse_config(f"[auth]\n{text}")


def start(datastore, **auth):
    return create_app(datastore, ServerConfig(auth=AuthConfig(**auth))).state.server.guard


@pytest.fixture
def datastore():
    with dvid_dask.create("memory://", compact="never") as made:
        yield made


def test_no_mode_no_guard(datastore):
    assert start(datastore) is None
    assert start(datastore, proxy_address="a.org", no_enforce=True) is None


@pytest.mark.parametrize("auth", [{"enforce": "token"}, {"enforce": "authfile"}, {"proxy_address": "a.org"}])
def test_tokens_need_a_secret(datastore, auth):
    with pytest.raises(ConfigError, match="DVID_JWT_SECRET_KEY"):
        start(datastore, **auth)


def test_a_public_key_is_no_secret(datastore):
    key = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\n-----END PUBLIC KEY-----\n"
    with pytest.raises(ConfigError, match="can't be used"):
        start(datastore, enforce="token", jwt_secret=key)


@pytest.mark.parametrize(
    "content", [None, "", "[]", "{", '{"ann": 3}', '{"ann": "all"}', '{"ann": "READ"}', "\xff", "[" * 100_000]
)
def test_the_file_of_users_must_be_one(datastore, tmp_path, content):
    file = tmp_path / "users.json"
    if content is not None:
        file.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"users\.json"):
        start(datastore, enforce="authfile", jwt_secret=SECRET, auth_file=str(file))


def test_the_file_of_users_must_be_named(datastore):
    with pytest.raises(ConfigError, match="auth_file"):
        start(datastore, enforce="authfile", jwt_secret=SECRET)


def test_a_short_secret_is_warned_of(datastore, caplog):
    start(datastore, enforce="token", jwt_secret="short")
    assert "fewer than 64 bytes" in caplog.text


@pytest.mark.parametrize("mode", ["dsg", "none"])
def test_public_versions_are_full_uuids_of_committed_versions(datastore, mode):
    repo = datastore.new_repo()
    repo["master"].commit()
    child = repo["master"].newversion()
    auth = {"enforce": mode, "dsg_address": "https://a.org"}
    for wrong, says in (
        (repo.root[:12], "full UUID"),
        (repo.root.upper() if repo.root != repo.root.upper() else "A" * 32, "full UUID"),
        (f"{repo.root}:master", "full UUID"),
        ("", "full UUID"),
        ("0" * 32, "no version"),
        (child.uuid, "not committed"),
    ):
        with pytest.raises(ConfigError, match=says):
            start(datastore, public_versions=(wrong,), **auth)
    start(datastore, public_versions=(repo.root,), **auth)


def test_what_will_not_work_as_meant_is_said(datastore, caplog):
    root = datastore.new_repo().root
    start(datastore, enforce="dsg", dsg_address="http://auth.lab.org", dataset_map={"0" * 32: "fly"})
    assert "no https address" in caplog.text
    assert f"doesn't name repository {root}" in caplog.text
    assert "0" * 32 + " is the root of no repository" in caplog.text
    start(datastore, enforce="dsg")
    assert "dsg_address is empty" in caplog.text


def test_a_server_without_its_secret_does_not_start(store_path):
    for config, processes in (('{"auth": {"enforce": "token"}}', 1), ('{"auth": {"enforce": "token"}}', 2)):
        env = {k: v for k, v in os.environ.items() if k != "DVID_JWT_SECRET_KEY"}
        script = SCRIPT.replace("port=0", f"port=0, processes={processes}")
        run = subprocess.run(
            [sys.executable, "-c", script, str(store_path), config],
            capture_output=True,
            text=True,
            timeout=60,
            env=env,
        )
        assert run.returncode != 0
        assert "put one into the environment variable DVID_JWT_SECRET_KEY" in run.stderr


# ------------------------------------------------------------------ origins


@pytest.mark.parametrize(
    ("entry", "origin", "allowed"),
    [
        ("lab.org", "https://lab.org", True),
        ("lab.org", "http://neu.lab.org:8080", True),
        ("lab.org", "https://notlab.org", False),
        ("lab.org", "https://lab.org.evil.net", False),
        ("lab.ac.uk", "https://x.lab.ac.uk", True),
        ("lab.ac.uk", "https://other.ac.uk", False),
        ("https://neu.lab.org", "https://neu.lab.org", True),
        ("https://neu.lab.org", "http://neu.lab.org", False),
        ("https://*.lab.org", "https://a.LAB.org", True),
        ("*", "https://lab.org", False),
        ("https://*", "https://lab.org", False),
        ("*lab*", "https://lab.org", False),
        ("lab.org", "null", False),
        ("lab.org", "https://[", False),
        ("localhost", "http://localhost:3000", True),
    ],
)
def test_origins_where_users_are_asked_for(entry, origin, allowed):
    assert Origins((entry,), with_users=True).allows(origin) is allowed
