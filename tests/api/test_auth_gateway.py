"""Users of a DatasetGateway: every row of the table of statuses, what is remembered, and what a bad service does."""

import asyncio
import threading
import time

import anyio
import msgspec
import pytest

from dvid_dask.api.auth import gateway as room
from dvid_dask.api.auth.gateway import Gateway, GatewayUser
from dvid_dask.api.failures import AuthServiceFailed, Unauthenticated
from dvid_dask.errors import TooBusy

from .conftest import ADMIN
from .gateway import PERSONS

READ, WRITE = ("GET", "HEAD", "OPTIONS"), ("POST", "PUT", "DELETE", "PATCH", "NONSENSE")


@pytest.fixture
def client(guarded, gateway):
    return guarded(enforce="dsg", dsg_address=gateway.url + "/")


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


def ask(client, token=None, method="GET", where=None, **more):
    """The status at a key of a version that isn't public."""
    path = f"/api/node/{where or client.world.top}/kv/key/a"
    headers = {**(bearer(token) if token else {}), **more.pop("headers", {})}
    return client.request(method, path, headers=headers, **more)


# ------------------------------------------------------------------ the table


@pytest.mark.parametrize("method", [*READ, *WRITE])
def test_without_a_token_401(client, method, gateway):
    answer = ask(client, method=method)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert gateway.asked == []
    assert ask(client, method=method, headers={"Authorization": "Basic YTpi"}).status_code == 401
    assert ask(client, method=method, headers={"Authorization": "Bearer"}).status_code == 401


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_token_that_the_gateway_does_not_know_401(client, method, gateway):
    for wanted in ("", "401", "403"):
        gateway.fault = wanted
        assert ask(client, "nonsense", method).status_code == 401
    assert gateway.asked == [("/api/v1/user/cache", "nonsense")] * 3  # nothing is kept of it


@pytest.mark.parametrize("fault", ["500", "404", "204", "302", "redirect", "close", "long"])
def test_a_gateway_that_fails_502(client, gateway, fault):
    gateway.fault = fault
    for n in (1, 2):
        answer = ask(client, "t-ann")
        assert answer.status_code == 502
        assert "t-ann" not in answer.text
        assert len(gateway.asked) == n  # once for each, no redirect followed
    gateway.fault = ""
    assert ask(client, "t-ann").status_code == 200


@pytest.mark.parametrize("fault", ["hang", "drip"])
def test_a_gateway_that_is_too_slow_502(client, gateway, fault, monkeypatch):
    monkeypatch.setattr(room, "PATIENCE", 0.5)
    gateway.fault = fault
    begun = time.monotonic()
    answer = ask(client, "t-ann")
    assert answer.status_code == 502
    assert "within 0.5 seconds" in answer.text
    assert time.monotonic() - begun < 8


def test_a_gateway_that_is_not_there_502(guarded, gateway):
    client = guarded(enforce="dsg", dsg_address=gateway.url)
    gateway.close()
    assert ask(client, "t-ann").status_code == 502


@pytest.mark.parametrize("fault", ["garbage", "types"])
def test_a_gateway_that_talks_nonsense_400(client, gateway, fault):
    gateway.fault = fault
    assert ask(client, "t-ann").status_code == 400


def test_no_address_400(guarded):
    client = guarded(enforce="dsg")
    assert ask(client, "t-ann").status_code == 400
    assert ask(client).status_code == 401


@pytest.mark.parametrize(
    ("token", "reads", "writes"),
    [
        ("t-root", True, True),
        ("t-ann", True, True),
        ("t-max", True, True),
        ("t-pam", True, True),
        ("t-dan", True, True),
        ("t-viv", True, False),
        ("t-bob", False, False),
    ],
)
def test_permissions(client, token, reads, writes):
    for method in ("GET", "HEAD"):
        assert ask(client, token, method).status_code == (200 if reads else 403)
    assert (ask(client, token, "OPTIONS").status_code == 403) is not reads
    for method in WRITE:
        assert (ask(client, token, method, content=b"x").status_code == 403) is not writes
    assert (ask(client, "t-root").content == b"x") is writes or ask(client, "t-root").status_code == 404


