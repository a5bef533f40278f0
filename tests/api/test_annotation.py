"""annotation over HTTP: bad input changes nothing, large bodies, what is told to Kafka, reloads, concurrent posts."""

import json
import threading
import time

import numpy as np
import pytest

from dvid_dask.datatypes.annotation import parsing, reload, staged, state
from dvid_dask.errors import Conflict
from tests.datatypes.annotation.model import Model, check, element, freeze

BLOCK = "16,16,16"


@pytest.fixture
def synapses(client, repo):
    """A labelmap of 16 bodies, layers of z, and an annotation that follows it."""
    client.instance(repo, "labelmap", "seg", BlockSize=BLOCK)
    labels = np.repeat(np.arange(1, 17, dtype="<u8"), 256)
    client.post(f"/api/node/{repo}/seg/raw/0_1_2/16_16_16/0_0_0", content=labels.tobytes())
    client.instance(repo, "annotation", "synapses")
    url = f"/api/node/{repo}/synapses"
    assert client.post(f"{url}/sync", content=b'{"sync":"seg"}').status_code == 200
    post(client, url, FIRST)
    return url


FIRST = [
    element((1, 2, 3), "PreSyn", ["t"], {"c": "1"}, [("PreSynTo", (1, 2, 4))]),
    element((1, 2, 4), "PostSyn", ["t", "u"], {}, [("PostSynTo", (1, 2, 3))]),
    element((30, 2, 4), "Note"),
]


def post(client, url, elements, status=200, **query):
    answer = client.post(f"{url}/elements", content=json.dumps(elements).encode(), params=query)
    assert answer.status_code == status, answer.text
    return answer


def everything(client, url):
    held = client.get(f"{url}/all-elements").json()
    lists = [client.get(f"{url}/label/{body}").json() for body in range(1, 17)]
    return held, lists, [client.get(f"{url}/tag/{tag}").json() for tag in "tu"]


def test_what_was_posted_comes_back(client, synapses):
    held = client.get(f"{synapses}/elements/64_64_64/-16_-16_-16").json()
    assert sorted(map(freeze, held)) == sorted(map(freeze, FIRST))
    assert client.get(f"{synapses}/label/4").json() == [{k: v for k, v in FIRST[0].items() if k != "Rels"}]
    verbose = client.get(f"{synapses}/label/5?relationships=verbose").json()
    assert verbose[0]["Rels"] == [
        {"Rel": "PostSynTo", "To": [1, 2, 3], "Kind": "PreSyn", "Tags": ["t"], "Prop": {"c": "1"}}
    ]
    assert client.get(f"{synapses}/elements/1_1_1/500_0_0").content == b"null"
    assert client.get(f"{synapses}/label/16").content == b"[]"
    assert client.get(f"{synapses}/scan").json() == {"num kv pairs": 2, "num empty blocks": 0}


BAD = [
    b"",
    b"{",
    b"{}",
    b"[1]",
    b'[{"Pos":[1,2,3]',
    b'[{"Pos":[1,2,3]}]x',
    b'[{"Pos":[1,2,NaN]}]',
    b'[{"Pos":[1,2,Infinity]}]',
    b'[{"Pos":[1,2,1e400]}]',
    b'[{"Pos":[1,2,3.0]}]',
    b'[{"Pos":[1,2,"3"]}]',
    b'[{"Pos":[1,2,2147483648]}]',
    b'[{"Pos":[-2147483649,2,3]}]',
    b'[{"Pos":[1,2,99999999999999999999999999]}]',
    b'[{"Pos":{"x":1}}]',
    b'[{"Kind":"presyn"}]',
    b'[{"Kind":null}]',
    b'[{"Tags":"t"}]',
    b'[{"Tags":[""]}]',
    b'[{"Tags":[3]}]',
    b'[{"Tags":["' + b"x" * 5000 + b'"]}]',
    b'[{"Prop":{"a":1}}]',
    b'[{"Prop":[]}]',
    b'[{"Rels":[{"Rel":"Likes"}]}]',
    b'[{"Rels":[{"To":[1,2,0.5]}]}]',
    b'[{"Rels":{}}]',
    b'[{"Tags":["\xff"]}]',
    b"[" * 100_000,
    b'{"a":' * 10_000,
    b'[{"Pos":[1,2,3],"Tags":["a"%b]}]' % (b',"a"' * 600_000),
    b'[{"Pos":[1,2,3]},,{"Pos":[1,2,4]}]',
    b'[{"Pos":[1,2,3]},]',
]


