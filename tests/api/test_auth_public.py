"""Public versions: what strangers may read, and what they see of the repository around it."""

import re

import pytest

import dvid_dask
from dvid_dask.api.auth.public import public_versions

from .conftest import ADMIN
from .gateway import make_world
from .test_auth_gateway import ask, bearer


@pytest.fixture
def client(guarded, gateway):
    return guarded(enforce="dsg", dsg_address=gateway.url)


def test_all_above_through_all_parents():
    with dvid_dask.create("memory://", compact="never") as datastore:
        world = make_world(datastore)
        assert public_versions(datastore, (world.release,)) == world.public
        assert public_versions(datastore, (world.one,)) == {world.root, world.one}
        assert public_versions(datastore, (world.one, world.side)) == {world.root, world.one, world.side}
        assert public_versions(datastore, ()) == frozenset()


@pytest.mark.parametrize("mode", ["dsg", "token", "authfile"])
def test_strangers_read_public_versions_and_nothing_else(guarded, gateway, tmp_path, mode):
    file = tmp_path / "users.json"
    file.write_text("{}")
    client = guarded(enforce=mode, dsg_address=gateway.url, jwt_secret="s" * 64, auth_file=str(file))
    world, refused = client.world, 401 if mode == "dsg" else 400
    for uuid in (*world.public, world.release[:12], f"{world.root}:side"):
        assert ask(client, where=uuid).content == b"old"
        assert ask(client, where=uuid, method="HEAD").status_code == 200
        assert client.get(f"/api/node/{uuid}/status").json() == {"Locked": True}
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            assert ask(client, where=uuid, method=method, content=b"x").status_code == refused
    assert client.get(f"/api/node/{world.release}/kv/keys").json() == ["a", "one", "side"]
    for uuid in (world.top, f"{world.root}:master", world.mouse):
        assert ask(client, where=uuid).status_code == refused


def test_a_bad_token_or_a_broken_gateway_closes_nothing_that_is_public(client, gateway):
    gateway.fault = "500"
    assert ask(client, "nonsense", where=client.world.release).status_code == 200
    assert gateway.asked == []
    answer = client.get("/api/repos/info", headers=bearer("nonsense"))
    assert answer.json().keys() == {client.world.root}


def test_it_holds_until_the_next_start(client, guarded, gateway):
    world = client.world
    client.post(f"/api/node/{world.top}/commit", json={}, headers=bearer("t-ann"))
    client.post("/api/server/reload-auth", params=ADMIN)
    assert ask(client, where=world.top).status_code == 401
    later = guarded(client.datastore, world, enforce="dsg", dsg_address=gateway.url, public_versions=(world.top,))
    assert ask(later, where=world.top).content == b"old"


def test_public_means_that_version_and_no_other_that_the_path_names(client):
    """Some reads take more versions than the first."""
    world = client.world
    at = f"/api/node/{world.release}"
    for path, other in (
        ("kv/mutations-range/{root}/{other}", "{other}"),
        ("kv/mutations-range/{other}/{release}", "{other}"),
        ("seg/mutations-range/{root}/{other}", "{other}"),
        ("seg/history/1/{root}/{other}", "{other}"),
        ("seg/history/1/{other}/{release}", "{other}"),
        ("neu/changes/{other}", "{other}"),
        ("syn/roi/area,{other}", "{other}"),
    ):
        assert other in path
        names = {"root": world.root, "release": world.release}
        secret = f"{at}/{path.format(other=world.top, **names)}"
        open_ = f"{at}/{path.format(other=world.one, **names)}"
        assert client.get(secret).status_code == 401, path
        assert client.get(secret, headers=bearer("t-viv")).status_code != 401, path
        assert client.get(secret, headers=bearer("t-bob")).status_code == 403, path
        assert client.get(open_).status_code not in (401, 403), path


def test_a_region_of_another_repository_must_be_readable(client):
    """Counts within it would tell where it is."""
    world = client.world
    path = f"/api/repo/{world.top}/instance"
    client.post(
        f"/api/repo/{world.mouse}/instance", json={"typename": "roi", "dataname": "area"}, headers=bearer("t-root")
    )

    def made(version, token, name):
        body = {"typename": "labelsz", "dataname": name, "ROI": f"area,{version}"}
        return client.post(path, json=body, headers=bearer(token)).status_code

    assert made(world.mouse, "t-ann", "a") == 403
    assert made(f"{world.mouse}:master", "t-ann", "a") == 403
    assert made("ffffffff", "t-ann", "a") == 400
    assert made(world.top, "t-ann", "b") == 200
    assert made(world.mouse, "t-root", "c") == 200


def test_getting_that_sets_needs_the_right_to_write(client):
    """The older label types set their resolution by any method."""
    for name in ("lb", "la"):
        for version, token, status in (
            (client.world.release, None, 401),
            (client.world.top, "t-viv", 403),
            (client.world.top, "t-ann", 200),
        ):
            path = f"/api/node/{version}/{name}/resolution"
            headers = bearer(token) if token else {}
            assert client.request("GET", path, json=[4, 4, 4], headers=headers).status_code == status
        size = client.get(f"/api/node/{client.world.release}/{name}/info").json()["Extended"]["VoxelSize"]
        assert size == [4, 4, 4]