def test_a_repository_that_is_not_mapped_is_closed_but_for_administrators(client):
    for token in ("t-ann", "t-bob", "t-dan"):
        answer = ask(client, token, where=client.world.mouse)
        assert answer.status_code == 403
        assert "dataset_map" in answer.text
    assert ask(client, "t-root", where=client.world.mouse).content == b"squeak"


def test_no_map_403(guarded, gateway):
    client = guarded(enforce="dsg", dsg_address=gateway.url, dataset_map={})
    assert ask(client, "t-ann").status_code == 403
    assert ask(client, "t-root").status_code == 200


def test_a_dataset_without_a_name_is_nobodys(guarded, gateway):
    client = guarded(enforce="dsg", dsg_address=gateway.url)
    client.guard.auth.dataset_map[client.world.root] = ""
    gateway.persons["t-odd"] = {"email": "odd", "permissions_v2": {"": ["edit"]}, "datasets_admin": [""]}
    assert ask(client, "t-odd").status_code == 403


def test_a_selector_that_names_nothing_is_400_to_everybody_and_tells_nothing(client):
    for selector in ("ffffffff", f"{client.world.root}:nobranch", ":master"):
        for token in (None, "t-ann"):
            answer = ask(client, token, where=selector)
            assert answer.status_code == 400
            # the path comes back, and nothing else
            told = answer.text.replace(client.world.root, "")
            assert not any(uuid in told for uuid in (*client.world.public, client.world.top, client.world.mouse))
            assert "side" not in answer.text


# ------------------------------------------------------------------ administrators


def test_administrators_of_the_gateway_administer_the_server(client):
    for token, status in (("t-root", 200), ("t-ann", 400), ("nonsense", 400), (None, 400)):
        headers = bearer(token) if token else {}
        assert client.get("/api/server/config", headers=headers).status_code == status
        assert client.post("/api/repos", json={"alias": "x"}, headers=headers).status_code == status
        assert client.post("/api/server/reload-auth", headers=headers).status_code == status
    # and write to committed versions
    assert ask(client, "t-root", "POST", where=client.world.one, content=b"new").status_code == 200
    assert ask(client, "t-ann", "POST", where=client.world.one, content=b"new").status_code == 400


def test_the_admin_token_lets_nobody_in(client):
    assert ask(client, params=ADMIN).status_code == 401
    assert ask(client, "t-viv", "POST", params=ADMIN, content=b"x").status_code == 403
    assert client.get("/api/server/config", params=ADMIN).status_code == 200
    # together with a user who may write, it is what it always was
    assert ask(client, "t-ann", "POST", where=client.world.one, params=ADMIN, content=b"x").status_code == 200


def test_read_only_comes_first(guarded, gateway):
    client = guarded(enforce="dsg", dsg_address=gateway.url, settings={"mode": "readonly"})
    assert ask(client, method="POST").status_code == 400
    assert ask(client, "t-ann", "POST", content=b"x").status_code == 400
    assert ask(client, "t-root", "POST", content=b"x").status_code == 200
    assert ask(client).status_code == 401


# ------------------------------------------------------------------ what is remembered