@pytest.mark.parametrize("body", BAD, ids=range(len(BAD)))
def test_bad_elements_change_nothing(client, synapses, body):
    before = everything(client, synapses)
    good = b'[{"Pos":[9,9,9],"Kind":"Note","Tags":["t"]},'
    for data in (body, good + body[1:] if body.startswith(b"[{") else body):
        assert client.post(f"{synapses}/elements", content=data).status_code == 400
        if b'[""]' not in data:  # low-level stores take empty tags
            assert client.post(f"{synapses}/blocks", content=b'{"0,0,0":%b}' % data).status_code == 400
            text = json.dumps({"5": data.decode("latin-1")})
            if b"\xff" not in data:
                assert client.post(f"{synapses}/labels", content=text).status_code == 400
    assert everything(client, synapses) == before


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b'{"0,0":[]}',
        b'{"x,0,0":[]}',
        b'{"0,0,0,0":[]}',
        b'{"0,0,99999999999":[]}',
        b'{"0,0,0":[],"0,0,0 ":[]}',
        b'{"0,0,0":[{"Pos":[17,0,0]}]}',
        b'{"0,0,0":[{"Pos":[1,0,0]},{"Pos":[1,0,0]}]}',
        b'{"0,0,0":3}',
        b'{"0,0,0":[],"0,0,0":[]}',
        b'{"0,0,0":[],}',
    ],
)
def test_bad_blocks_change_nothing(client, synapses, body):
    before = everything(client, synapses)
    assert client.post(f"{synapses}/blocks", content=body).status_code == 400
    assert everything(client, synapses) == before


@pytest.mark.parametrize("body", [*BAD, b'[{"Pos":[1,2,2147483648]}]'], ids=range(len(BAD) + 1))
@pytest.mark.parametrize("at", [0, 7])
def test_one_bad_element_among_many_changes_nothing(client, synapses, monkeypatch, body, at):
    """They are taken in parts, on a branch that is dropped."""
    monkeypatch.setattr(staged, "STAGED", 3)
    monkeypatch.setattr(staged, "_PART", 2)
    monkeypatch.setattr(parsing, "_PART", 2)
    inside = body.strip()[1:-1]
    if not body.startswith(b"[{") or not body.endswith(b"}]"):
        return
    good = [b'{"Pos":[%d,1,1]}' % n for n in range(8)]
    before = everything(client, synapses)
    data = b"[" + b",".join([*good[:at], inside, *good[at:]]) + b"]"
    assert client.post(f"{synapses}/elements", content=data).status_code == 400
    assert everything(client, synapses) == before
    assert client.post(f"{synapses}/elements", content=b"[" + b",".join(good) + b"]").status_code == 200
    assert len(client.get(f"{synapses}/elements/8_1_1/0_1_1").json()) == 8


@pytest.mark.parametrize("what", ["blocks", "labels"])
def test_a_request_names_only_so_many(client, synapses, monkeypatch, what):
    monkeypatch.setattr(parsing, "MAX_NAMES", 3)
    name, nothing = ("%d,0,0", []) if what == "blocks" else ("%d", "[]")
    before = everything(client, synapses)
    many = json.dumps({name % n: nothing for n in range(1, 5)})
    refused = client.post(f"{synapses}/{what}", content=many)
    assert refused.status_code == 400
    assert "at most 3" in refused.text
    assert everything(client, synapses) == before
    assert client.post(f"{synapses}/{what}", content=json.dumps({name % 90: nothing})).status_code == 200


def test_posted_blocks_are_filed_at_once(client, synapses):
    blocks = {"0,0,0": [element((5, 5, 7), "Gap", ["u"])], "2,0,0": []}
    assert client.post(f"{synapses}/blocks", content=json.dumps(blocks)).status_code == 200
    assert [e["Pos"] for e in client.get(f"{synapses}/label/8").json()] == [[5, 5, 7]]
    assert client.get(f"{synapses}/label/4").json() == []
    assert client.get(f"{synapses}/tag/t").json() == []
    assert [e["Pos"] for e in client.get(f"{synapses}/tag/u").json()] == [[5, 5, 7]]


