"""keyvalue over HTTP: ranges against a model, batches in all three forms, one state per answer."""

import io
import json
import random
import re
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvid_dask.api.ranges import header_range
from dvid_dask.formats import dvid_pb2 as pb

from .conftest import ADMIN


def tar_of(answer):
    assert answer.headers["content-type"] == "application/tar"
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as t:
        return {m.name: t.extractfile(m).read() for m in t}


@pytest.fixture
def filled(client, kv):
    for key, value in (("a", b'{"x": 1}'), ("b", b"[2]"), ("c", b"plain"), ("empty", b"")):
        assert client.post(f"{kv}/key/{key}", content=value).status_code == 200
    return kv


# ------------------------------------------------------------------ one key


def test_a_value_comes_back(client, kv):
    value = bytes(range(256)) * 20
    assert client.post(f"{kv}/key/k", content=value).content == b""
    answer = client.get(f"{kv}/key/k")
    assert answer.content == value
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["accept-ranges"] == "bytes"
    assert client.delete(f"{kv}/key/k").content == b""
    assert client.delete(f"{kv}/key/k").status_code == 200
    answer = client.get(f"{kv}/key/k")
    assert (answer.status_code, answer.text) == (404, f'Key "k" not found ({kv}/key/k).\n')


def test_head(client, filled):
    answer = client.head(f"{filled}/key/a")
    assert answer.status_code == 200
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["content-length"] == "8"
    assert answer.headers["etag"] == client.get(f"{filled}/key/a").headers["etag"]
    assert client.head(f"{filled}/key/empty").headers["content-length"] == "0"
    assert client.head(f"{filled}/key/a", headers={"If-None-Match": answer.headers["etag"]}).status_code == 304
    assert client.head(f"{filled}/key/nosuch").status_code == 404


def test_an_etag_names_the_content(client, filled):
    first = client.get(f"{filled}/key/a")
    tag = first.headers["etag"]
    assert re.fullmatch(r'"[0-9a-f]{32}"', tag)
    for names in (tag, f'"x", W/{tag}', "*"):
        again = client.get(f"{filled}/key/a", headers={"If-None-Match": names})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    part = {"Range": "bytes=1-3"}
    assert client.get(f"{filled}/key/a", headers={**part, "If-Range": tag}).status_code == 206
    client.post(f"{filled}/key/a", content=b"something else")
    changed = client.get(f"{filled}/key/a", headers={**part, "If-Range": tag})
    assert (changed.status_code, changed.content) == (200, b"something else")
    assert client.get(f"{filled}/key/a", headers={"If-None-Match": tag}).status_code == 200
    client.post(f"{filled}/key/b", content=b"something else")
    assert client.get(f"{filled}/key/b").headers["etag"] == changed.headers["etag"]


# ------------------------------------------------------------------ large values

LARGE = random.Random(3).randbytes(3_500_000)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_value_streams_in_and_out(client, kv, chunked):
    body = (LARGE[at : at + 70_000] for at in range(0, len(LARGE), 70_000)) if chunked else LARGE
    assert client.post(f"{kv}/key/big", content=body).status_code == 200
    answer = client.get(f"{kv}/key/big")
    assert answer.content == LARGE
    assert answer.headers["content-length"] == str(len(LARGE))
    head = client.head(f"{kv}/key/big")
    assert head.headers["content-length"] == str(len(LARGE))
    for span, expected in (
        ("1048570-1048590", LARGE[1048570:1048591]),
        ("-5", LARGE[-5:]),
        ("3000000-", LARGE[3000000:]),
        ("0-0", LARGE[:1]),
    ):
        part = client.get(f"{kv}/key/big", headers={"Range": f"bytes={span}", "If-Range": head.headers["etag"]})
        assert (part.status_code, part.content) == (206, expected)
        assert part.headers["content-range"].endswith(f"/{len(LARGE)}")
    assert client.get(f"{kv}/key/big", headers={"Range": f"bytes={len(LARGE)}-"}).status_code == 416
    assert client.get(f"{kv}/key/big?byte_start=5&byte_end=2000000").content == LARGE[5:2000001]
    assert tar_of(client.get(f"{kv}/keyrangevalues/a/z?tar=true")) == {"big": LARGE}
    kvs = pb.KeyValues.FromString(client.get(f"{kv}/keyrangevalues/a/z").content).kvs
    assert [(x.key, x.value) for x in kvs] == [("big", LARGE)]
    wanted = [{"key": "big", "byte_start": 1048575, "byte_end": 1048577}]
    assert tar_of(client.request("GET", f"{kv}/keyvalues?tar=true", json=wanted)) == {"big": LARGE[1048575:1048578]}
    records = client.get(f"{kv}/mutations").json()
    assert [(r["Action"], r["Bytes"]) for r in records] == [("postkv", len(LARGE))]
    assert client.delete(f"{kv}/key/big").status_code == 200
    assert client.get(f"{kv}/key/big").status_code == 404