def test_answers_hold_for_a_while(guarded, gateway, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(room.time, "monotonic", lambda: now[0])
    client = guarded(enforce="dsg", dsg_address=gateway.url, dsg_cache_ttl=60)
    for moment, status, asked in (
        (1000.0, 200, 1),
        (1059.9, 200, 1),
        (1060.0, 403, 2),
        (1100.0, 403, 2),
    ):
        now[0] = moment
        assert ask(client, "t-ann").status_code == status
        assert len(gateway.asked) == asked
        gateway.persons["t-ann"] = {"email": "ann@lab.org"}  # rights are taken away


@pytest.mark.parametrize("given", [0, -5])
def test_no_time_means_five_minutes(guarded, gateway, given):
    assert guarded(enforce="dsg", dsg_address=gateway.url, dsg_cache_ttl=given).guard._gateway._lasting == 300


def test_reload_forgets(client, gateway):
    assert ask(client, "t-ann").status_code == 200
    del gateway.persons["t-ann"]
    assert ask(client, "t-ann").status_code == 200
    assert "asked for anew" in client.post("/api/server/reload-auth", params=ADMIN).text
    assert ask(client, "t-ann").status_code == 401


def test_no_more_than_many_are_remembered(gateway, monkeypatch):
    monkeypatch.setattr(room, "MANY", 3)
    gateway.persons = {f"t{n}": {"email": str(n)} for n in range(5)}
    service = Gateway(gateway.url, 300)

    async def learn():
        for token in gateway.persons:
            await service.ask(token)

    anyio.run(learn)
    assert [service.known(token) is not None for token in gateway.persons] == [False, False, True, True, True]
    # and not the tokens themselves
    assert not any(token.encode() in key for token in gateway.persons for key in service._known)


def test_many_with_one_token_ask_once_and_hear_the_same(gateway):
    service = Gateway(gateway.url, 300)
    gateway.fault = "hang"

    async def learn(token):
        timer = threading.Timer(0.3, gateway.go.set)
        timer.start()
        return await asyncio.gather(*(service.ask(token) for _ in range(50)), return_exceptions=True)

    users = anyio.run(learn, "t-ann")
    assert {user.email for user in users} == {"ann@lab.org"}
    assert len(gateway.asked) == 1
    failures = anyio.run(learn, "nonsense")
    assert {type(failure) for failure in failures} == {Unauthenticated}
    assert len(gateway.asked) == 2
    assert service._asking == {}


def test_who_leaves_does_not_take_the_answer_from_others(gateway):
    service = Gateway(gateway.url, 300)
    gateway.fault = "hang"

    async def learn():
        first = asyncio.create_task(service.ask("t-ann"))
        second = asyncio.create_task(service.ask("t-ann"))
        await asyncio.sleep(0.1)
        first.cancel()
        gateway.go.set()
        return (await second).email, len(gateway.asked)

    assert anyio.run(learn) == ("ann@lab.org", 1)


def test_what_was_forgotten_meanwhile_is_not_kept(gateway):
    service = Gateway(gateway.url, 300)
    gateway.fault = "hang"

    async def learn():
        task = asyncio.create_task(service.ask("t-ann"))
        await asyncio.sleep(0.1)
        service.forget()
        gateway.go.set()
        return await task

    assert anyio.run(learn).email == "ann@lab.org"
    assert service.known("t-ann") is None


def test_too_many_questions_are_refused_not_piled_up(gateway, monkeypatch):
    monkeypatch.setattr(room, "OPEN", 5)
    service = Gateway(gateway.url, 300)
    gateway.fault = "hang"

    async def learn():
        tasks = [asyncio.create_task(service.ask(f"t{n}")) for n in range(8)]
        await asyncio.sleep(0.2)
        gateway.go.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    kinds = [type(answer) for answer in anyio.run(learn)]
    assert kinds.count(TooBusy) == 3
    assert kinds.count(Unauthenticated) == 5


def test_the_certificate_of_the_gateway_is_checked(tmp_path):
    """An https address at which somebody unknown answers."""
    import ssl
    from http.server import BaseHTTPRequestHandler, HTTPServer

    from .certificates import certificate

    chain, key = certificate(tmp_path)
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.handle_request, daemon=True).start()
    try:
        with pytest.raises(AuthServiceFailed, match="(?i)certificate"):
            anyio.run(Gateway(f"https://127.0.0.1:{server.server_address[1]}", 300).ask, "t-ann")
    finally:
        server.server_close()


