"""Mutations sent to Kafka: producer and consumer speak the real protocol with a broker on this machine.

The broker is the one that librdkafka has built in for tests. What is checked is what a consumer gets.
"""

import contextlib
import json
import logging
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import dvid_dask
from dvid_dask.api import ConfigError, KafkaConfig, ServerConfig, serve
from dvid_dask.api.config import parse_config
from dvid_dask.api.kafka import KafkaPublisher, activity_topic, topic_of
from dvid_dask.versions import Message

from .conftest import ADMIN, server_process

kafka = pytest.importorskip("confluent_kafka")


@pytest.fixture(scope="module")
def broker():
    """Address of a broker, ``host:port``."""
    cluster = kafka.Producer({"bootstrap.servers": "unused:1", "test.mock.num.brokers": 1, "log_level": 0})
    (one,) = cluster.list_topics(timeout=30).brokers.values()
    yield f"{one.host}:{one.port}"
    del cluster


@pytest.fixture
def nobody():
    """An address at which nothing listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{sock.getsockname()[1]}"


def consume(broker, topic, count, seconds=30):
    """The first messages of a topic: (key, text); fewer if they don't come in time."""
    consumer = kafka.Consumer(
        {"bootstrap.servers": broker, "group.id": topic, "enable.auto.commit": False, "log_level": 0}
    )
    try:
        # assigned, not subscribed: a group takes seconds to form
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        consumer.assign([kafka.TopicPartition(topic, p, kafka.OFFSET_BEGINNING) for p in partitions])
        found = []
        deadline = time.monotonic() + seconds
        while len(found) < count and time.monotonic() < deadline:
            message = consumer.poll(0.1)
            if message is not None and not message.error():
                found.append((message.key(), message.value()))
    finally:
        consumer.close()
    # the key is the nanosecond of sending, which orders them over partitions
    return [json.loads(value) for _, value in sorted(found, key=lambda kv: int(kv[0]))]


def data_topic(instance, prefix="", suffix=""):
    return f"{prefix}dvidrepo-{instance.repo.root}-data-{instance.info.data_uuid}{suffix}"


@pytest.fixture
def ds():
    with dvid_dask.create("memory://", compact="never") as ds:
        yield ds


@pytest.fixture
def labels(ds):
    repo = ds.new_repo("fly")
    made = repo.new_instance("labelmap", "labels", {"BlockSize": "16,16,16", "MaxDownresLevel": "0"})
    voxels = np.zeros((16, 16, 16), np.uint64)
    for n in range(1, 7):
        voxels[2 * n] = n
    made.write(voxels, (0, 0, 0))
    return made


def test_labelmap_messages(ds, labels, broker):
    """Fields as DVID's, keys sorted, begin before end, ids and users the same in both."""
    with KafkaPublisher(ds, KafkaConfig(servers=(broker,))):
        merged = labels.merge(1, [2, 3], user="ann", app="neu3")
        new, cleaved = labels.cleave(1, [2])
        (renumbered,) = labels.renumber([(900, 4)])
        labels.raise_max_label(1000)
        labels.raise_max_label(999)  # changes nothing, so nothing is said
        first, last = labels.allocate_labels(3)
        labels.set_next_label(5000)
        labels.set_next_label(6000, ceiling=7000)
        with pytest.raises(dvid_dask.errors.BadRequest):
            labels.merge(1, [12345])
    got = consume(broker, data_topic(labels), 10)
    uuid = labels.version.uuid
    times = [message.pop("Timestamp") for message in got]
    assert all(text.endswith(" +0000 UTC") for text in times)
    assert {message.pop("UUID") for message in got} == {uuid}
    merge = {"Target": 1, "Labels": [2, 3], "MutationID": merged, "User": "ann", "App": "neu3"}
    cleave = {"OrigLabel": 1, "CleavedLabel": new, "CleavedSupervoxels": [2], "MutationID": cleaved}
    renumber = {"NewLabel": 900, "OrigLabel": 4, "MutationID": renumbered}
    assert got == [
        {"Action": "merge", **merge},
        {"Action": "merge-complete", **merge},
        {"Action": "cleave", **cleave},
        {"Action": "cleave-complete", **cleave, "CleavedSize": 256, "RemainSize": 512},
        {"Action": "renumber", **renumber},
        {"Action": "renumber-complete", **renumber},
        {"Action": "post-maxlabel", "MaxLabel": 1000},
        {"Action": "post-nextlabel", "Start Label": first, "End Label": last},
        {"Action": "setnextlabel", "Next Label": 5000},
        {"Action": "setnextlabel", "Next Label": 6000, "Ceiling": 7000},
    ]
    # as they came: keys in order, and the end is the record of the log
    assert all(list(message) == sorted(message) for message in got)
    assert [r["Action"] for r in labels.mutations()] == ["merge-complete", "cleave-complete", "renumber-complete"]