def test_edges_of_the_coordinates(client, synapses):
    low, high = -(2**31), 2**31 - 1
    corners = [(x, y, z) for x in (low, high) for y in (low, high) for z in (low, high)]
    post(client, synapses, [element(c, "Gap", ["edge"], {}, [("GroupedWith", corners[0])]) for c in corners])
    assert len(client.get(f"{synapses}/tag/edge?relationships=verbose").json()) == 8
    assert len(client.get(f"{synapses}/elements/1_1_1/{high}_{high}_{high}").json()) == 1
    assert len(client.get(f"{synapses}/elements/{high}_{high}_{high}/{low}_{low}_{low}").json()) == 1
    assert client.post(f"{synapses}/move/{low}_{low}_{low}/{high}_{high}_{high}").status_code == 200
    assert len(client.get(f"{synapses}/tag/edge").json()) == 7
    for bad in (f"{high + 1}_0_0", "1_2", "1_2_3_4", "a_b_c", "1.5_2_3", "1_2_nan"):
        assert client.delete(f"{synapses}/element/{bad}").status_code == 400
        assert client.post(f"{synapses}/move/1_2_3/{bad}").status_code == 400
        assert client.get(f"{synapses}/elements/{bad}/0_0_0").status_code == 400
    assert client.delete(f"{synapses}/element/{high}_{high}_{high}").status_code == 200


def test_a_position_that_comes_twice_in_one_request_has_the_last_element(client, synapses):
    for pos in ((40, 40, 40), (1, 2, 3)):  # a new one, and one that is there
        post(client, synapses, [element(pos, "Gap", ["t"], {"n": str(i)}) for i in range(3)])
        (held,) = client.get(f"{synapses}/elements/1_1_1/{'_'.join(map(str, pos))}").json()
        assert held["Prop"] == {"n": "2"}
    assert len([e for e in client.get(f"{synapses}/tag/t").json() if e["Pos"] == [1, 2, 3]]) == 1


def test_a_tag_goes_from_one_element_to_another_in_one_request(client, synapses):
    """What makes DVID panic."""
    post(client, synapses, [element((1, 2, 3), "PreSyn", ["v"]), element((1, 2, 4), "PostSyn", ["t"])])
    assert [e["Pos"] for e in client.get(f"{synapses}/tag/t").json()] == [[1, 2, 4]]
    assert [e["Pos"] for e in client.get(f"{synapses}/tag/v").json()] == [[1, 2, 3]]
    assert client.get(f"{synapses}/tag/u").json() == []


def test_a_move_within_a_body_moves_its_entry(client, synapses):
    assert client.post(f"{synapses}/move/1_2_3/8_8_3").status_code == 200
    assert [e["Pos"] for e in client.get(f"{synapses}/label/4?relationships=true").json()] == [[8, 8, 3]]


