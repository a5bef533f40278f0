"""neuronjson over HTTP: what clients ask, options of answers, and bad requests that change nothing."""

import gzip
import json
import tarfile
from io import BytesIO

import pyarrow as pa
import pytest

from dvid_dask.api.warming import start_warming, warm
from dvid_dask.datatypes.neuronjson import frames, library, memory, set_memory
from dvid_dask.formats import dvid_pb2 as pb

from .conftest import ADMIN

HUGE = 2**64 - 1


def keyvalues(**values):
    return pb.KeyValues(kvs=[pb.KeyValue(key=k[1:], value=v) for k, v in values.items()]).SerializeToString()


@pytest.fixture
def url(client, repo):
    return client.instance(repo, "neuronjson", "neurons")


@pytest.fixture
def filled(client, url):
    for body, more in ((1, {"type": "KC", "size": 3}), (20, {"type": "PN<&>"}), (300, {}), (HUGE, {"size": 2**53 + 1})):
        assert client.post(f"{url}/key/{body}?u=ann", json={"bodyid": body, **more}).status_code == 200
    return url


def state(client, url):
    """All there is, documents too."""
    documents = [client.get(f"{url}/{name}").content for name in ("json_schema", "schema", "schema_batch")]
    return client.get(f"{url}/keyrangevalues/0/a?json=true&show=all").json(), documents


# ------------------------------------------------------------------ what clients do


def test_one_annotation(client, filled):
    answer = client.get(f"{filled}/key/20")
    assert answer.headers["content-type"] == "application/json"
    assert answer.content == b'{"bodyid":20,"type":"PN\\u003c\\u0026\\u003e"}'
    assert client.get(f"{filled}/key/0020").json()["bodyid"] == 20
    assert client.get(f"{filled}/key/{HUGE}?fields=size&show=user").json() == {
        "bodyid": HUGE,
        "size": 2**53 + 1,
        "size_user": "ann",
    }
    assert client.get(f"{filled}/key/0").status_code == client.get(f"{filled}/key/21").status_code == 404
    assert [client.head(f"{filled}/key/{k}").status_code for k in (20, 21, 0, "x", "schema")] == [
        200,
        404,
        404,
        400,
        404,
    ]
    assert client.delete(f"{filled}/key/20").status_code == client.delete(f"{filled}/key/0").status_code == 200
    assert client.get(f"{filled}/keys").json() == ["1", "300", str(HUGE)]


def test_posts_with_options(client, filled):
    client.post(f"{filled}/key/1?u=bob&conditional=type,note", json={"bodyid": 1, "type": "X", "note": "new"})
    client.post(f"{filled}/key/1?u=bob&conditionals=size", json={"bodyid": 1, "size": 9})
    assert client.get(f"{filled}/key/1?show=user").json() == {
        "bodyid": 1,
        "note": "new",
        "note_user": "bob",
        "size": 3,
        "size_user": "ann",
        "type": "KC",
        "type_user": "ann",
    }
    client.post(f"{filled}/key/1?u=bob&replace=true", json={"bodyid": 1, "type": "KC"})
    assert client.get(f"{filled}/key/1?show=user").json() == {"bodyid": 1, "type": "KC", "type_user": "ann"}


def test_the_three_forms(client, filled):
    pairs = {"1": {"bodyid": 1, "size": 3, "type": "KC"}, "20": {"bodyid": 20, "type": "PN<&>"}}
    assert client.get(f"{filled}/keyrangevalues/0/20?json=true").json() == pairs
    for wanted in ([1, 20, 5], ["1", "20", "5"], [1, "20"]):
        assert client.request("GET", f"{filled}/keyvalues?json=true", json=wanted).json() == pairs
    for answer in (
        client.get(f"{filled}/keyrangevalues/1/299?tar=true"),
        client.request("GET", f"{filled}/keyvalues?jsontar=true", json=["1", "20"]),
    ):
        with tarfile.open(fileobj=BytesIO(answer.content)) as tar:
            assert {m.name: json.load(tar.extractfile(m)) for m in tar} == pairs
    client.post(f"{filled}/schema", content=b"any")
    keys = pb.Keys(keys=["20", "5", "schema", "1"]).SerializeToString()
    answer = client.request("GET", f"{filled}/keyvalues?fields=type", content=keys)
    assert [(kv.key, kv.value) for kv in pb.KeyValues.FromString(answer.content).kvs] == [
        ("20", b'{"bodyid":20,"type":"PN\\u003c\\u0026\\u003e"}'),
        ("5", b""),
        ("schema", b"any"),
        ("1", b'{"bodyid":1,"type":"KC"}'),
    ]
    assert client.request("GET", f"{filled}/keyvalues?json=true", content=b"null").json() == {}