def test_messages_of_splits_and_of_what_takes_them_back(ds, labels, broker):
    runs = [[0, 0, 2, 16], [0, 1, 2, 16]]
    with KafkaPublisher(ds, KafkaConfig(servers=(broker,))):
        cut = labels.split_supervoxel(1, runs)
        body = labels.split(2, [[0, 0, 4, 16]], user="ann")
        back = labels.undo(cut.mutation)
    got = consume(broker, data_topic(labels), 6)
    for message in got:
        del message["Timestamp"], message["UUID"]
    # the runs without a header
    assert [len(ds.get_blob(message.pop("Split"))) for message in got[:4]] == [32, 32, 16, 16]
    parts = {"Supervoxel": 1, "Body": 1, "SplitSupervoxel": cut.split, "RemainSupervoxel": cut.remain}
    assert got[:2] == [
        {"Action": "split-supervoxel", "MutationID": cut.mutation, **parts},
        {
            "Action": "split-supervoxel-complete",
            "MutationID": cut.mutation,
            **parts,
            "SplitSize": 32,
            "RemainSize": 224,
        },
    ]
    ids = got[2].pop("SVSplits")
    assert ids == got[3].pop("SVSplits")
    assert list(ids) == ["2"]
    assert sorted(ids["2"]) == ["Remain", "Split"]
    split = {"Target": 2, "NewLabel": body.body, "MutationID": body.mutation, "User": "ann"}
    assert got[2:4] == [{"Action": "split", **split}, {"Action": "split-complete", **split}]
    joined = {"Body": 1, "Supervoxels": [1], "Joined": [[cut.split, cut.remain]], "Undoes": cut.mutation}
    assert got[4:] == [
        {"Action": "join-supervoxels", "MutationID": back, **joined},
        {"Action": "join-supervoxels-complete", "MutationID": back, **joined},
    ]


def test_what_else_the_log_holds_says_where_and_when(ds, broker):
    """Readers of DVID's topics look for UUID and Timestamp in every message."""
    roi = ds.new_repo().new_instance("roi", "roi")
    with KafkaPublisher(ds, KafkaConfig(servers=(broker,))):
        roi.mutate(lambda m, space: m.log(roi, {"Action": "bare", "MutationID": m.id}))
    (got,) = consume(broker, data_topic(roi), 1)
    assert set(got) == {"Action", "MutationID", "UUID", "Timestamp"}


def test_keyvalue_and_repository_operations(ds, broker):
    repo = ds.new_repo("fly", root="not a uuid")
    config = KafkaConfig(servers=(f"http://{broker}",), topic_prefix="lab1-")
    with KafkaPublisher(ds, config):
        notes = repo.new_instance("keyvalue", "notes")
        notes.put_many({"a": b"1", "b": b"22"}, user="ann")
        notes.delete("a")
        repo["master"].commit("done", log=["all of it"])
    topic = f"lab1-dvidrepo-not-a-uuid-data-{notes.info.data_uuid}"  # blanks can't be in a topic
    got = consume(broker, topic, 3)
    assert [(m["Action"], m["Key"], m.get("Bytes")) for m in got] == [
        ("postkv", "a", 1),
        ("postkv", "b", 2),
        ("delete", "a", None),
    ]
    assert all(set(m) == {"Action", "Key", "Bytes", "Timestamp", "UUID"} for m in got[:2])
    got = consume(broker, "lab1-dvidrepo-not-a-uuid-repo-ops", 2)
    assert got == [
        {"Action": "newinstance", "UUID": "not a uuid", "Typename": "keyvalue", "Dataname": "notes"},
        {"Action": "commit", "UUID": "not a uuid", "Note": "done", "Log": ["all of it"]},
    ]


def test_topics():
    config = KafkaConfig(topic_prefix="p-", topic_suffixes=("d1:seg",))
    assert topic_of(Message("root", "d1", {}), config, "a") == "p-dvidrepo-root-data-d1-seg"
    assert topic_of(Message("", "", {}), config, "a") == "a"
    assert activity_topic(ServerConfig(host="tea.lab.org:80")) == "dvidactivity-tea.lab.org-80"
    assert activity_topic(ServerConfig(host="tea", kafka=KafkaConfig(topic_activity="who/what"))) == "who-what"


