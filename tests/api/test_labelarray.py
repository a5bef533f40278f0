"""labelarray over HTTP: what the recorded cases don't say."""

import csv
import gzip
import json

import numpy as np
import pytest

from dvid_dask.api.faces import all_faces
from dvid_dask.formats import block_stream, coarse, label_blocks, rles

from .test_conformance import SHARED

SHAPE = (32, 32, 64)


def labels():
    out = np.zeros(SHAPE, np.uint64)
    out[:, :, :8], out[:, :, 8:40] = 1, 2
    return out


def seg_of(client, repo, name="seg", **settings):
    path = client.instance(repo, "labelarray", name, **{"BlockSize": "32,32,32", "MaxDownresLevel": "1", **settings})
    assert client.post(f"{path}/raw/0_1_2/64_32_32/0_0_0", content=labels().tobytes()).status_code == 200
    return path


@pytest.fixture
def seg(client, repo):
    return seg_of(client, repo)


def voxels(client, path):
    answer = client.get(f"{path}/raw/0_1_2/64_32_32/0_0_0")
    assert answer.status_code == 200
    return np.frombuffer(answer.content, "<u8").reshape(SHAPE)


@pytest.mark.skipif(SHARED is None, reason="needs the shared folder (set DVID_DASK_SHARED)")
@pytest.mark.parametrize("typename", ["labelarray", "labelblk", "labelvol"])
def test_every_keyword_of_the_specification_is_answered(typename):
    face = all_faces()[typename]
    with open(SHARED / "spec" / "endpoints-labels-annotation.csv") as f:
        rows = [r for r in csv.DictReader(f) if r["scope"] == typename and r["path"].startswith("/api/node/")]
    assert rows
    for row in rows:
        keyword = row["path"].split("/")[5].partition("[")[0]
        method = row["method"].replace("any", "GET").split(" ")[0].rstrip(",")
        if row["id"].endswith((".nextlabel.post", ".sparsevol.post")):
            continue  # documented there, and refused
        face.find(method, keyword)


def test_an_edit_is_done_when_it_is_answered(client, seg):
    answer = client.post(f"{seg}/merge", content="[1, 2, 99]")
    assert (answer.status_code, answer.content) == (200, b"")
    assert set(np.unique(voxels(client, seg)).tolist()) == {0, 1}
    half = client.get(f"{seg}/raw/0_1_2/32_16_16/0_0_0?scale=1").content
    assert set(np.frombuffer(half, "<u8").tolist()) == {0, 1}
    assert client.get(f"{seg}/sparsevol/2").status_code == 404
    assert client.get(f"{seg}/sparsevol-size/2").json() == {
        "numblocks": 0, "minvoxel": [0, 0, 0], "maxvoxel": [31, 31, 31],
    }  # fmt: skip
    runs = rles.encode_rles([[0, 0, 0, 64]])
    assert client.post(f"{seg}/split/1", content=runs).json() == {"label": 3}
    assert np.count_nonzero(voxels(client, seg) == 3) == 40
    blocks = coarse.encode_coarse([[0, 0, 1]])
    assert client.post(f"{seg}/split-coarse/1?splitlabel=7", content=blocks).json() == {"label": 7}
    assert set(np.unique(voxels(client, seg)).tolist()) == {0, 1, 3, 7}
    assert client.get(f"{seg}/maxlabel").json() == {"maxlabel": 7}