def test_all(client, filled):
    bodies = lambda answer: [a["bodyid"] for a in answer.json()]  # noqa: E731
    assert bodies(client.get(f"{filled}/all")) == [1, 20, HUGE]
    assert bodies(client.get(f"{filled}/all?fields=bodyid")) == [1, 20, 300, HUGE]
    assert bodies(client.get(f"{filled}/all?fields=size,bodyid")) == [1, HUGE]
    raw = client.get(f"{filled}/all?fields=", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in raw.headers
    for accepted, coded in (("gzip", True), ("deflate, gzip", True), ("gzip;q=1.0", False), ("br", False)):
        answer = client.get(f"{filled}/all", headers={"Accept-Encoding": accepted})
        assert (answer.headers.get("content-encoding") == "gzip") == coded
        assert answer.content == raw.content


def test_queries(client, filled):
    ask = lambda query, options="", **how: client.request("GET", f"{filled}/query{options}", json=query)  # noqa: E731
    assert ask({"type": "re/^[A-Z]+<"}, "?onlyid=true").json() == [20]
    assert ask({"bodyid": [HUGE, 5, 1, 1]}, "?onlyid=true").json() == [HUGE, 1, 1]
    assert ask({"bodyid": [HUGE, 1]}, "?fields=size").json() == [
        {"bodyid": HUGE, "size": 2**53 + 1},
        {"bodyid": 1, "size": 3},
    ]
    assert ask({"size": 2**53}).json() == []
    assert ask({}).json() == []
    assert ask({"type": "exists/0"}, "?fields=size").json() == [{"bodyid": 300}, {"bodyid": HUGE, "size": 2**53 + 1}]
    assert client.post(f"{filled}/query?onlyid=true", json=[{"size": [3]}, {"type": r"re/\W"}]).json() == [1, 20]


def test_older_versions_answer_all(client, repo, filled):
    client.commit(repo)
    child = client.child(repo)
    url = f"/api/node/{child}/neurons"
    client.post(f"{url}/key/1?u=bob", json={"bodyid": 1, "type": "changed", "type_time": "2030-01-01T00:00:00Z"})
    assert client.get(f"{filled}/fields?counts=true").json()["type"] == 2
    assert client.get(f"{url}/fieldtimes").json()["type"] == "2030-01-01T00:00:00Z"
    assert client.get(f"{filled}/fieldtimes").json()["type"] < "2030"
    assert client.request("GET", f"{filled}/query?onlyid=true", json={"type": "KC"}).json() == [1]
    assert client.request("GET", f"{url}/query?fields=type", json={"type": "changed"}).json() == [
        {"bodyid": 1, "type": "changed"}
    ]
    locked = client.post(f"{filled}/key/1?u=bob", json={"bodyid": 1, "type": "forced"})
    assert locked.status_code == 400
    forced = client.post(f"{filled}/key/20?u=bob", params={**ADMIN, "u": "bob"}, json={"bodyid": 20, "type": "forced"})
    assert forced.status_code == 200
    assert client.request("GET", f"{url}/query?onlyid=true", json={"type": "forced"}).json() == [20]


def test_a_table_comes_in_batches(client, filled, monkeypatch):
    whole = pa.ipc.open_stream(client.get(f"{filled}/arrow").content).read_all()
    monkeypatch.setattr(frames, "_ROWS", 3)
    answer = client.get(f"{filled}/arrow")
    parts = list(pa.ipc.open_stream(answer.content))
    assert [part.num_rows for part in parts] == [3, whole.num_rows - 3]
    assert pa.Table.from_batches(parts) == whole
    none = client.request("GET", f"{filled}/arrow?fields=type", json={"type": "nobody's"})
    assert pa.ipc.open_stream(none.content).read_all().to_pydict() == {"bodyid": [], "type": []}


def test_a_server_reads_annotations_before_somebody_asks(client, filled):
    set_memory(memory())  # forgets what is in it
    assert library.kept() == 0
    assert warm(client.datastore) == 1
    before = library.kept()
    assert before > 0
    assert client.get(f"{filled}/fieldtimes").status_code == 200
    assert library.kept() == before
    set_memory(memory())
    start_warming(client.datastore).join()
    assert library.kept() == before


def test_tables(client, filled):
    read = lambda answer: pa.ipc.open_stream(answer.content).read_all().to_pydict()  # noqa: E731
    answer = client.get(f"{filled}/arrow?fields=size,type")
    assert answer.headers["content-type"] == "application/vnd.apache.arrow.stream"
    assert read(answer) == {
        "bodyid": [1, 20, 300, HUGE],
        "size": [3, None, None, 2**53 + 1],
        "type": ["KC", "PN<&>", None, None],
    }
    found = client.request("GET", f"{filled}/arrow?show=user", json={"type": "exists/1"})
    assert read(found)["type_user"] == ["ann", "ann"]


def test_histories(client, repo, filled):
    client.commit(repo)
    url = f"/api/node/{client.child(repo)}/neurons"
    stamp = {"type_time": "2030-01-01T00:00:00Z"}
    client.post(f"{url}/key/1?u=bob", json={"bodyid": 1, "type": "<new>", **stamp})
    client.delete(f"{url}/key/20?u=bob")
    changes = client.get(f"{url}/changes/{repo}").json()
    new = {"body": 1, "field": "type", "old": "KC", "new": "<new>", "user": "bob", "time": "2030-01-01T00:00:00Z"}
    gone = {"body": 20, "field": "type", "old": "PN<&>", "new": None, "user": "", "time": ""}
    assert [{n: v for n, v in c.items() if n != "version"} for c in changes] == [new, gone]
    history = client.get(f"{url}/history/1").json()
    assert [(c["field"], c["new"], c["version"] == repo) for c in history] == [
        ("size", 3, True),
        ("type", "KC", True),
        ("type", "<new>", False),
    ]
    assert client.get(f"{url}/history/77").json() == client.get(f"{url}/changes/{url.split('/')[3]}").json() == []
    assert [m["Action"] for m in client.get(f"{url}/mutations").json()] == ["postneuronjson", "delete"]


# ------------------------------------------------------------------ bad requests

DEEP = b"[" * 100_000


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        *[("POST", "key/1?u=ann", b) for b in (b"", b"{", b"[1]", b"null", b'{"a": 1}', b'{"bodyid": 2}', b"\xff\xfe")],
        *[
            ("POST", "key/1?u=ann", b'{"bodyid": 1, "a": ' + b + b"}")
            for b in (b"NaN", b"1e999", DEEP, b'"\\ud800"', b"01")
        ],
        *[
            ("POST", "key/1?u=ann", b'{"bodyid": %s}' % b)
            for b in (b'"1"', b"1.5", b"-1", b"true", b"[1]", b"1e30", b"{}")
        ],
        ("POST", "key/1?u=ann", b'{"bodyid": 1, "a_time": 5}'),
        ("POST", "key/1?u=ann", b'{"bodyid": 1, "a_time": ["x"]}'),
        ("POST", "key/1?u=ann", b'{"bodyid": 1, "a": "' + b"x" * (17 << 20) + b'"}'),
        ("POST", "key/1?u=ann", b'{"bodyid": 1, "a": 1' + b"0" * 100_000 + b"}"),
        ("POST", "key/1", b'{"bodyid": 1}'),
        ("POST", "key/1?u=ann", b'{"bodyid": 1, "' + b"n" * 1001 + b'": 1}'),
        ("POST", "query", b'{"' + b"n" * 1001 + b'": 1}'),
        ("POST", "key/0?u=ann", b'{"bodyid": 0}'),
        ("POST", "key?u=ann", b'{"bodyid": 1}'),
        *[("POST", f"key/{k}?u=ann", b'{"bodyid": 1}') for k in ("x", "-1", "+1", "1.0", "1e3", "0x1", "١", "1" * 50)],
        ("POST", "key/18446744073709551616?u=ann", b'{"bodyid": 18446744073709551616}'),
        ("POST", "key/schema", b"{}"),
        ("POST", "key/json_schema?u=ann", b"{}"),
        ("PUT", "key/1?u=ann", b'{"bodyid": 1}'),
        *[("DELETE", f"key/{k}", b"") for k in ("x", "json_schema", "1" * 50, "-1")],
        ("POST", "keyvalues?u=ann", b"no protobuf"),
        ("POST", "keyvalues", keyvalues(k1=b'{"bodyid": 1}')),
        ("POST", "keyvalues?u=ann", keyvalues(k1=b'{"bodyid": 1, "new": 1}', k2=b'{"bodyid": 3}')),
        ("POST", "keyvalues?u=ann", keyvalues(k1=b'{"bodyid": 1, "new": 1}', kx=b'{"bodyid": 3}')),
        ("POST", "keyvalues?u=ann", keyvalues(k1=b'{"bodyid": 1, "new": 1}', k0=b'{"bodyid": 0}')),
        ("POST", "keyvalues?u=ann", keyvalues(k5=b'{"bodyid": 5}', kschema=b"{}")),
        ("DELETE", "keyvalues", b""),
        ("POST", "json_schema", b""),
        ("POST", "json_schema", b'{"type": 5}'),
        ("POST", "json_schema", DEEP),
        ("PUT", "schema", b"{}"),
        ("DELETE", "query", b""),
        *[
            ("POST", "query", b)
            for b in (b"", b"{", b"[]", b"null", b"5", b'"x"', b"[5]", DEEP, b'{"a": NaN}', b'{"a": 1e999}')
        ],
        *[("POST", "query", b'{"type": %s}' % b) for b in (b'"re/("', b'["re/[z-a]"]', b'"re/(?<=a)b"', b'"re/\\\\1"')],
        ("POST", "query", b'{"type": "re/' + b"a" * 20_000 + b'"}'),
        ("POST", "query", b'{"type": "re/((a{1000}){1000}){1000}"}'),
        ("GET", "keyvalues?json=true", b"{"),
        ("GET", "keyvalues?json=true", b"[1.5]"),
        ("GET", "keyvalues?json=true", b'["x"]'),
        ("GET", "keyvalues?json=true", b"[-1]"),
        ("GET", "keyvalues?json=true", b"[18446744073709551616]"),
        ("GET", "keyvalues?json=true&tar=true", b"[1]"),
        ("GET", "keyvalues?tar=true", b'["1", "json_schema"]'),
        ("GET", "keyvalues", b"\xff\xff"),
        ("GET", "keyrange/1x/2", b""),
        ("GET", "keyrange/1/18446744073709551616", b""),
        ("GET", "keyrange/1", b""),
        ("GET", "keyrangevalues/1/2?json=true&tar=true", b""),
        ("GET", "arrow", b"{"),
        ("GET", "arrow", b'{"type": "re/("}'),
        *[("GET", f"history/{k}", b"") for k in ("x", "0", "-1")],
        ("GET", "history", b""),
        ("GET", "changes/nothing", b""),
        ("GET", "changes", b""),
        ("GET", "nothing", b""),
    ],
    ids=lambda value: repr(value[:40]),
)
def test_refused_and_nothing_changed(client, filled, method, path, body):
    before = state(client, filled)
    answer = client.request(method, f"{filled}/{path}", content=body)
    assert answer.status_code == 400, answer.text
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert len(answer.content) < 2000
    assert state(client, filled) == before


