"""labelsz over HTTP: counts and rankings as DVID gives them, and requests that are no good."""

import json

import numpy as np
import pytest

from dvid_dask.datatypes.labelsz import counts


@pytest.fixture
def datastore(client):
    return client.app.state.server.datastore


@pytest.fixture
def path(client, repo, datastore):
    url = client.instance(repo, "labelsz", "ranks")
    label = np.array([7, 7, 7, 8, 8, 2**64 - 1], np.uint64)
    change = counts.tally(label, np.array([1, 2, 4, 1, 1, 3], np.uint8), np.array([2, 1, 5, 1, 1, 3]))
    datastore[repo]["ranks"].mutate(lambda m, space: counts.add(space, change))
    return url


def ask(client, url, body=None):
    answer = client.request("GET", url, content=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    return answer.json()


def test_counts_of_labels(client, path):
    assert ask(client, f"{path}/count/7/PostSyn") == {"Label": 7, "PostSyn": 2}
    assert ask(client, f"{path}/count/{2**64 - 1}/AllSyn") == {"Label": 2**64 - 1, "AllSyn": 3}
    assert ask(client, f"{path}/count/0/Voxels") == {"Label": 0, "Voxels": 0}
    assert ask(client, f"{path}/counts/Note", "[8, 7, 8, 99]") == [
        {"Label": 8, "Note": 0},
        {"Label": 7, "Note": 5},
        {"Label": 8, "Note": 0},
        {"Label": 99, "Note": 0},
    ]
    assert ask(client, f"{path}/counts/Note", "[]") == ask(client, f"{path}/counts/Note", "null") == []


def test_a_long_list_is_answered_in_its_order(client, path):
    labels = [int(v) for v in np.random.default_rng(0).integers(1, 20, 30_000)]
    found = ask(client, f"{path}/counts/PostSyn", json.dumps(labels))
    assert [row["Label"] for row in found] == labels
    assert all(row["PostSyn"] == (2 if row["Label"] in (7, 8) else 0) for row in found)


def test_rankings(client, path):
    rows = [{"Label": 7, "Size": 3}, {"Label": 2**64 - 1, "Size": 3}, {"Label": 8, "Size": 2}]
    assert ask(client, f"{path}/top/10/AllSyn") == rows
    assert ask(client, f"{path}/top/{2**32 - 1}/AllSyn") == rows
    assert ask(client, f"{path}/top/0/AllSyn") == []
    assert ask(client, f"{path}/threshold/3/AllSyn") == rows[:2]
    assert ask(client, f"{path}/threshold/{2**32 - 1}/AllSyn") == []
    assert ask(client, f"{path}/threshold/0/AllSyn?offset=1&n=1") == rows[1:2]
    assert ask(client, f"{path}/threshold/0/AllSyn?n=0") == rows
    # as in DVID, a negative offset shortens the page
    assert ask(client, f"{path}/threshold/0/AllSyn?offset=-1&n=3") == rows[:2]
    assert ask(client, f"{path}/threshold/0/AllSyn?offset=-9&n=3") == []


@pytest.mark.parametrize(
    ("method", "rest", "body"),
    [
        ("GET", "count/1/Presyn", None),
        ("GET", f"count/{2**64}/PreSyn", None),
        ("GET", "count/-1/PreSyn", None),
        ("GET", "count/1", None),
        ("GET", f"top/{2**32}/PreSyn", None),
        ("GET", "top/1.5/PreSyn", None),
        ("GET", "top/1/Unknown", None),
        ("GET", f"threshold/{2**32}/PreSyn", None),
        ("GET", "threshold/1/PreSyn?n=-1", None),
        ("GET", f"threshold/1/PreSyn?offset={2**31}", None),
        ("GET", "threshold/1/PreSyn?n=1e3", None),
        ("GET", "counts/PreSyn", b""),
        ("GET", "counts/PreSyn", b"[1, 2"),
        ("GET", "counts/PreSyn", b"[1.5]"),
        ("GET", "counts/PreSyn", b"[NaN]"),
        ("GET", "counts/PreSyn", b"[-1]"),
        ("GET", "counts/PreSyn", b"[18446744073709551616]"),
        ("GET", "counts/PreSyn", b'["1"]'),
        ("GET", "counts/PreSyn", b"[[1]]"),
        ("GET", "counts/PreSyn", b"\xff\xfe"),
        ("GET", "counts/PreSyn", b"[" * 100_000),
        ("POST", "counts/PreSyn", b"[1]"),
        ("DELETE", "count/1/PreSyn", None),
        ("HEAD", "top/1/PreSyn", None),
        ("GET", "reload", None),
        ("GET", "nothing", None),
    ],
)
def test_bad_requests_are_refused_and_change_nothing(client, path, datastore, repo, method, rest, body):
    before = list(datastore[repo]["ranks"].view(0).scan())
    answer = client.request(method, f"{path}/{rest}", content=body)
    assert answer.status_code == 400, answer.text
    assert list(datastore[repo]["ranks"].view(0).scan()) == before


def test_a_reload_of_what_follows_nothing_changes_nothing(client, path, datastore, repo):
    before = list(datastore[repo]["ranks"].view(0).scan())
    assert client.post(f"{path}/reload").status_code == 200
    assert list(datastore[repo]["ranks"].view(0).scan()) == before


def test_a_committed_version_is_not_reloaded(client, path, repo):
    client.commit(repo)
    assert client.post(f"{path}/reload").status_code == 400


def test_a_reload_has_allsyn_count_notes_and_unknown_from_then_on(client, repo, datastore):
    seg = client.instance(repo, "labelmap", "seg", BlockSize="32,32,32")
    client.post(f"{seg}/raw/0_1_2/32_32_32/0_0_0", content=np.full((32, 32, 32), 5, np.uint64).tobytes())
    synapses = client.instance(repo, "annotation", "synapses")
    client.post(f"{synapses}/sync", json={"sync": "seg"})
    kinds = ["PreSyn", "Note", "Unknown", "Unknown", "Note"]
    elements = [{"Pos": [i, 0, 0], "Kind": kind, "Tags": [], "Prop": {}, "Rels": []} for i, kind in enumerate(kinds)]
    assert client.post(f"{synapses}/elements", json=elements).status_code == 200
    ranks = client.instance(repo, "labelsz", "ranks")
    assert client.post(f"{ranks}/sync", json={"sync": "synapses"}).status_code == 200
    assert ask(client, f"{ranks}/count/5/AllSyn") == {"Label": 5, "AllSyn": 1}  # counted by the sync
    assert client.post(f"{ranks}/reload").status_code == 200
    assert ask(client, f"{ranks}/count/5/AllSyn") == {"Label": 5, "AllSyn": 5}
    assert client.delete(f"{synapses}/element/1_0_0").status_code == 200
    assert ask(client, f"{ranks}/top/3/AllSyn") == [{"Label": 5, "Size": 4}]
    datastore[repo]["ranks"].recount(everything=False)
    assert ask(client, f"{ranks}/top/3/AllSyn") == [{"Label": 5, "Size": 1}]
    assert list(datastore[repo]["ranks"].disagreements()) == []