def test_a_large_batch_is_one_commit(client, kv):
    message = pb.KeyValues(kvs=[pb.KeyValue(key=k, value=LARGE[: 10**6 * n]) for n, k in enumerate("abcd")])
    assert client.post(f"{kv}/keyvalues", content=message.SerializeToString()).status_code == 200
    assert client.get(f"{kv}/key/d").content == LARGE[: 3 * 10**6]
    assert len(client.get(f"{kv}/mutations").json()) == 4


def test_what_is_too_long_is_refused_and_leaves_nothing(make_client):
    client = make_client(max_body=2_000_000)
    kv = client.instance(client.repo())
    client.post(f"{kv}/key/big", content=b"before")
    for body in (LARGE, (LARGE[at : at + 70_000] for at in range(0, len(LARGE), 70_000))):
        answer = client.post(f"{kv}/key/big", content=body)
        assert (answer.status_code, "longer than the 2000000" in answer.text) == (400, True)
    assert client.get(f"{kv}/key/big").content == b"before"
    assert len(client.get(f"{kv}/mutations").json()) == 1


def test_a_large_value_that_breaks_off_leaves_nothing(launch):
    server = launch()
    import urllib.request

    def post(path, data):
        with urllib.request.urlopen(f"{server.url}/api{path}", data=data) as answer:
            return json.load(answer)

    root = post(f"/repos?admintoken={ADMIN['admintoken']}", b"{}")["root"]
    post(f"/repo/{root}/instance", b'{"typename": "keyvalue", "dataname": "kv"}')
    head = f"POST /api/node/{root}/kv/key/big HTTP/1.1\r\nHost: x\r\nContent-Length: 60000000\r\n\r\n".encode()
    server.raw(head + bytes(40_000_000), leave=True)
    with urllib.request.urlopen(f"{server.url}/api/node/{root}/kv/keys") as answer:
        assert json.load(answer) == []


def test_a_value_of_length_zero(client, filled):
    assert client.get(f"{filled}/key/empty").status_code == 404
    assert client.head(f"{filled}/key/empty").status_code == 200
    assert "empty" in client.get(f"{filled}/keys").json()
    assert "empty" not in tar_of(client.get(f"{filled}/keyrangevalues/a/z?tar=true"))
    assert client.request("GET", f"{filled}/keyvalues?json=true", json=["empty"]).json() == {"empty": {}}


@pytest.mark.parametrize("method", ["PUT", "PATCH", "OPTIONS"])
def test_methods_of_key(client, filled, method):
    assert client.request(method, f"{filled}/key/a", content=b"x").status_code == 400
    assert client.get(f"{filled}/key/a").content == b'{"x": 1}'


def model(header, length):
    """RFC 9110 for one range, and what the specification says of the rest."""
    found = re.fullmatch(r"bytes=\s*(\d*)\s*-\s*(\d*)\s*", header, re.ASCII)
    if not found or found.groups() == ("", ""):
        return 200, range(length)
    a, b = found.groups()
    if a == "":
        return (206, range(max(0, length - int(b)), length)) if int(b) else (416, None)
    if b and int(a) > int(b):
        return 200, range(length)
    if int(a) >= length:
        return 416, None
    return 206, range(int(a), min(int(b), length - 1) + 1 if b else length)


numbers = st.one_of(st.integers(0, 12).map(str), st.just(""), st.just("99999999999999999999999"))
headers = st.one_of(
    st.builds(
        lambda u, a, s, b: f"{u}{a}{s}{b}",
        st.sampled_from(["bytes=", "bytes= ", "Bytes=", "b="]),
        numbers,
        st.sampled_from(["-", " - ", "", "--", "-,"]),
        numbers,
    ),
    st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=12).map(lambda s: "bytes=" + s),
)


@settings(deadline=None)
@given(headers, st.integers(1, 10))
def test_range_headers(header, length):
    status, span = model(header, length)
    found = header_range(header, length)
    if found is None:
        assert status == 200
    elif found[0] >= length or found[0] > found[1]:
        assert status == 416
    else:
        assert (status, span) == (206, range(found[0], found[1] + 1))


def test_unsatisfiable(client, filled):
    for header in ("bytes=8-", "bytes=-0", "bytes=99-100"):
        answer = client.get(f"{filled}/key/a", headers={"Range": header})
        assert answer.status_code == 416
        assert answer.headers["content-range"] == "bytes */8"
        assert "accept-ranges" not in answer.headers


