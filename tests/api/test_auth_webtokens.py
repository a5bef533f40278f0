"""Users by a signed token, the file that lists them, and tokens for those whom a proxy knows."""

import base64
import hmac
import json
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from dvid_dask.api.auth import issuing

from .certificates import certificate
from .conftest import ADMIN
from .test_auth_gateway import ask, bearer

SECRET = "a secret of more than sixty-four bytes, since the longest of the hashes asks for so many of them"


@pytest.fixture
def client(guarded):
    return guarded(enforce="token", jwt_secret=SECRET)


def token(secret=SECRET, algorithm="HS256", **claims):
    return jwt.encode({"user": "ann@lab.org", **claims}, secret, algorithm)


def raw_token(header, claims, secret=SECRET, hashed="sha256"):
    """Whatever header and claims, signed."""

    def part(data):
        text = data if isinstance(data, bytes) else json.dumps(data).encode()
        return base64.urlsafe_b64encode(text).rstrip(b"=")

    signed = part(header) + b"." + part(claims)
    return (signed + b"." + part(hmac.digest(secret.encode(), signed, hashed))).decode()


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_good_tokens(client, algorithm, method):
    good = token(algorithm=algorithm, exp=time.time() + 60, nbf=time.time() - 60, iat=time.time() - 1)
    assert ask(client, good, method, content=b"x").status_code == 200
    # other claims mean nothing here
    claims = {"user": "ann@lab.org", "aud": "others", "iss": 7, "sub": 3, "jti": [1]}
    odd = raw_token({"alg": algorithm, "kid": "x"}, claims, hashed=f"sha{algorithm[2:]}")
    assert ask(client, odd, method, content=b"x").status_code == 200


def test_the_user_is_recorded(client):
    neuron = f"/api/node/{client.world.top}/neu/key/7"
    assert client.post(neuron, json={"bodyid": 7, "type": "x"}, headers=bearer(token())).status_code == 200
    assert client.get(neuron, params={"show": "user"}, headers=bearer(token())).json()["type_user"] == "ann@lab.org"


def now():
    return time.time()


def unsigned():
    return jwt.encode({"user": "ann@lab.org"}, None, "none")


def by_public_key():
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return jwt.encode({"user": "ann@lab.org"}, key, "RS256")


BAD = {
    "none": lambda: "",
    "garbage": lambda: "garbage",
    "dots": lambda: "a.b.c",
    "other secret": lambda: token("another secret of more than sixty-four bytes, as long as the right one is, too"),
    "empty secret": lambda: raw_token({"alg": "HS256"}, {"user": "ann"}, ""),
    "expired": lambda: token(exp=now() - 60),
    "not yet": lambda: token(nbf=now() + 60),
    "from the future": lambda: token(iat=now() + 600),
    "unsigned": unsigned,
    "RS256": by_public_key,
    "RS256 signed by the secret": lambda: raw_token({"alg": "RS256"}, {"user": "ann"}),
    "NONE in capitals": lambda: raw_token({"alg": "NONE"}, {"user": "ann"}),
    "no algorithm": lambda: raw_token({}, {"user": "ann"}),
    "header is a list": lambda: raw_token([1], {"user": "ann"}),
    "no user": lambda: jwt.encode({"name": "ann"}, SECRET, "HS256"),
    "user is a number": lambda: token(user=7),
    "user is a list": lambda: token(user=["ann"]),
    "user is empty": lambda: token(user=""),
    "claims are a list": lambda: raw_token({"alg": "HS256"}, ["ann"]),
    "claims are nested": lambda: raw_token({"alg": "HS256"}, b"[" * 3000),
    "end is a text": lambda: token(exp="soon"),
    "end is infinite": lambda: raw_token({"alg": "HS256"}, b'{"user": "ann", "exp": 1e999}'),
    "end is a list": lambda: raw_token({"alg": "HS256"}, {"user": "ann", "exp": [1]}),
    "begin is huge": lambda: raw_token({"alg": "HS256"}, b'{"user": "ann", "nbf": 1e400}'),
    "claims aren't text": lambda: raw_token({"alg": "HS256"}, b"\xff\xfe"),
    "unknown demand": lambda: raw_token({"alg": "HS256", "crit": ["x"], "x": 1}, {"user": "ann"}),
    "longest header": lambda: "x" * 60_000,
    "long but good": lambda: token(note="x" * 9000),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_tokens_400(client, bad):
    given = BAD[bad]()
    for method in ("GET", "POST", "OPTIONS"):
        assert ask(client, given, method, content=b"x").status_code == 400
    assert client.get("/api/repos/info", headers=bearer(given)).json().keys() == {client.world.root}


def test_other_schemes_and_cookies_are_none(client):
    good = token()
    for headers in ({"Authorization": good}, {"Authorization": f"Token {good}"}, {"Cookie": f"dsg_token={good}"}):
        assert ask(client, headers=headers).status_code == 400


def test_whoever_has_a_token_sees_all(client):
    assert len(client.get("/api/repos/info", headers=bearer(token())).json()) == 2
    assert client.get("/api/repos/info").json().keys() == {client.world.root}
    # it makes nobody an administrator
    assert client.get("/api/server/config", headers=bearer(token())).status_code == 400
    assert ask(client, params=ADMIN).status_code == 400


# ------------------------------------------------------------------ the file


@pytest.fixture
def users(tmp_path):
    file = tmp_path / "users.json"
    file.write_text('{"ann": "readwrite", "viv": "read", "loader": "write", "*": "read"}')
    return file


@pytest.mark.parametrize(
    ("user", "reads", "writes"),
    [("ann", True, True), ("viv", True, False), ("loader", False, True), ("stranger", True, False)],
)
def test_the_file_says_who_may_what(guarded, users, user, reads, writes):
    client = guarded(enforce="authfile", jwt_secret=SECRET, auth_file=str(users))
    given = token(user=user)
    for method in ("GET", "HEAD"):
        assert ask(client, given, method).status_code == (200 if reads else 400)
    assert ask(client, given, "POST", content=b"x").status_code == (200 if writes else 400)
    assert len(client.get("/api/repos/info", headers=bearer(given)).json()) == (2 if reads else 1)
    assert ask(client).status_code == 400


def test_the_file_is_read_again_when_told(guarded, users):
    client = guarded(enforce="authfile", jwt_secret=SECRET, auth_file=str(users))
    assert ask(client, token(user="ann")).status_code == 200
    users.write_text('{"bob": "readwrite"}')
    assert ask(client, token(user="ann")).status_code == 200
    assert str(users) in client.post("/api/server/reload-auth", params=ADMIN).text
    assert ask(client, token(user="ann")).status_code == 400
    assert ask(client, token(user="bob")).status_code == 200
    # nobody is let in or out by a file that is no good
    users.write_text('{"ann": "everything"}')
    refused = client.post("/api/server/reload-auth", params=ADMIN)
    assert refused.status_code == 400
    assert "everything" in refused.text
    users.unlink()
    assert client.post("/api/server/reload-auth", params=ADMIN).status_code == 400
    assert ask(client, token(user="bob")).status_code == 200
    assert ask(client, token(user="ann")).status_code == 400


def test_reload_needs_an_administrator(guarded, users):
    client = guarded(enforce="authfile", jwt_secret=SECRET, auth_file=str(users))
    assert client.post("/api/server/reload-auth", headers=bearer(token(user="ann"))).status_code == 400


# ------------------------------------------------------------------ tokens for those whom a proxy knows


class Proxy:
    """Knows who is logged in, by the cookie `session`."""

    def __init__(self, folder):
        self.reply = 200, b'{"Email": "ann@lab.org", "Name": "Ann"}'
        self.seen = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                service.seen.append((self.path, self.headers["Cookie"]))
                status, body = service.reply if "session=1" in (self.headers["Cookie"] or "") else (401, b"")
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self.chain, key = certificate(folder)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.chain, key)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.address = f"127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def proxy(tmp_path, monkeypatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    made = Proxy(tmp_path)
    yield made
    made.close()