def test_more_at_once_than_the_client_holds(ds, broker):
    """A commit of many keys: handing over waits for room, and nothing is lost at the end."""
    notes = ds.new_repo().new_instance("keyvalue", "notes")
    with KafkaPublisher(ds, KafkaConfig(servers=(broker,), buffer_size=100)):
        notes.put_many((f"k{n}", b"v") for n in range(2000))
    got = consume(broker, data_topic(notes), 2000)
    assert [m["Key"] for m in got] == [f"k{n}" for n in range(2000)]


def test_large_messages_go_by_reference(ds, labels, broker):
    """Over 980 KiB a cleave refers to its supervoxels, anything else to the message as a whole."""
    big = {
        "Action": "merge",
        "MutationID": 7,
        "UUID": "u",
        "Timestamp": "t",
        "Labels": list(range(10**6, 10**6 + 130_000)),
    }
    fits = {"Action": "fits", "Text": "x" * (980 * 1024 - 40)}
    with KafkaPublisher(ds, KafkaConfig(servers=(broker,))):
        labels.tell(big)
        labels.tell(fits)
    got = consume(broker, data_topic(labels), 2)
    ref = got[0].pop("DataRef")
    assert got == [{"Action": "merge", "MutationID": 7, "UUID": "u", "Timestamp": "t"}, fits]
    assert json.loads(ds.get_blob(ref)) == big


def test_no_configuration_no_client(ds, monkeypatch, caplog):
    """Without servers neither the package nor a thread of it is needed."""
    from dvid_dask.api.kafka import publishing

    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    before = threading.active_count()
    with publishing(ds, ServerConfig()) as publisher:
        assert publisher is None
        assert not ds.feed
        assert threading.active_count() == before
    with pytest.raises(ConfigError, match=r"pip install 'dvid-dask\[kafka\]'"):
        serve(ds, port=0, config=ServerConfig(kafka=KafkaConfig(servers=("k:9092",))))
    assert not ds.feed


def test_a_configuration_that_the_client_refuses(ds):
    with pytest.raises(ConfigError, match="refuses"):
        KafkaPublisher(ds, KafkaConfig(servers=("k:9092",), sec_protocol="CARRIER_PIGEON"))
    assert not ds.feed


def test_brokers_that_are_not_there_harm_nobody(ds, nobody, caplog):
    """Mutations succeed, the log says so in a few lines, what can't be sent is bounded, the end comes soon."""
    notes = ds.new_repo().new_instance("keyvalue", "notes")
    with caplog.at_level(logging.INFO, "dvid_dask"):
        publisher = KafkaPublisher(ds, KafkaConfig(servers=(nobody,), buffer_size=50))
        for n in range(120):
            notes.put(f"k{n}", b"v")
        deadline = time.monotonic() + 20
        while "can't be reached" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.02)
        begun = time.monotonic()
        publisher.close()
        assert time.monotonic() - begun < 10
    assert len(notes) == 120
    assert "Kafka can't be reached" in caplog.text
    assert "messages could not be sent to Kafka before the end" in caplog.text
    assert len([r for r in caplog.records if r.name.endswith("kafka")]) <= 5


@contextlib.contextmanager
def forwarded(address, target):
    """Connections to one address go to another."""

    def pump(a, b):
        with contextlib.suppress(OSError):
            while data := a.recv(65536):
                b.sendall(data)
        for sock in (a, b):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(place(target))
                sockets.extend((near, far))
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

    def place(text):
        host, _, port = text.rpartition(":")
        return host, int(port)

    sockets = []
    listener = socket.create_server(place(address))
    threading.Thread(target=accept, daemon=True).start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        for sock in (listener, *sockets):
            sock.close()


def test_what_waited_is_sent_once_a_broker_is_there(ds, nobody, broker, caplog):
    notes = ds.new_repo().new_instance("keyvalue", "notes")
    with caplog.at_level(logging.INFO, "dvid_dask"), KafkaPublisher(ds, KafkaConfig(servers=(nobody,))):
        for n in range(30):
            notes.put(f"k{n}", b"v")
        deadline = time.monotonic() + 20
        while "can't be reached" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.02)
        with forwarded(nobody, broker):
            while "is reached (again)" not in caplog.text and time.monotonic() < deadline:
                time.sleep(0.02)
    got = consume(broker, data_topic(notes), 30)
    assert [m["Key"] for m in got] == [f"k{n}" for n in range(30)]
    assert "could not be sent" not in caplog.text