def test_large_bodies(client, synapses):
    too_large = b'[{"Pos":[1,2,3],"Prop":{"a":"' + b"x" * (129 << 20) + b'"}}]'
    assert client.post(f"{synapses}/elements", content=too_large).status_code == 400
    del too_large
    many = [element((i % 64, i // 64 % 64, i // 4096), "PreSyn", ["many"], {"i": str(i)}) for i in range(20_000)]
    post(client, synapses, many)
    assert len(client.get(f"{synapses}/tag/many").json()) == 20_000
    in_body = client.get(f"{synapses}/label/3").json()
    assert sorted(e["Pos"] for e in in_body) == sorted(e["Pos"] for e in many if e["Pos"][2] == 2 and
                                                       max(e["Pos"][:2]) < 16)  # fmt: skip


def test_requests_of_other_forms(client, synapses):
    for wrong in ("element/1_2_3", "move/1_2_3/1_2_5", "labels", "reload"):
        assert client.get(f"{synapses}/{wrong}").status_code == 400
    for wrong in (
        "label/0",
        "label/x",
        "label/-1",
        "label/18446744073709551616",
        "label",
        "tag",
        "roi/none",
        "roi/a,b,c",
    ):
        assert client.get(f"{synapses}/{wrong}").status_code == 400, wrong
    assert client.post(f"{synapses}/labels/3", content=b"{}").status_code == 400
    assert client.get(f"{synapses}/all-elements/3").status_code == 400
    assert client.delete(f"{synapses}/element/7_7_7").status_code == 400


def test_fields_in_any_case(client, synapses):
    post(client, synapses, [{"pos": [50, 1, 1], "KIND": "Gap", "tags": None, "more": 3, "rels": [{"to": [1]}]}])
    (held,) = client.get(f"{synapses}/elements/1_1_1/50_1_1").json()
    rels = [{"Rel": "UnknownRelationship", "To": [1, 0, 0]}]
    assert held == {"Pos": [50, 1, 1], "Kind": "Gap", "Tags": [], "Prop": {}, "Rels": rels}


def test_markup_in_texts_is_escaped(client, synapses):
    post(client, synapses, [element((50, 1, 1), "Note", ["<b>"], {"&": ">"})])
    answer = client.get(f"{synapses}/elements/1_1_1/50_1_1")
    assert not set(b"<>&") & set(answer.content)
    assert answer.json()[0]["Tags"] == ["<b>"]


def test_posts_wait_for_a_reload_and_deletes_do_not(client, synapses, make_client):
    instance = client.datastore[synapses.split("/")[3]]["synapses"]
    with instance.holding_reload():
        before = everything(client, synapses)
        for keyword, body in (
            ("elements", b"[]"),
            ("blocks", b"{}"),
            ("labels", b"{}"),
            ("reload", b""),
            ("sync", b'{"sync":""}'),
            ("tags", b"{}"),
            ("move/1_2_3/1_2_5", b""),
        ):
            assert client.post(f"{synapses}/{keyword}", content=body).status_code == 400, keyword
        assert everything(client, synapses) == before
        assert client.delete(f"{synapses}/element/30_2_4").status_code == 200
    post(client, synapses, FIRST)


def test_a_reload_that_was_killed_holds_nobody_up_for_long(client, synapses, monkeypatch):
    instance = client.datastore[synapses.split("/")[3]]["synapses"]
    monkeypatch.setattr(state, "LEASE", 0.3)
    instance.mutate(lambda _, space: state.hold_reload(space))
    post(client, synapses, FIRST, status=400)
    time.sleep(0.4)
    post(client, synapses, FIRST)


def test_a_reload_of_very_many_is_answered_at_once_and_done_behind(client, synapses, monkeypatch):
    """All lists of it are seen at once, and an edit of the segmentation meanwhile only makes it begin again."""
    from dvid_dask.ops import elements as jobs

    instance = client.datastore[synapses.split("/")[3]]["synapses"]
    wanted = everything(client, synapses)
    text = json.dumps([{"Pos": [3, 3, 3], "Kind": "Gap"}])
    assert client.post(f"{synapses}/labels", content=json.dumps({"2": text, "77": text})).status_code == 200
    assert everything(client, synapses) != wanted
    monkeypatch.setattr(reload, "MOST", 2)
    go, tries = threading.Event(), []
    run = jobs._Reload.__call__

    def slow(self, *args):
        tries.append(self)
        if len(tries) == 1:
            raise Conflict("somebody edited")
        assert go.wait(60)
        return run(self, *args)

    monkeypatch.setattr(jobs._Reload, "__call__", slow)
    assert client.post(f"{synapses}/reload?check=true").status_code == 200
    wait_until(lambda: len(tries) == 2)
    before = everything(client, synapses)
    assert before != wanted
    post(client, synapses, FIRST, status=400)
    assert client.post(f"{synapses}/reload").status_code == 400
    assert everything(client, synapses) == before
    go.set()
    wait_until(lambda: not instance.reloading)
    assert everything(client, synapses) == wanted
    assert list(instance.disagreements()) == []
    post(client, synapses, FIRST)


def test_a_committed_version_has_no_reload_behind(client, synapses, monkeypatch):
    instance = client.datastore[synapses.split("/")[3]]["synapses"]
    monkeypatch.setattr(reload, "MOST", 2)
    instance.version.commit()
    assert client.post(f"{synapses}/reload?check=true").status_code == 400


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_lists_as_given_until_a_reload(client, synapses):
    text = json.dumps([{"Pos": [3, 3, 3], "Kind": "Gap"}])
    assert client.post(f"{synapses}/labels", content=json.dumps({"5": text, "0": text})).status_code == 200
    assert client.get(f"{synapses}/label/5").json() == [{"Pos": [3, 3, 3], "Kind": "Gap", "Tags": None, "Prop": None}]
    post(client, synapses, [element((2, 2, 4), "Note")])
    assert len(client.get(f"{synapses}/label/5").json()) == 2
    assert client.post(f"{synapses}/reload").status_code == 200
    assert sorted(e["Pos"] for e in client.get(f"{synapses}/label/5").json()) == [[1, 2, 4], [2, 2, 4]]


def test_concurrent_posts_lose_nothing(client, synapses):
    model = Model((16, 16, 16))
    model.post(FIRST)
    mine = [[element((x, y, 5), "PreSyn", ["t"], {"w": str(x)}) for y in range(12)] for x in range(4)]

    def worker(elements):
        for e in elements:
            post(client, synapses, [e])

    threads = [threading.Thread(target=worker, args=(elements,)) for elements in mine]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for elements in mine:
        model.post(elements)
    version = client.datastore[synapses.split("/")[3]]
    check(version["synapses"], model, version["seg"])


def test_undo(client, synapses):
    before = everything(client, synapses)
    assert client.delete(f"{synapses}/element/1_2_3?u=kim").status_code == 200
    deleted = client.get(f"{synapses}/undo").json()[-1]
    assert deleted["Action"] == "delete"
    assert deleted["User"] == "kim"
    url = f"{synapses}/undo/{deleted['MutationID']}"
    post(client, synapses, [element((9, 9, 9), "Note")])
    assert client.post(url).json()["MutationID"] > deleted["MutationID"]
    assert client.delete(f"{synapses}/element/9_9_9").status_code == 200
    held = everything(client, synapses)
    assert [sorted(map(freeze, e)) for e in held[0].values()] == [sorted(map(freeze, e)) for e in before[0].values()]
    assert client.post(url).status_code == 400
    assert client.post(url.replace("undo/", "redo/")).status_code == 200
    post(client, synapses, [element((1, 2, 3), "Note")])
    assert client.post(url).status_code == 409
    assert client.post(f"{synapses}/undo/3").status_code == 404


def test_watchers_are_told(client, synapses):
    heard = []
    with client.datastore.watch(lambda message: heard.append(message.record)):
        data = json.dumps([element((5, 5, 5), "Gap")]).encode()
        client.post(f"{synapses}/elements?u=kim", content=data)
        client.post(f"{synapses}/elements?kafkalog=off", content=json.dumps([element((5, 5, 6), "Gap")]).encode())
        client.post(f"{synapses}/move/5_5_5/5_5_7")
        client.delete(f"{synapses}/element/5_5_7")
        client.post(f"{synapses}/blocks", content=b"{}")
        client.post(synapses.replace("synapses", "seg/merge"), content=b"[4,5]")
    told = [{k: v for k, v in m.items() if k not in ("Timestamp", "UUID")} for m in heard]
    posted = told[0]
    assert posted["Action"] == "element-post"
    assert posted["User"] == "kim"
    assert client.datastore.get_blob(posted["DataRef"]) == data
    assert told[1:3] == [
        {"Action": "element-move", "From": [5, 5, 5], "To": [5, 5, 7]},
        {"Action": "element-delete", "Point": [5, 5, 7]},
    ]
    assert told[3]["Action"] == "blocks-post"
    (merge,) = [m for m in told if m["Action"] == "merge" and "Delta" in m]
    assert merge["Delta"] == {
        "Add": [{"Label": 4, "Kind": "PostSyn", "Pos": [1, 2, 4]}],
        "Del": [{"Label": 5, "Kind": "PostSyn", "Pos": [1, 2, 4]}],
    }
    assert all("UUID" in m for m in heard)


def test_what_is_left_out_is_null_in_the_list_of_a_body_alone(client, synapses):
    post(client, synapses, [{"Pos": [5, 5, 8], "Kind": "Gap"}, {"Pos": [6, 5, 8], "Kind": "Gap", "Tags": ["u"]}])
    bare = {"Pos": [5, 5, 8], "Kind": "Gap", "Tags": None, "Prop": None}
    assert client.get(f"{synapses}/label/9").json() == [bare, {**bare, "Pos": [6, 5, 8], "Tags": ["u"]}]
    assert client.get(f"{synapses}/label/9?relationships=verbose").json()[0] == {**bare, "Rels": []}
    full = {"Pos": [5, 5, 8], "Kind": "Gap", "Tags": [], "Prop": {}, "Rels": []}
    assert client.get(f"{synapses}/label/9?relationships=true").json()[0] == full
    assert client.get(f"{synapses}/elements/1_1_1/5_5_8").json() == [full]
    assert {"Pos": [6, 5, 8], "Kind": "Gap", "Tags": ["u"], "Prop": {}} in client.get(f"{synapses}/tag/u").json()
    # it stays so in the block when the element takes another's place
    post(client, synapses, [{"Pos": [5, 5, 8], "Kind": "Note"}])
    full = {"Pos": [5, 5, 8], "Kind": "Note", "Tags": None, "Prop": None, "Rels": None}
    assert client.get(f"{synapses}/elements/1_1_1/5_5_8").json() == [full]
