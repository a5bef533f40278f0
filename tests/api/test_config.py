"""DVID's TOML: the keys that apply, in any case; warnings for the rest. `[auth]`: test_auth_config."""

import logging

import pytest

from dvid_dask.api.config import ConfigError, load_config, parse_config

FULL = """
[server]
HOST = "tea.lab.org"
httpAddress = ":8123"
rpcAddress = ":8124"
webClient = "console"
webRedirectPath = "gone"
webDefaultFile = "index.html"
note = "for tests"
corsDomains = ["https://a.org", "*.b.org"]
rwmode = "fullwrite"
blockListFile = "block.txt"
allowTiming = true
allowLabelmapSplit = true
min_mutation_id_start = 2_000_000_000
shutdownDelay = 3
pidFile = "/run/dvid.pid"
instance_id_gen = "sequential"

[logging]
logfile = "dvid.log"
max_log_size = 500

[mutations]
jsonstore = "/data/mutations"

[kafka]
servers = ["k:9092"]

[store]
[store.main]
engine = "badger"
path = "/data/db"

[backend.default]
store = "main"

[auth]
enforce = "none"
"""


def test_all_keys_that_apply(tmp_path):
    file = tmp_path / "dvid.toml"
    file.write_text(FULL)
    config = load_config(file)
    assert (config.host, config.http_address, config.note) == ("tea.lab.org", ":8123", "for tests")
    assert config.cors_domains == ("https://a.org", "*.b.org")
    assert (config.mode, config.allow_timing, config.allow_labelmap_split) == ("fullwrite", True, True)
    assert (config.min_mutation_id_start, config.shutdown_delay) == (2_000_000_000, 3)
    assert config.web_client == str(tmp_path / "console")
    assert config.log_file == str(tmp_path / "dvid.log")
    assert config.pid_file == "/run/dvid.pid"
    # as in DVID, relative to where the server is started
    assert config.block_list_file == "block.txt"
    assert (config.web_redirect_path, config.web_default_file) == ("gone", "index.html")
    assert (config.path, config.text) == (str(file), FULL)


def test_what_has_no_effect_is_said(caplog):
    with caplog.at_level(logging.WARNING):
        parse_config(FULL + '\n[nonsense]\nx = 1\n[email]\nnotify = ["me"]\n')
        parse_config("[server]\ncorsDomain = []\n")
    said = caplog.text
    for name in (
        *("server.rpcaddress", "server.instance_id_gen", "[store]", "[backend]", "mutations.jsonstore"),
        *("logging.max_log_size", "[nonsense] is unknown", "[email]", "server.corsdomain is unknown"),
    ):
        assert name in said
    assert "server.host" not in said


def test_the_smallest_file():
    config = parse_config("")
    assert config.http_address == "127.0.0.1:8000"
    assert config.cors_domains == ()


@pytest.mark.parametrize(
    "text",
    [
        "[server",
        "[server]\nnote = 5",
        '[server]\ncorsDomains = "*"',
        '[server]\nrwmode = "both"',
        '[server]\nallowTiming = "yes"',
        "[server]\nmin_mutation_id_start = -1",
        "[server]\nshutdownDelay = -1",
        "server = 3",
    ],
)
def test_wrong_types_stop_the_start(text):
    with pytest.raises(ConfigError):
        parse_config(text)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="can't read"):
        load_config(tmp_path / "nosuch.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError):
        load_config(tmp_path / "binary.toml")
