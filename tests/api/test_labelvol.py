"""labelvol over HTTP: what the recorded cases don't say."""

import numpy as np
import pytest

from dvid_dask.formats import coarse, rles

BOX = "raw/0_1_2/32_32_32/0_0_0"


@pytest.fixture
def pair(client, repo):
    blk, vol = client.instance(repo, "labelblk", "lb"), client.instance(repo, "labelvol", "lv")
    client.post(f"{blk}/sync", json={"sync": "lv"})
    client.post(f"{vol}/sync", json={"sync": "lb"})
    labels = np.full((32, 32, 32), 1, np.uint64)
    labels[:, :, 16:] = 2
    assert client.post(f"{blk}/{BOX}", content=labels.tobytes()).status_code == 200
    return blk, vol


def test_an_edit_is_done_when_it_is_answered(client, pair):
    blk, vol = pair
    assert client.post(f"{vol}/split/1", content=rles.encode_rles([[0, 0, 0, 4]])).json() == {"label": 3}
    assert client.get(f"{blk}/label/3_0_0").json() == {"Label": 3}
    answer = client.post(f"{vol}/merge", content="[2, 1, 77]")
    assert (answer.status_code, answer.content) == (200, b"")
    assert client.get(f"{blk}/label/5_0_0").json() == {"Label": 2}
    assert client.get(f"{vol}/sparsevol/1").status_code == 404
    assert client.get(f"{vol}/maxlabel").json() == {"maxlabel": 3}


def test_what_was_forgotten_is_made_anew(client, pair):
    _, vol = pair
    assert client.delete(f"{vol}/area/1/32_32_32/0_0_0").status_code == 200
    assert client.get(f"{vol}/sparsevol-coarse/1").status_code == 404
    assert client.post(f"{vol}/resync/1", content=coarse.encode_coarse([[0, 0, 0]])).status_code == 200
    runs = rles.decode_rles(client.get(f"{vol}/sparsevol/1").content)
    assert rles.voxel_count(runs) == 16 * 32 * 32


def test_undo_and_redo(client, pair):
    blk, vol = pair
    before = client.get(f"{blk}/{BOX}").content
    client.post(f"{vol}/merge", content="[1, 2]")
    (merged,) = client.get(f"{vol}/undo").json()
    assert (merged["Action"], merged["Undone"]) == ("merge", False)
    assert client.post(f"{vol}/undo/{merged['MutationID']}").status_code == 200
    assert client.get(f"{blk}/{BOX}").content == before
    assert client.post(f"{vol}/redo/{merged['MutationID']}").status_code == 200
    assert client.get(f"{blk}/label/20_0_0").json() == {"Label": 1}
    written = client.get(f"{blk}/undo").json()[-1]
    assert client.post(f"{blk}/undo/{written['MutationID']}").status_code == 409  # the merge came after


def test_bounds_that_leave_no_voxel(client, pair):
    _, vol = pair
    answer = client.get(f"{vol}/sparsevol/1?minx=20")
    assert (answer.status_code, len(rles.decode_rles(answer.content))) == (200, 0)
    assert client.get(f"{vol}/sparsevol/1?minz=40").status_code == 404
    assert client.head(f"{vol}/sparsevol/1?minx=40").status_code == 204


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "merge", b"[]"),
        ("POST", "merge", b"[1, 0]"),
        ("POST", "merge", b"[1, 2, 1]"),
        ("POST", "merge", b"{}"),
        ("POST", "split/1", b""),
        ("POST", "split/1", rles.encode_rles([[10, 0, 0, 10]])),
        ("POST", "split/1?splitlabel=-1", rles.encode_rles([[0, 0, 0, 1]])),
        ("POST", "split/1", rles.encode_rles([[0, 0, 0, 1], [0, 0, 99, 1]])),
        ("POST", "split-coarse/1", coarse.encode_coarse([[0, 0, 0], [0, 0, 1]])),
        ("POST", "split-coarse/1", b"\0"),
        ("POST", "resync/1", b"\0"),
        ("POST", "resync/0", coarse.encode_coarse([[0, 0, 0]])),
        ("POST", "nextlabel", b""),
        ("DELETE", "area/1/32_32_31/0_0_0", b""),
        ("DELETE", "area/1/32_32_32", b""),
        ("POST", "area/1/32_32_32/0_0_0", b""),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(client, pair, method, path, body):
    blk, vol = pair

    def state():
        volumes = [client.get(f"{vol}/sparsevol/{label}").content for label in (1, 2)]
        return client.get(f"{blk}/{BOX}").content, volumes, client.get(f"{vol}/nextlabel").json()

    before = state()
    assert client.request(method, f"{vol}/{path}", content=body).status_code == 400
    assert state() == before


@pytest.mark.parametrize(
    "settings", [{"BlockSize": "32,32"}, {"BlockSize": "0,32,32"}, {"VoxelSize": "1,2,inf"}, {"VoxelUnits": "nm"}]
)
def test_settings_that_are_refused(client, repo, settings):
    answer = client.post(f"/api/repo/{repo}/instance", json={"typename": "labelvol", "dataname": "bad", **settings})
    assert answer.status_code == 400
    assert "setting" in answer.text