@pytest.mark.parametrize(
    "query",
    [
        "byte_start=1",
        "byte_end=1",
        "byte_start=2&byte_end=1",
        "byte_start=0&byte_end=8",
        "byte_start=+1&byte_end=2",
        "byte_start=-1&byte_end=2",
        "byte_start=&byte_end=",
        "byte_start=1e1&byte_end=20",
    ],
)
def test_query_ranges_that_are_refused(client, filled, query):
    assert client.get(f"{filled}/key/a?{query}").status_code == 400


def test_query_range(client, filled):
    answer = client.get(f"{filled}/key/a?byte_start=1&byte_end=3")
    assert (answer.status_code, answer.content) == (200, b'"x"')
    # also a header that would be ignored
    answer = client.get(f"{filled}/key/a?byte_start=1&byte_end=3", headers={"Range": "items=1"})
    assert answer.status_code == 400


@pytest.mark.parametrize("key", ["k" * 5000, "%00", "%ff"])
def test_keys_that_are_refused(client, kv, key):
    assert client.post(f"{kv}/key/{key}", content=b"x").status_code == 400
    assert client.get(f"{kv}/keys").json() == []


# ------------------------------------------------------------------ listings


def test_listings_take_any_method(client, filled):
    for method in ("GET", "POST", "PUT", "DELETE"):
        assert client.request(method, f"{filled}/keys").json() == ["a", "b", "c", "empty"]
        assert client.request(method, f"{filled}/keyrange/b/d").json() == ["b", "c"]
        assert client.request(method, f"{filled}/keyrangevalues/a/b?json=true").json() == {"a": {"x": 1}, "b": [2]}
    assert client.get(f"{filled}/keyrange/c/a").json() == []
    for path in ("keyrange", "keyrange/a", "keyrangevalues/a"):
        assert client.get(f"{filled}/{path}").status_code == 400


def test_three_forms_of_a_range(client, filled):
    assert tar_of(client.get(f"{filled}/keyrangevalues/a/z?jsontar=true")) == {
        "a": b'{"x": 1}',
        "b": b"[2]",
        "c": b"plain",
    }
    message = pb.KeyValues.FromString(client.get(f"{filled}/keyrangevalues/b/z").content)
    assert [(kv.key, kv.value) for kv in message.kvs] == [("b", b"[2]"), ("c", b"plain")]
    assert client.get(f"{filled}/keyrangevalues/a/b?json=true&tar=true").status_code == 400
    # without check, values stand as they are
    assert client.get(f"{filled}/keyrangevalues/b/c?json=true").content == b'{"b":[2],"c":plain}'
    assert client.get(f"{filled}/keyrangevalues/b/c?json=true&check=true").status_code == 400
    assert client.get(f"{filled}/keyrangevalues/x/z?json=true").content == b"{}"
    assert tar_of(client.get(f"{filled}/keyrangevalues/x/z?tar=true")) == {}


def test_names_of_keys_are_escaped_in_json(client, kv):
    name = 'say "hi" \\ <b> & é\x01'
    message = pb.KeyValues(kvs=[pb.KeyValue(key=name, value=b"1")])
    assert client.post(f"{kv}/keyvalues", content=message.SerializeToString()).status_code == 200
    assert client.get(f"{kv}/keys").json() == [name]
    assert client.get(f"{kv}/keyrangevalues/a/z?json=true").json() == {name: 1}
    assert client.request("GET", f"{kv}/keyvalues?json=true", json=[name]).json() == {name: 1}


def test_many_keys_are_streamed_in_order(client, kv):
    names = [f"{n:05d}" for n in range(3000)]
    message = pb.KeyValues(kvs=[pb.KeyValue(key=n, value=n.encode() * 50) for n in names])
    assert client.post(f"{kv}/keyvalues", content=message.SerializeToString()).status_code == 200
    assert client.get(f"{kv}/keys").json() == names
    got = tar_of(client.get(f"{kv}/keyrangevalues/00000/99999?tar=true"))
    assert got == {n: n.encode() * 50 for n in names}
    wanted = names[::-7] + ["nosuch"] + names[:2]
    got = pb.KeyValues.FromString(
        client.request("GET", f"{kv}/keyvalues", content=pb.Keys(keys=wanted).SerializeToString()).content
    )
    assert [(kv.key, kv.value) for kv in got.kvs] == [(n, b"" if n == "nosuch" else n.encode() * 50) for n in wanted]