@pytest.fixture
def trusted(proxy, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(proxy.chain))
    return proxy


def get_token(client, cookies="session=1"):
    return client.get("/api/server/token", headers={"Cookie": cookies} if cookies else {})


def test_a_token_for_who_is_logged_in(guarded, trusted):
    client = guarded(proxy_address=trusted.address, jwt_secret=SECRET)  # which means mode token
    answer = get_token(client)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.headers["cache-control"] == "no-store"
    assert jwt.get_unverified_header(answer.text)["alg"] == "HS512"
    claims = jwt.decode(answer.text, SECRET, ["HS512"])
    assert claims["user"] == "ann@lab.org"
    assert 29 * 86400 < claims["exp"] - time.time() <= 30 * 86400
    assert ask(client, answer.text, "POST", content=b"x").status_code == 200
    assert trusted.seen == [("/profile", "session=1")]


@pytest.mark.parametrize(
    "reply",
    [
        (401, b""),
        (302, b""),
        (200, b"<html>"),
        (200, b"{}"),
        (200, b'{"Email": ""}'),
        (200, b'{"Email": 7}'),
        (200, b'{"email": "ann"}'),
        (200, b" " * (2 << 20)),
    ],
)
def test_a_proxy_that_knows_nobody_400(guarded, trusted, reply):
    trusted.reply = reply
    assert get_token(guarded(proxy_address=trusted.address, jwt_secret=SECRET)).status_code == 400
    assert len(trusted.seen) == 1


def test_a_stranger_gets_no_token(guarded, trusted):
    client = guarded(proxy_address=trusted.address, jwt_secret=SECRET)
    assert get_token(client, "session=2").status_code == 400
    assert get_token(client, "").status_code == 400
    assert len(trusted.seen) == 1


def test_a_proxy_whose_certificate_nobody_vouches_for_is_not_believed(guarded, proxy):
    answer = get_token(guarded(proxy_address=proxy.address, jwt_secret=SECRET))
    assert answer.status_code == 400
    assert "certificate" in answer.text.lower()
    assert proxy.seen == []


def test_a_proxy_that_is_not_there_400(guarded, proxy, monkeypatch):
    monkeypatch.setattr(issuing, "PATIENCE", 2.0)
    proxy.close()
    assert get_token(guarded(proxy_address=proxy.address, jwt_secret=SECRET)).status_code == 400


def test_no_proxy_no_secret_or_a_gateway_no_token(guarded, make_client):
    for client, says in (
        (guarded(enforce="token", jwt_secret=SECRET), "no proxy"),
        (guarded(enforce="none", proxy_address="a.org"), "DVID_JWT_SECRET_KEY"),
        (guarded(enforce="dsg", proxy_address="a.org"), "DatasetGateway"),
        (make_client(), "no proxy"),
    ):
        answer = get_token(client)
        assert answer.status_code == 400
        assert says in answer.text