@pytest.mark.parametrize(
    ("keyword", "body"),
    [
        ("merge", b"[]"),
        ("merge", b"[1]"),
        ("merge", b"null"),
        ("merge", b"[1, 0]"),
        ("merge", b"[0, 1]"),
        ("merge", b"[1, 2, 1]"),
        ("merge", b"[1, -2]"),
        ("merge", b"[1, 18446744073709551616]"),
        ("merge", b"[1, 2"),
        ("split/1?splitlabel=x", rles.encode_rles([[0, 0, 0, 1]])),
        ("split/1?splitlabel=1", rles.encode_rles([[0, 0, 0, 1]])),
        ("split/0", rles.encode_rles([[0, 0, 0, 1]])),
        ("split/1", b""),
        ("split/1", rles.encode_rles([[0, 0, 0, 1]])[:-1]),
        ("split/1", b"\1" + rles.encode_rles([[0, 0, 0, 1]])[1:]),
        ("split/1", rles.encode_rles([[0, 0, 0, 1]])[:8] + b"\xff\xff\xff\xff"),
        ("split-coarse/1", b"\0" * 11),
        ("split-coarse/1", rles.encode_rles([[0, 0, 0, 2**23]])),
        ("split-coarse/1", rles.encode_rles([[0, 0, 0, 2**31 - 1]])),
        ("blocks?downres=true&scale=1", b""),
        ("blocks", b"\0" * 15),
        ("blocks", block_stream.write_record(0, 0, 0, gzip.compress(b"no block", mtime=0))),
        (
            "blocks",
            block_stream.write_record(2**30, 0, 0, gzip.compress(label_blocks.solid_block(1, (32, 32, 32)), mtime=0)),
        ),
        (
            "blocks",
            block_stream.write_record(0, 0, 0, gzip.compress(label_blocks.solid_block(1, (64, 64, 64)), mtime=0)),
        ),
        ("raw/0_1_2/32_32_32/0_0_0", b"\0" * 8),
        ("raw/0_1_2/32_32_32/0_0_0?compression=gzip", gzip.compress(bytes(32**3 * 8 + 1), mtime=0)),
        ("raw/0_1_2/32_32_32/2147483616_0_0", bytes(32**3 * 8)),
        ("raw/0_1_2/32_32_32/1_0_0", bytes(32**3 * 8)),
        ("isotropic/0_1_2/32_32_32/0_0_0", bytes(32**3 * 8)),
        ("nextlabel/3", b""),
        ("maxlabel", b""),
        ("sparsevol/1", b""),
        ("renumber", b"[1, 2]"),
        ("split/+1", rles.encode_rles([[0, 0, 0, 1]])),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(client, seg, keyword, body):
    before = voxels(client, seg), client.get(f"{seg}/nextlabel").json()
    answer = client.post(f"{seg}/{keyword}", content=body)
    assert answer.status_code == 400, answer.text
    after = voxels(client, seg), client.get(f"{seg}/nextlabel").json()
    assert np.array_equal(before[0], after[0])
    assert before[1] == after[1]


def test_without_an_index(client, repo):
    seg = seg_of(client, repo, IndexedLabels="false")
    for keyword in ("sparsevol/1", "sparsevol-by-point/0_0_0", "sparsevol-coarse/1", "maxlabel", "nextlabel"):
        assert client.get(f"{seg}/{keyword}").status_code == 400
    runs = rles.encode_rles([[0, 0, 0, 1]])
    for keyword, body in (("merge", b"[1, 2]"), ("split/1", runs), ("split-coarse/1", runs)):
        assert client.post(f"{seg}/{keyword}", content=body).status_code == 400
    assert client.get(f"{seg}/sparsevol-size/1").json()["numblocks"] == 0
    assert client.get(f"{seg}/sparsevols-coarse/1/9").content == b""


def test_undo_and_redo(client, seg):
    client.post(f"{seg}/merge", content="[1, 2]")
    merged = client.get(f"{seg}/undo").json()[-1]
    assert merged["Action"] == "merge"
    assert client.post(f"{seg}/undo/{merged['MutationID']}").status_code == 200
    assert np.array_equal(voxels(client, seg), labels())
    assert client.post(f"{seg}/redo/{merged['MutationID']}").status_code == 200
    assert set(np.unique(voxels(client, seg)).tolist()) == {0, 1}


def test_any_method_but_get_writes_voxels(client, seg):
    body = np.full((32, 32, 32), 5, np.uint64).tobytes()
    assert client.put(f"{seg}/raw/0_1_2/32_32_32/0_0_0", content=body).status_code == 200
    assert client.get(f"{seg}/label/3_3_3").json() == {"Label": 5}
    assert client.head(f"{seg}/raw/0_1_2/32_32_32/0_0_0").status_code == 200
    assert client.get(f"{seg}/label/3_3_3").json() == {"Label": 5}


def test_all_clipped_away(client, seg):
    # a block within the bounds, and no voxel of it
    assert client.get(f"{seg}/sparsevol/1?minx=20&maxx=30").status_code == 404
    assert client.get(f"{seg}/sparsevol/1?minx=20&maxx=30&format=srles").content == b""
    assert client.get(f"{seg}/sparsevol-coarse/1?minx=40").status_code == 404
    assert client.head(f"{seg}/sparsevol/1?minx=40").status_code == 204


def test_info_cannot_be_posted(client, seg):
    answer = client.post(f"{seg}/info", content=json.dumps({"MaxDownresLevel": "3"}))
    assert answer.json()["Extended"]["MaxDownresLevel"] == 1


def test_views_and_pages_show_it(client, repo, seg):
    assert client.get(f"{seg}/zarr/zarr.json").json()["node_type"] == "group"
    assert client.get(f"{seg}/precomputed/info").json()["type"] == "segmentation"
    assert client.get(f"{seg}/precomputed/supervoxels/info").status_code == 404
    assert f"{seg.removeprefix('/api')}/pseudocolor".split("/")[-1] in client.get(f"/repo/{repo}").text
