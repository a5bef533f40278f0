"""labelmap over HTTP: the recorded answers of a DVID server, then what it does not say: bad input of every kind."""

import gzip
import hashlib
import importlib.util
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest

import dvid_dask
from dvid_dask.formats import compressed_segmentation, dvid_pb2
from dvid_dask.formats.block_stream import block_to_payload, write_record
from dvid_dask.formats.label_blocks import encode_block, solid_block
from dvid_dask.formats.rles import encode_rles

from .conftest import ADMIN, server_process

_given = os.environ.get("DVID_DASK_SHARED")
_place = Path(_given) if _given else Path(__file__).resolve().parents[3] / "shared"
SHARED = _place if (_place / "conformance/kit.py").is_file() else None

AREAS = ("labelmap-voxels", "labelmap-bodies")
CASES = sorted(p for area in AREAS for p in (SHARED / "conformance/cases" / area).glob("*.json")) if SHARED else []


@pytest.fixture(scope="module")
def kit():
    spec = importlib.util.spec_from_file_location("conformance_kit_labelmap", SHARED / "conformance/kit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    token = os.environ.setdefault("DVID_ADMIN_TOKEN", "conformance")
    store = tmp_path_factory.mktemp("labelmap-cases") / "store"
    dvid_dask.create(str(store), compact="never").close()
    with server_process(store, admin_token=token, allow_labelmap_split=True) as process:
        yield process.url


@pytest.mark.skipif(SHARED is None, reason="needs the shared folder (set DVID_DASK_SHARED)")
@pytest.mark.parametrize("path", CASES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_case(path, kit, url):
    kit.run_case(url, json.loads(path.read_text()))


# ------------------------------------------------------------------ beyond the recorded cases


@pytest.fixture
def seg(client, repo):
    path = client.instance(repo, "labelmap", "seg", BlockSize="16,16,16", MaxDownresLevel="1")
    labels = np.zeros((16, 16, 32), np.uint64)
    labels[:, :, 4:10], labels[:, :, 10:20] = 7, 9
    assert client.post(f"{path}/raw/0_1_2/32_16_16/0_0_0", content=labels.tobytes()).status_code == 200
    return path


def test_single_blocks_as_compressed_segmentation(client, seg):
    """They don't go by the way of their voxels, and hold the same."""
    assert client.post(f"{seg}/merge", content=b"[7,9]").status_code == 200
    for scale, at in ((0, "0_0_0"), (0, "16_0_0"), (0, "0_0_16"), (1, "0_0_0"), (1, "16_0_0")):
        for more in ("", "&supervoxels=true"):
            url = f"{seg}/raw/0_1_2/16_16_16/{at}?scale={scale}{more}"
            voxels = np.frombuffer(client.get(url).content, np.uint64).reshape(16, 16, 16)
            for compression in ("google", "googlegzip"):
                answer = client.get(f"{url}&compression={compression}")
                assert answer.status_code == 200
                assert answer.headers.get("content-encoding") == ("gzip" if compression == "googlegzip" else None)
                # the client has taken off the gzip
                assert (compressed_segmentation.decode(answer.content, (16, 16, 16)) == voxels).all()
    labels = np.frombuffer(client.get(f"{seg}/raw/0_1_2/16_16_16/0_0_0").content, np.uint64)
    assert set(labels.tolist()) == {0, 7}


def state(client, path):
    """All that a write could have changed."""
    answers = [
        client.get(f"{path}/raw/0_1_2/32_16_16/0_0_0?supervoxels=true").content,
        client.get(f"{path}/raw/0_1_2/16_8_8/0_0_0?scale=1").content,
        client.get(f"{path}/listlabels?sizes=true").content,
        client.get(f"{path}/mappings").content,
        client.get(f"{path}/info").content,
    ]
    return hashlib.sha256(b"".join(answers)).hexdigest()


GZIP = block_to_payload(solid_block(3, (16, 16, 16)), "blocks")
BOMB = gzip.compress(bytes(100 << 20))
MAPPING = dvid_pb2.MappingOps(mappings=[dvid_pb2.MappingOp(mapped=5, original=[7])]).SerializeToString()

REFUSED = [
    ("POST", "raw/0_1_2/32_16_16/0_0_0", bytes(8 * 16**3)),
    ("POST", "raw/0_1_2/16_16_16/0_0_0", bytes(8 * 16**3 + 1)),
    ("POST", "raw/0_1_2/16_16_16/8_0_0", bytes(8 * 16**3)),
    ("POST", "raw/0_1_2/16_16_8/0_0_0", bytes(8 * 16**2 * 8)),
    ("POST", "raw/0_1_2/16_16_16/0_0_0?compression=gzip", BOMB),
    ("POST", "raw/0_1_2/16_16_16/0_0_0?compression=gzip", gzip.compress(bytes(8 * 16**3))[:-9]),
    ("POST", "raw/0_1_2/16_16_16/0_0_0?compression=gzip", gzip.compress(bytes(8 * 16**3)) + gzip.compress(b"x")),
    ("POST", "raw/0_1_2/16_16_16/0_0_0?compression=lz4", BOMB[:1000]),
    ("POST", "raw/0_1_2/16_16_16/0_0_0?compression=zstd", b""),
    ("POST", "raw/0_1_2/16_16_16/2147483632_0_0", bytes(8 * 16**3)),
    ("POST", "raw/0_1_2/16_16_16/-2147483648_0_0", bytes(8 * 16**3)),
    ("POST", "raw/0_1_2/-16_16_16/0_0_0", b""),
    ("POST", "raw/xy/16_16/0_0_0", bytes(2048)),
    ("POST", "blocks", write_record(0, 0, 0, GZIP) + write_record(1, 0, 0, BOMB)),
    ("POST", "blocks", write_record(0, 0, 0, GZIP) + write_record(1, 0, 0, GZIP)[:-1]),
    ("POST", "blocks", write_record(0, 0, 0, GZIP) + b"\1"),
    ("POST", "blocks", struct.pack("<4i", 0, 0, 0, -5)),
    ("POST", "blocks", struct.pack("<4i", 0, 0, 0, 2**31 - 1)),
    ("POST", "blocks", write_record(2**31 - 1, 0, 0, GZIP)),
    ("POST", "blocks", write_record(0, -(2**31), 0, GZIP)),
    ("POST", "blocks", write_record(0, 0, 0, block_to_payload(solid_block(3, (32, 16, 16)), "blocks"))),
    ("POST", "blocks?scale=1&downres=true", write_record(0, 0, 0, GZIP)),
    ("POST", "blocks?scale=-1", write_record(0, 0, 0, GZIP)),
    ("POST", "blocks?scale=256", write_record(0, 0, 0, GZIP)),
    ("POST", "ingest-supervoxels", write_record(0, 0, 0, GZIP[:-4])),
    ("PUT", "blocks", write_record(0, 0, 0, GZIP)),
    ("DELETE", "raw/0_1_2/16_16_16/0_0_0", b""),
    ("GET", "ingest-supervoxels", write_record(0, 0, 0, GZIP)),
    ("POST", "merge", b"[]"),
    ("POST", "merge", b"[7]"),
    ("POST", "merge", b"[7,7]"),
    ("POST", "merge", b"[7,9,7]"),
    ("POST", "merge", b"[7,0]"),
    ("POST", "merge", b"[7,18446744073709551616]"),
    ("POST", "merge", b"[7,1e3]"),
    ("POST", "merge", b"[" * 100_000),
    ("POST", "merge", b'{"target":7}'),
    ("POST", "split-supervoxel/7", b""),
    ("POST", "split-supervoxel/7", encode_rles(np.empty((0, 4), np.int32))),
    ("POST", "split-supervoxel/7", encode_rles([[4, 0, 0, 3]])[:-1]),
    ("POST", "split-supervoxel/7", b"\1" + encode_rles([[4, 0, 0, 3]])[1:]),
    ("POST", "split-supervoxel/7", encode_rles([[4, 0, 0, 3], [5, 0, 0, 3]])),
    ("POST", "split-supervoxel/7", encode_rles([[4, 0, 0, 9]])),
    ("POST", "split-supervoxel/7", encode_rles([[-(2**31), 0, 0, 2**31 - 1]])),
    ("POST", "split-supervoxel/7", struct.pack("<4B2I", 0, 3, 0, 0, 0, 2**32 - 1) + bytes(16)),
    ("POST", "split-supervoxel/7?split=9", encode_rles([[4, 0, 0, 3]])),
    ("POST", "split-supervoxel/7?remain=x", encode_rles([[4, 0, 0, 3]])),
    ("POST", "split-supervoxel/0", encode_rles([[4, 0, 0, 3]])),
    ("POST", "split-supervoxel/8", encode_rles([[4, 0, 0, 3]])),
    ("POST", "split-supervoxel", encode_rles([[4, 0, 0, 3]])),
    ("GET", "split-supervoxel/7", b""),
    ("POST", "split/7", encode_rles([[4, 0, 0, 3]])),
    ("POST", "cleave/7", b"[]"),
    ("POST", "cleave/7", b"null"),
    ("POST", "cleave/7", b"[7]"),
    ("POST", "cleave/7", b"[9]"),
    ("POST", "cleave/18446744073709551616", b"[9]"),
    ("POST", "renumber", b"[0,7]"),
    ("POST", "renumber", b"[50,7,51,12345]"),
    ("POST", "renumber", b"[9,7]"),
    ("POST", "index/7", b"\xff\xff\xff"),
    ("POST", "index", b""),
    ("POST", "indices", dvid_pb2.LabelIndices(indices=[dvid_pb2.LabelIndex(label=0)]).SerializeToString()),
    ("POST", "mappings", MAPPING[:-1]),
    ("POST", "maxlabel/100", b""),
    ("POST", "set-nextlabel/100", b""),
    ("POST", "nextlabel/0", b""),
    ("POST", "nextlabel/18446744073709551615", b""),
    ("POST", "info", b'{"MaxDownresLevel": "x"}'),
    ("POST", "info", b'{"BlockSize": "32,32,32"}'),
    ("POST", "sync", b'{"sync":"other"}'),
    ("POST", "extents", b'{"MinPoint":[0,0],"MaxPoint":[1,1,1]}'),
    ("POST", "resolution", b"[1,2,-3]"),
    ("GET", "raw/0_1_2/16_16_16/0_0", b""),
    ("GET", "raw/0_1_2/16_16_16", b""),
    ("GET", "raw/0_1_2/65536_65536_65536/0_0_0", b""),
    ("GET", "raw/0_1_2/2_1_1/2147483647_0_0", b""),
    ("GET", "raw/xy/100000_100000/0_0_0", b""),
    ("GET", "raw/xy/16_16/0_0_0/gif", b""),
    ("GET", "raw/0_1_2/16_16_16/0_0_0?scale=x", b""),
    ("GET", "raw/0_1_2/16_16_16/0_0_0?roi=nothing", b""),
    ("GET", "raw/0_1_2/10_16_16/0_0_0?compression=google", b""),
    ("GET", "blocks/16_16_8/0_0_0", b""),
    ("GET", "blocks/16_16_16/0_0_0?compression=zip", b""),
    ("GET", "specificblocks?blocks=1,2", b""),
    ("GET", "specificblocks?blocks=1,2,x", b""),
    ("GET", "specificblocks?blocks=1,2,4294967296", b""),
    ("GET", "labels", b"[[1,2,4294967296]]"),
    ("GET", "labels", b"[[1,2,1e400]]"),
    ("GET", "labels", b"[[1,2,184467440737095516150]]"),
    ("GET", "labels?hash=00", b"[[1,2,3]]"),
    ("GET", "sparsevol/7?minx=99999999999", b""),
    ("GET", "sparsevol/7?compression=zip", b""),
    ("GET", "sparsevol/7?format=srles&scale=3", b""),
    ("GET", "sparsevols-coarse/0/9", b""),
    ("GET", "sizes", b"[18446744073709551616]"),
    ("GET", "indices", json.dumps(list(range(1, 50_002))).encode()),
    ("GET", "index-version/12345", b""),
    ("POST", "sparsevol/7", b""),
    ("GET", "nosuchkeyword", b""),
]


def name_of(value):
    return value[:50] if isinstance(value, str) else f"{len(value)} bytes"


@pytest.mark.parametrize(("method", "path", "body"), REFUSED, ids=name_of)
def test_refused_and_nothing_changed(client, seg, method, path, body):
    before = state(client, seg)
    answer = client.request(method, f"{seg}/{path}", content=body)
    assert answer.status_code == 400, answer.text
    assert len(answer.text) < 2000
    assert state(client, seg) == before


def test_absent_labels_are_an_empty_404(client, seg):
    for path in ("sparsevol/5", "sparsevol-coarse/5", "size/5", "supervoxels/5", "lastmod/5", "index/5"):
        answer = client.get(f"{seg}/{path}")
        assert (answer.status_code, answer.content) == (404, b"")
    assert client.head(f"{seg}/sparsevol/5").status_code == 204
    assert client.head(f"{seg}/sparsevol/7").status_code == 200
    assert client.head(f"{seg}/sparsevol/7?minx=12").status_code == 200
    assert client.head(f"{seg}/sparsevol/7?minx=16").status_code == 204


def test_huge_boxes_of_blocks_list_what_is_stored(client, seg):
    answer = client.get(f"{seg}/blocks/2147483632_2147483632_2147483632/-1073741824_-1073741824_-1073741824")
    assert answer.status_code == 200
    at, found = 0, set()
    while at < len(answer.content):
        *block, n = struct.unpack_from("<4i", answer.content, at)
        found.add(tuple(block))
        at += 16 + n
    assert found == {(0, 0, 0), (1, 0, 0)}


def test_a_million_points(client, seg):
    rng = np.random.default_rng(0)
    points = rng.integers(0, 16, (1_000_000, 3))
    answer = client.request("GET", f"{seg}/labels", content=json.dumps(points.tolist()).encode())
    expected = np.zeros(32, np.uint64)
    expected[4:10], expected[10:20] = 7, 9
    assert (np.array(answer.json(), np.uint64) == expected[points[:, 0]]).all()


def test_long_streams_have_their_length(client, seg, monkeypatch):
    from dvid_dask.api.labelmap import voxels

    monkeypatch.setattr(voxels, "SMALL_READ", 1000)
    whole = client.get(f"{seg}/raw/0_1_2/40_20_20/-3_-2_-1")
    assert whole.headers["content-length"] == str(len(whole.content)) == str(8 * 40 * 20 * 20)
    packed = client.get(f"{seg}/raw/0_1_2/40_20_20/-3_-2_-1?compression=gzip")
    assert gzip.decompress(packed.content) == whole.content


def test_everything_said_twice_counts_once(client, seg):
    block = np.full((16, 16, 16), 4, np.uint64)
    stream = write_record(0, 0, 0, block_to_payload(encode_block(block), "blocks"))
    for _ in range(2):
        assert client.post(f"{seg}/blocks?downres=true", content=stream).status_code == 200
        assert client.request("GET", f"{seg}/sizes", json=[4, 7, 9]).json() == [4096, 0, 4 * 256]
    assert client.get(f"{seg}/sparsevol-size/4").json() == {
        "voxels": 4096,
        "numblocks": 1,
        "minvoxel": [0, 0, 0],
        "maxvoxel": [15, 15, 15],
    }


RUNS = encode_rles([[4, y, z, 3] for z in range(16) for y in range(16)])


def test_split_of_a_supervoxel(client, seg):
    answer = client.post(f"{seg}/split-supervoxel/7", content=RUNS).json()
    assert (answer["SplitSupervoxel"], answer["RemainSupervoxel"]) == (10, 11)
    assert sorted(client.get(f"{seg}/supervoxels/7").json()) == [10, 11]
    assert client.get(f"{seg}/label/5_0_0?supervoxels=true").json() == {"Label": 10}
    version = seg.split("/")[3]
    assert client.get(f"{seg}/supervoxel-splits").json() == [version, [[answer["MutationID"], 7, 11, 10]]]
    assert client.get(f"{seg}/map-stats").json()["seg"]["MapEntries"] == 3


def test_splits_of_bodies_are_off_unless_allowed(client, repo, seg, make_client):
    before = state(client, seg)
    assert client.post(f"{seg}/split/7", content=RUNS).status_code == 400
    assert state(client, seg) == before
    open_client = make_client(allow_labelmap_split=True)
    path = open_client.instance(open_client.repo(), "labelmap", "seg", BlockSize="16,16,16")
    open_client.post(f"{path}/raw/0_1_2/16_16_16/0_0_0", content=np.full(4096, 7, np.uint64).tobytes())
    answer = open_client.post(f"{path}/split/7", content=RUNS)
    assert answer.json()["label"] == 8
    assert open_client.get(f"{path}/size/8").json() == {"voxels": 3 * 256}


def test_undo_and_redo(client, seg):
    before = state(client, seg)
    merged = client.post(f"{seg}/merge?u=me&app=test", content=b"[7,9]").json()["MutationID"]
    listed = client.get(f"{seg}/undo").json()
    assert [entry["Action"] for entry in listed] == ["write", "merge"]
    assert (listed[1]["MutationID"], listed[1]["User"], listed[1]["Undone"]) == (merged, "me", False)
    after = state(client, seg)
    undone = client.post(f"{seg}/undo/{merged}").json()["MutationID"]
    assert undone > merged
    assert state(client, seg) == before
    assert client.get(f"{seg}/undo").json()[1]["Undone"]
    assert client.post(f"{seg}/undo/{merged}").status_code == 400
    assert client.post(f"{seg}/redo/{merged}").status_code == 200
    assert state(client, seg) == after
    cleaved = client.post(f"{seg}/cleave/7", content=b"[9]").json()["MutationID"]
    refused = client.post(f"{seg}/undo/{merged}")
    assert refused.status_code == 409
    assert str(cleaved) in refused.text
    assert client.post(f"{seg}/undo/{merged + 10**6}").status_code == 404
    for wrong in ("undo/x", "undo/-1", "undo", "redo/", f"redo/{merged}"):
        assert client.post(f"{seg}/{wrong}").status_code == 400
    client.commit(seg.split("/")[3])
    assert client.post(f"{seg}/undo/{cleaved}").status_code == 400


def test_a_version_without_labels_says_so_in_the_words_that_clients_look_for(client, repo):
    empty = client.instance(repo, "labelmap", "empty")
    answer = client.get(f"{empty}/maxlabel")
    assert (answer.status_code, "No maximum label" in answer.text) == (400, True)


def test_counters(client, seg):
    assert client.get(f"{seg}/nextlabel").json() == {"nextlabel": 10}
    assert client.post(f"{seg}/nextlabel/5").json() == {"start": 10, "end": 14}
    assert client.get(f"{seg}/maxlabel").json() == {"maxlabel": 14}
    assert client.post(f"{seg}/set-nextlabel/1000", params={**ADMIN, "ceiling": "1002"}).status_code == 200
    assert client.post(f"{seg}/nextlabel/3").status_code == 400
    assert client.post(f"{seg}/nextlabel/2").json() == {"start": 1001, "end": 1002}
    assert client.post(f"{seg}/nextlabel/1").status_code == 400


def test_proximity(client, seg):
    near = client.get(f"{seg}/proximity/7/9").json()
    assert near["Labels"] == [7, 9]
    assert near["Distance"] > 0
    assert len(near["Points"]) == 2
    far = client.get(f"{seg}/proximity/7/9", params={"max-distance": "0.5"})
    assert far.json() is None
    assert client.get(f"{seg}/proximity/7/9?max-distance=1e6&places=true").json()["Places"]
    within = client.get(f"{seg}/proximity/7,9").json()
    assert all(set(found) == {"Block", "Distance"} for found in within)
    assert client.get(f"{seg}/proximity/7/12345").status_code == 404
    assert client.get(f"{seg}/proximity/7,12345").status_code == 404
    for wrong in ("0/9", "7/7", "7/0", "7", "x/9", "7,x", "7,0", "7,7", "7,", "7/9?max-distance=x", "7/9?places=true"):
        assert client.get(f"{seg}/proximity/{wrong}").status_code == 400, wrong
    assert client.post(f"{seg}/proximity/7/9").status_code == 400


class TestBoundedMemory:
    def test_lists_of_too_many_numbers(self):
        from dvid_dask.api.labelmap.request import MAX_LIST_NUMBERS, labels_of
        from dvid_dask.errors import BadRequest

        assert len(labels_of(b"[" + b"1," * 999_999 + b"1]")) == 1_000_000
        with pytest.raises(BadRequest, match="ask in several requests"):
            labels_of(b"[" + b"1," * MAX_LIST_NUMBERS + b"1]")


@pytest.mark.parametrize("body", [b"", b"null", b"{}", b'{"colour": [1], "other": null}'])
def test_settings_that_are_none_change_nothing(client, repo, body):
    path = client.instance(repo, "labelmap", "seg")
    before = client.get(f"{path}/info").json()
    assert client.post(f"{path}/info", content=body).text.startswith(
        "Changed 'seg' based on received configuration:\n{"
    )
    assert client.get(f"{path}/info").json() == before
    for bad in ({"VoxelSize": 5}, {"GridStore": "there"}):
        assert client.post(f"{path}/info", json=bad).status_code == 400
        settings = {"typename": "labelmap", "dataname": "other", **bad}
        assert client.post(f"/api/repo/{repo}/instance", json=settings).status_code == 400