def test_long_and_odd_names_in_tar(client, kv):
    names = ["k" * 300, "größe", "..", "a b"]
    for name in names:
        message = pb.KeyValues(kvs=[pb.KeyValue(key=name, value=name.encode())])
        client.post(f"{kv}/keyvalues", content=message.SerializeToString())
    assert tar_of(client.get(f"{kv}/keyrangevalues/!/~?tar=true")) == {n: n.encode() for n in names}


# ------------------------------------------------------------------ batches


def batch(client, kv, query, body):
    return client.request("GET", f"{kv}/keyvalues?{query}", content=json.dumps(body).encode())


def test_json_batches(client, filled):
    assert batch(client, filled, "json=true", ["b", "nosuch", "a", "b"]).content == (
        b'{"b":[2],"nosuch":{},"a":{"x": 1},"b":[2]}'
    )
    ranged = [
        {"key": "a", "byte_start": 1, "byte_end": 3},
        {"key": "b"},
        {"key": "gone", "byte_start": 0, "byte_end": 9},
    ]
    assert batch(client, filled, "json=true", ranged).json() == {"a": "x", "b": [2], "gone": {}}
    assert tar_of(batch(client, filled, "tar=true", ranged)) == {"a": b'"x"', "b": b"[2]", "gone": b""}
    assert batch(client, filled, "json=true", None).content == b"{}"
    assert batch(client, filled, "json=true", [{}]).json() == {"": {}}
    assert batch(client, filled, "json=true", ["c"]).content == b'{"c":plain}'
    assert batch(client, filled, "json=true&check=true", ["b", "c"]).status_code == 400


@pytest.mark.parametrize(
    "body",
    [
        "x",
        {"key": "a"},
        5,
        ["a", {"key": "b"}],
        [1],
        [["a"]],
        [{"key": 5}],
        [{"key": "a", "byte_start": 0}],
        [{"key": "a", "byte_end": 0}],
        [{"key": "a", "byte_start": -1, "byte_end": 2}],
        [{"key": "a", "byte_start": 0.5, "byte_end": 2}],
        [{"key": "a", "byte_start": 3, "byte_end": 2}],
        [{"key": "a", "byte_start": 0, "byte_end": 8}],
        [{"key": "a", "byte_start": 0, "byte_end": 2}],  # no JSON value
    ],
)
def test_json_batches_that_are_refused(client, filled, body):
    assert batch(client, filled, "json=true", body).status_code == 400


def test_protobuf_batches(client, filled):
    keys = pb.Keys(keys=["c", "nosuch"], key_ranges=[pb.KeyRange(key="c", byte_start=1, byte_end=2)])
    answer = client.request("GET", f"{filled}/keyvalues", content=keys.SerializeToString())
    assert answer.headers["content-type"] == "application/octet-stream"
    message = pb.KeyValues.FromString(answer.content)
    assert [(kv.key, kv.value) for kv in message.kvs] == [("c", b"plain"), ("nosuch", b""), ("c", b"la")]
    bad = pb.Keys(key_ranges=[pb.KeyRange(key="c", byte_start=1, byte_end=5)])
    assert client.request("GET", f"{filled}/keyvalues", content=bad.SerializeToString()).status_code == 400
    for body in (b"\xff\xff", b"\x0a\x05ab", b'["a"]'):
        assert client.request("GET", f"{filled}/keyvalues", content=body).status_code == 400
    for method in ("PUT", "DELETE", "HEAD"):
        assert client.request(method, f"{filled}/keyvalues").status_code == 400


def test_a_batch_is_written_whole_or_not_at_all(client, kv):
    good = [pb.KeyValue(key=f"k{n}", value=b"v") for n in range(10)]
    for bad in (pb.KeyValue(key="", value=b"v"), pb.KeyValue(key="a\0b", value=b"v"), pb.KeyValue(key="x" * 5000)):
        body = pb.KeyValues(kvs=[*good, bad]).SerializeToString()
        assert client.post(f"{kv}/keyvalues", content=body).status_code == 400
    assert client.post(f"{kv}/keyvalues", content=body[:-3]).status_code == 400
    assert client.get(f"{kv}/keys").json() == []
    assert client.get(f"{kv}/mutations").json() == []
    assert client.post(f"{kv}/keyvalues", content=b"").status_code == 200


def test_a_committed_version(client, filled, repo):
    client.commit(repo)
    for method, path in (("POST", "key/a"), ("DELETE", "key/a"), ("POST", "keyvalues"), ("POST", "keys")):
        assert client.request(method, f"{filled}/{path}", content=b"").status_code == 400
        assert client.request(method, f"{filled}/{path}", content=b"", params=ADMIN).status_code == 200