# ------------------------------------------------------------------ tokens and cookies


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "bearer t-ann"},
        {"Authorization": "BEARER  t-ann "},
        {"Cookie": "dsg_token=t-ann"},
        {"Cookie": 'other=1; dsg_token="t-ann"; more=2'},
        {"Authorization": "Basic YTpi", "Cookie": "dsg_token=t-ann"},
        {"Authorization": "Bearer t-ann", "Cookie": "dsg_token=nonsense"},
    ],
)
def test_ways_to_bring_a_token(client, headers):
    assert ask(client, headers=headers).status_code == 200
    assert ask(client, method="POST", headers=headers, content=b"x").status_code == 200


@pytest.mark.parametrize("token", ["x" * 8193, "x" * 60_000, "two words", "t-\xe4nn", "t-ann\tx"])
def test_what_can_be_no_token_is_not_asked_for(client, gateway, token):
    answer = client.get(
        f"/api/node/{client.world.top}/kv/key/a", headers=[(b"authorization", b"Bearer " + token.encode("latin-1"))]
    )
    assert answer.status_code == 401
    assert gateway.asked == []


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"Origin": "http://testserver"}, True),
        ({"Origin": "https://evil.org"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "https://neu.lab.org"}, True),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://behind.proxy"}, True),
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.org"}, False),
        ({"Sec-Fetch-Site": "same-site", "Origin": "https://evil.lab.com"}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site", "Origin": "https://neu.lab.org"}, True),
    ],
)
def test_another_page_can_not_write_by_a_cookie(guarded, gateway, headers, allowed):
    client = guarded(enforce="dsg", dsg_address=gateway.url, settings={"cors_domains": ("lab.org",)})
    cookie = {"Cookie": "dsg_token=t-root"}
    assert ask(client, method="POST", headers=headers | cookie, content=b"x").status_code == (200 if allowed else 401)
    repo = client.post("/api/repos", json={}, headers=headers | cookie)
    assert repo.status_code == (200 if allowed else 400)
    # a read tells it nothing: the browser keeps the answer from it; and a header is none that a browser adds
    assert ask(client, headers=headers | cookie).status_code == 200
    assert ask(client, "t-ann", "POST", headers=headers, content=b"x").status_code == 200


def test_cross_origin_access_with_users(guarded, gateway):
    client = guarded(enforce="dsg", dsg_address=gateway.url, settings={"cors_domains": ("*", "lab.org")})
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization, content-type"}
    for origin, allowed in (("https://neu.lab.org", True), ("https://evil.org", False)):
        answer = ask(client, method="OPTIONS", headers={"Origin": origin, **asks})
        assert (answer.status_code, answer.content) == (204, b"")
        assert answer.headers.get("access-control-allow-origin") == (origin if allowed else None)
        assert answer.headers.get("access-control-allow-credentials") == ("true" if allowed else None)
        # the answer that says who you are not can be read as well, and isn't mistaken for another one
        refused = ask(client, headers={"Origin": origin})
        assert refused.status_code == 401
        assert refused.headers.get("access-control-allow-origin") == (origin if allowed else None)
        read = ask(client, "t-ann", headers={"Origin": origin})
        assert read.headers.get("access-control-allow-credentials") == ("true" if allowed else None)
        assert "Origin" in read.headers["vary"]


def test_answers_for_one_are_kept_from_shared_caches(client):
    world = client.world
    gray = f"/api/node/{world.top}/gray/zarr/zarr.json"
    for path in (gray, f"/api/node/{world.top}/kv/key/a", f"/api/repo/{world.top}/info", "/api/repos/info", "/"):
        answer = client.get(path, headers=bearer("t-ann"))
        assert answer.status_code == 200
        said = answer.headers["cache-control"].split(", ")
        assert "private" in said
        assert "public" not in said
        assert "Authorization, Cookie" in answer.headers["vary"]
    # committed, so it never changes; but it isn't public
    client.post(f"/api/node/{world.top}/commit", json={}, headers=bearer("t-ann"))
    assert client.get(gray, headers=bearer("t-ann")).headers["cache-control"] == "private, max-age=31536000, immutable"
    public = client.get(gray.replace(world.top, world.release))
    assert public.headers["cache-control"].startswith("public")