def test_what_has_no_versions_is_of_the_first(client):
    assert client.get(f"/api/node/{client.world.release}/shared/key/s").content == b"for all versions"
    assert client.get(f"/api/node/{client.world.top}/shared/key/s").status_code == 401


# ------------------------------------------------------------------ repositories as strangers see them


def test_repositories_as_strangers_see_them(client):
    world = client.world
    found = client.get("/api/repos/info").json()
    assert found.keys() == {world.root}
    seen = found[world.root]
    full = client.get("/api/repos/info", headers=bearer("t-ann")).json()[world.root]
    assert client.get(f"/api/repo/{world.release}/info").json() == seen
    assert seen["DAG"]["Nodes"].keys() == world.public
    assert seen["Log"] == []
    assert full["Log"]
    release, whole = seen["DAG"]["Nodes"][world.release], full["DAG"]["Nodes"][world.release]
    assert (release["Children"], len(whole["Children"])) == ([], 1)
    assert release["Parents"] == whole["Parents"]
    assert len(release["Parents"]) == 2
    assert release["Log"] == whole["Log"]
    assert seen["DataInstances"].keys() == full["DataInstances"].keys()
    for key in full.keys() - {"DAG", "Log", "DataInstances"}:
        assert seen[key] == full[key]
    text = client.get("/api/repos/info").text
    for secret in (world.top, world.mouse, "secret"):
        assert secret not in text
        assert secret in client.get("/api/repos/info", headers=bearer("t-root")).text


@pytest.mark.parametrize(
    ("token", "roots"),
    [(None, 1), ("nonsense", 1), ("t-bob", 1), ("t-viv", 1), ("t-root", 2)],
)
def test_what_users_see(client, token, roots):
    world = client.world
    headers = bearer(token) if token else {}
    found = client.get("/api/repos/info", headers=headers).json()
    assert len(found) == roots
    assert (world.top in found[world.root]["DAG"]["Nodes"]) is (token in ("t-viv", "t-root"))
    assert client.get("/api/repos/info", params=ADMIN).json().keys() == {world.root, world.mouse}
    assert client.head("/api/repos/info", headers=headers).status_code == 200


def test_branch_versions_and_log(client):
    world = client.world
    names = client.get(f"/api/repo/{world.root}/branch-versions/master").json()
    assert names == [world.release, world.one, world.root]
    whole = client.get(f"/api/repo/{world.root}/branch-versions/master", headers=bearer("t-viv")).json()
    assert whole == [world.top, *names]
    assert client.get(f"/api/repo/{world.root}/branch-versions/none").json() == []
    assert client.get(f"/api/repo/{world.root}/log").json() == {"log": []}
    assert client.get(f"/api/repo/{world.root}/log", headers=bearer("t-viv")).json()["log"]
    assert client.get(f"/api/repo/{world.top}/log").status_code == 401


def test_nothing_is_public(guarded, gateway):
    client = guarded(enforce="dsg", dsg_address=gateway.url, public_versions=())
    assert client.get("/api/repos/info").json() == {}
    assert client.get(f"/api/repo/{client.world.root}/info").status_code == 401


# ------------------------------------------------------------------ pages


def words(answer):
    return re.sub(r"<[^>]*>", " ", answer.text)


def test_pages_show_what_one_may_see(client):
    world = client.world
    front = client.get("/")
    assert front.status_code == 200
    assert f"/repo/{world.root}" in front.text
    assert world.mouse not in front.text
    assert world.top not in front.text
    assert "4 versions" in words(front)
    assert "You see what is public" in words(front)
    cookie = {"Cookie": "dsg_token=t-root"}
    whole = client.get("/", headers=cookie)
    assert world.mouse in whole.text
    assert "5 versions" in words(whole)
    assert "You see what is public" not in words(whole)

    page = client.get(f"/repo/{world.root}")
    assert page.status_code == 200
    assert world.release in page.text
    for secret in (world.top[:8], "secret"):
        assert secret not in page.text
        assert secret in client.get(f"/repo/{world.root}", headers=cookie).text
    assert client.get(f"/repo/{world.root}?at={world.one}").status_code == 200


def test_pages_that_are_not_there_and_hidden_ones_look_alike(client):
    world = client.world
    at = f"/repo/{world.root}?at="
    paths = (f"/repo/{world.mouse}", "/repo/ffffffff", f"{at}{world.top}", f"{at}f0f0")
    answers = [client.get(path) for path in paths]
    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.text for answer in answers}) == 1
    shown = [client.get(path, headers={"Cookie": "dsg_token=t-root"}).status_code for path in paths]
    assert shown == [200, 404, 200, 404]