def test_a_body_larger_than_the_server_takes(make_client):
    client = make_client(max_body=1 << 20)
    url = client.instance(client.repo(), "neuronjson", "neurons")
    for method, path in (("POST", "key/1?u=ann"), ("POST", "keyvalues?u=ann"), ("POST", "schema"), ("POST", "query")):
        assert client.request(method, f"{url}/{path}", content=b" " * (2 << 20)).status_code == 400
    assert client.get(f"{url}/keys").json() == []


def test_a_catastrophic_expression(client, filled):
    client.post(f"{filled}/key/1?u=ann", json={"bodyid": 1, "type": "a" * 200_000 + "!"})
    answer = client.post(f"{filled}/query", json={"type": ["re/^(a+)+$", "re/^(a|a)*$", "re/(.*)*x"]})
    assert answer.json() == []


def test_gzip_of_nothing(client, url):
    answer = client.get(f"{url}/all", headers={"Accept-Encoding": "gzip"})
    assert answer.json() == []
    assert gzip.decompress(gzip.compress(answer.content)) == b"[]"
    for path in ("keys", "keyrange/0/a", "fields"):
        assert client.get(f"{url}/{path}").json() == []
    assert client.get(f"{url}/fieldtimes").json() == client.get(f"{url}/fields?counts=true").json() == {}