# ------------------------------------------------------------------ who it was


def test_the_user_is_recorded_where_the_client_names_none(client):
    neuron = f"/api/node/{client.world.top}/neu/key/7"
    for n, (params, name) in enumerate([({}, "ann@lab.org"), ({"u": "kim"}, "kim"), ({"u": ""}, "ann@lab.org")]):
        body = {"bodyid": 7, "type": f"x{n}"}
        assert client.post(neuron, json=body, params=params, headers=bearer("t-ann")).status_code == 200
        assert client.get(neuron, params={"show": "user"}, headers=bearer("t-ann")).json()["type_user"] == name


def test_activity_has_the_user_and_no_token(client):
    records = []
    client.app.state.server.record_activity = records.append
    ask(client, "t-ann")
    ask(client, "nonsense")
    assert [r["user"] for r in records] == ["ann@lab.org", ""]
    assert "t-ann" not in str(records)


# ------------------------------------------------------------------ insiders


@pytest.mark.parametrize(
    ("header", "peer", "inside"),
    [
        ("true", "10.1.2.3", True),
        ("TRUE", "10.1.2.3", True),
        ("true", "::ffff:10.1.2.3", True),
        ("1", "10.1.2.3", False),
        ("", "10.1.2.3", False),
        ("true", "10.2.0.1", False),
        ("true", "not an address", False),
    ],
)
def test_insiders(guarded, gateway, header, peer, inside):
    networks = ("10.1.0.0/16", "fd00::/8")
    client = guarded(enforce="dsg", dsg_address=gateway.url, enforce_internal="none", trusted_proxies=networks)
    client._transport.client = (peer, 1)
    headers = {"X-DVID-Internal": header, "X-Forwarded-For": "10.1.2.3"}
    for method in ("GET", "POST"):
        assert ask(client, method=method, headers=headers, content=b"x").status_code == (200 if inside else 401)
    assert len(client.get("/api/repos/info", headers=headers).json()) == (2 if inside else 1)


def test_what_insiders_write_is_theirs_and_whole(guarded, gateway):
    """Who they are is asked before the body is read, also where nobody needs to say."""
    client = guarded(enforce="dsg", dsg_address=gateway.url, enforce_internal="none", trusted_proxies=("10.1.0.0/16",))
    client._transport.client = ("10.1.2.3", 1)
    inside = {"X-DVID-Internal": "true"}
    for n, headers in enumerate((inside, inside | bearer("t-ann"), inside | bearer("nonsense"))):
        tags = f"/api/node/{client.world.top}/shared/tags"  # of what has no versions no lock is asked before
        assert client.post(tags, json={"n": str(n)}, headers=headers).status_code == 200
        assert client.get(tags, headers=inside).json() == {"Tags": {"n": str(n)}}
        neuron = f"/api/node/{client.world.top}/neu/key/{n + 1}"
        status = client.post(neuron, json={"bodyid": n + 1, "type": "x"}, headers=headers).status_code
        assert status == (200 if "t-ann" in str(headers) else 400)  # it needs a user


def test_a_mode_for_insiders_alone_protects_nothing(guarded, gateway):
    client = guarded(enforce="none", dsg_address=gateway.url, enforce_internal="dsg")
    inside = {"X-DVID-Internal": "true"}
    assert ask(client, headers=inside).status_code == 200
    assert ask(client, method="POST", content=b"x").status_code == 200
    # but what they are shown of repositories goes by what they may read
    assert len(client.get("/api/repos/info").json()) == 2
    assert client.get("/api/repos/info", headers=inside).json().keys() == {client.world.root}
    assert len(client.get("/api/repos/info", headers=inside | bearer("t-root")).json()) == 2
    path = f"/api/repo/{client.world.mouse}/info"
    assert client.get(path).status_code == 200
    assert client.get(path, headers=inside).status_code == 400  # as in DVID


def test_the_fake_persons_are_what_the_gateway_sends():
    for person in PERSONS.values():
        assert msgspec.convert(person, GatewayUser).email == person["email"]