def test_the_toml_keys():
    config = parse_config(
        """
        [kafka]
        servers = ["http://k1:9092", "k2:9092"]
        topicPrefix = "lab-"
        topicSuffixes = ["abc:seg"]
        topicActivity = "who"
        bufferSize = 500
        secProtocol = "SASL_SSL"
        saslMechanisms = "PLAIN"
        saslUsername = "me"
        saslPassword = "secret"
        """
    ).kafka
    assert config.addresses == "k1:9092,k2:9092"
    assert config == KafkaConfig(
        servers=("http://k1:9092", "k2:9092"),
        topic_prefix="lab-",
        topic_suffixes=("abc:seg",),
        topic_activity="who",
        buffer_size=500,
        sec_protocol="SASL_SSL",
        sasl_mechanisms="PLAIN",
        sasl_username="me",
        sasl_password="secret",
    )
    assert parse_config("").kafka == KafkaConfig()


@pytest.mark.parametrize(
    "text", ['servers = "k:9092"', 'topicSuffixes = ["seg"]', "bufferSize = -1", "topicPrefix = 3"]
)
def test_wrong_values_stop_the_start(text):
    with pytest.raises(ConfigError):
        parse_config(f"[kafka]\n{text}")


def test_keys_without_servers_are_warned_of(caplog):
    with caplog.at_level(logging.WARNING):
        parse_config('[kafka]\ntopicPrefix = "lab-"')
    assert "no messages are sent" in caplog.text


def ask(url, body=None):
    import urllib.request

    with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=30) as answer:
        return answer.read()


def test_a_server_announces_and_delivers_before_it_ends(store_path, broker):
    """Over HTTP: what was answered is in the topics once the server has ended, with a record of each request."""
    with server_process(
        store_path, kafka={"servers": [broker], "topic_prefix": "srv-"}, host="tea.lab.org", body_timeout=5.0
    ) as server:
        token = f"admintoken={ADMIN['admintoken']}"
        root = json.loads(ask(f"{server.url}/api/repos?{token}", b"{}"))["root"]
        ask(f"{server.url}/api/repo/{root}/instance", b'{"typename":"keyvalue","dataname":"notes"}')
        kv = f"{server.url}/api/node/{root}/notes"
        ask(f"{kv}/key/soma?u=ann&app=neu3&{token}", b"left")
        with pytest.raises(Exception, match="400"):
            ask(f"{kv}/nosuch")
        info = json.loads(ask(f"{server.url}/api/server/info"))
        data = json.loads(ask(f"{kv}/info"))["Base"]["DataUUID"]
        server.terminate()
        assert server.popen.wait(30) == 0
    assert info["Kafka Servers"] == broker
    assert (info["Kafka Activity Topic"], info["Kafka Topic Prefix"]) == ("dvidactivity-tea.lab.org", "srv-")
    (put,) = consume(broker, f"srv-dvidrepo-{root}-data-{data}", 1)
    assert (put["Action"], put["Key"], put["Bytes"], put["UUID"]) == ("postkv", "soma", 4, root)
    (made,) = consume(broker, f"srv-dvidrepo-{root}-repo-ops", 1)
    assert made["Action"] == "newinstance"
    # /api/repos is none of those that are recorded
    activity = consume(broker, "dvidactivity-tea.lab.org", 5)
    assert [(a["method"], a["status"]) for a in activity] == [
        ("POST", 200),
        ("POST", 200),
        ("GET", 400),
        ("GET", 200),
        ("GET", 200),
    ]
    post = activity[1]
    assert post["uri"] == f"/api/node/{root}/notes/key/soma?u=ann&app=neu3&admintoken=..."
    assert (post["user"], post["client"], post["bytes_in"], post["bytes_out"]) == ("ann", "neu3", 4, 0)
    assert post["remote_addr"] == "127.0.0.1"
    assert abs(post["time"] - time.time()) < 300
    assert post["duration"] > 0


def test_the_command_says_what_is_wrong_and_serves(store_path, nobody, tmp_path):
    """`dvid-dask serve` with brokers that are not there: it serves, says so on its log, and ends when told to."""
    config = tmp_path / "server.toml"
    config.write_text(f'[server]\nhttpAddress = "127.0.0.1:0"\n[kafka]\nservers = ["{nobody}"]\n')
    command = [sys.executable, "-m", "dvid_dask.cli", "serve", str(store_path), "--config", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            url = server.stdout.readline().split(" on ")[1].split()[0]
            assert ask(f"{url}/api/server/note") == b""
            lines = iter(server.stderr.readline, "")
            said = next(line for line in lines if "can't be reached" in line)
            assert nobody in said
            server.send_signal(signal.SIGTERM)
            _, rest = server.communicate(timeout=30)
            assert server.returncode == 0
            assert "could not be sent" in rest
            assert "Traceback" not in rest
        finally:
            with contextlib.suppress(ProcessLookupError):
                server.kill()
