"""The pages as a browser asks for them: what stands on them, what they refuse, and that nothing can be smuggled in."""

import html
import json
import re
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pytest

from dvid_dask.api.pages import viewer

VOID = {"meta", "link", "img", "br", "hr", "path", "circle", "rect", "input"}


class Checked(HTMLParser):
    """Takes a page apart: tags must close in order; what it links to and shows is collected."""

    def __init__(self, text):
        super().__init__()
        self.stack, self.links, self.images, self.words = [], [], [], []
        self.feed(text)
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        assert tag != "script"
        assert not any(name.startswith("on") for name in attrs)
        if tag not in VOID:
            self.stack.append(tag)
        if "href" in attrs:
            self.links.append(attrs["href"])
        if "src" in attrs:
            self.images.append(attrs["src"])

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def page(client, path, status=200):
    answer = client.get(path)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    return Checked(answer.text)


@pytest.fixture
def volumes(client):
    root = client.repo(alias="fly", description="a small brain")
    gray = client.instance(root, "uint8blk", "gray")
    seg = client.instance(root, "labelmap", "seg", MaxDownresLevel="1")
    voxels = np.arange(64**3, dtype=np.uint64).reshape(64, 64, 64) // 4096 + 1
    assert client.post(f"{gray}/raw/0_1_2/64_64_64/0_0_0", content=voxels.astype(np.uint8).tobytes()).status_code == 200
    assert client.post(f"{seg}/raw/0_1_2/64_64_64/0_0_0", content=voxels.tobytes()).status_code == 200
    client.instance(root, "keyvalue", "notes")
    client.commit(root)
    child = client.child(root)
    return root, child


def test_an_empty_store(client):
    front = page(client, "/")
    assert "Nothing is stored here yet" in front.text


def test_front(client, volumes):
    root, _ = volumes
    front = page(client, "/")
    assert "fly a small brain 2 versions 1 branch 3 instances" in front.text
    assert f"/repo/{root}" in front.links
    # every address on it answers
    for address in [*front.links, *front.images]:
        assert client.get(address).status_code == 200, address


def test_a_repository(client, volumes):
    root, child = volumes
    shown = page(client, f"/repo/{root}")
    assert "64 × 64 × 64 voxels" in shown.text
    assert "8 × 8 × 8 nm" in shown.text
    assert "committed" in page(client, f"/repo/{root}?at={root}").text
    assert len(shown.images) == 3  # the icon, and two volumes
    for address in [*shown.links, *shown.images]:
        if not address.startswith("/neuroglancer/"):
            assert client.get(address).status_code == 200, address
    for picture in shown.images[1:]:
        assert client.get(picture).headers["content-type"].startswith("image/")
    # the tip of master is what is looked at first
    assert f"/api/node/{child}/gray/info" in shown.links
    assert f"/api/node/{root}/gray/info" in page(client, f"/repo/{root}?at={root[:8]}").links
    assert f"/api/node/{child}/gray/info" in page(client, f"/repo/{root[:6]}?at=:master").links


def test_what_is_not_there(client, volumes):
    root, _ = volumes
    assert "no version begins with" in page(client, "/repo/ffff", 404).text
    assert "Not here" in page(client, f"/repo/{root}?at=nosuchbranch", 404).text
    for path in (
        "/repo/", "/repo/a/b", "/pages/", "/pages/no.css", "/pages/..%2ffront.py", "/pages/%2e%2e", "/index.html",
        "/neuroglancer/v/view/..%2f..%2f__init__.py", "/neuroglancer/v/view/nothing.js",
    ):  # fmt: skip
        assert client.get(path).status_code in (301, 404), path
    assert client.post("/").status_code == 404
    assert client.delete(f"/repo/{root}").status_code == 404
    assert client.head("/").status_code == 200


def test_texts_stay_texts(client):
    evil = "<script>alert(1)</script>\"'&"
    root = client.repo(alias=evil, description=evil)
    client.post(f"/api/node/{root}/note", json={"note": evil})
    client.post(f"/api/node/{root}/log", json={"log": [evil]})
    client.instance(root, "keyvalue", "kv", Tags="a=<b>")
    assert html.unescape(evil) in page(client, "/").text
    shown = page(client, f"/repo/{root}")
    assert shown.text.count("alert(1)") >= 4
    odd = client.get("/repo/%3Cscript%3E")
    assert b"<script>" not in odd.content


def test_a_web_client_takes_their_place(make_client, tmp_path):
    (tmp_path / "index.html").write_text("console")
    client = make_client(web_client=str(tmp_path))
    assert client.get("/").text == "console"
    assert client.get("/pages/page.css").status_code == 404


def state_in(link):
    path, _, text = link.partition("#!")
    assert path == "/neuroglancer/v/view/"
    return json.loads(unquote(text))


def test_the_viewer_opens_on_the_version(client, volumes):
    root, child = volumes
    shown = page(client, f"/repo/{root}")
    (link,) = [link for link in shown.links if link.startswith("/neuroglancer/")]
    state = state_in(link)
    assert [(layer["type"], layer["source"]) for layer in state["layers"]] == [
        ("image", f"precomputed://http://testserver/api/node/{child}/gray/precomputed"),
        ("segmentation", f"dvid://http://testserver/{child}/seg"),
    ]
    assert state["position"] == [32, 32, 32]
    assert state["dimensions"]["z"] == [8e-9, "m"]
    behind = client.get(
        f"/repo/{root}", headers={"X-Forwarded-Proto": "https", "X-Forwarded-Host": "em.example.org, inner"}
    )
    assert "dvid://https://em.example.org/" in unquote(behind.text)
    odd = client.get(f"/repo/{root}", headers={"X-Forwarded-Host": 'a"><script>'})
    assert "dvid://http://127.0.0.1/" in unquote(odd.text)


def test_the_viewer_is_served(client):
    begin = client.get("/neuroglancer")
    assert begin.status_code == 307
    assert state_in(begin.headers["location"]) == {}
    index = client.get("/neuroglancer/v/view/")
    assert index.headers["content-type"].startswith("text/html")
    # the page listens to nothing before the viewer begins: each listener is a connection less for voxels
    assert index.text.index("window.EventSource = ") < index.text.index(" src=")
    assert index.status_code == 200
    files = re.findall(r'(?:src|href)="([^"]+)"', index.text)
    assert files
    for name in files:
        answer = client.get(f"/neuroglancer/v/view/{name}")
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
    token = client.post("/neuroglancer/credentials/view", json={"key": "DVID", "parameters": {}})
    assert token.json() == {"generation": 0, "credentials": {"token": ""}}
    assert client.post("/neuroglancer/credentials/view", json={"key": "google"}).status_code == 404
    assert client.post("/neuroglancer/credentials/view", content=b"{").status_code == 400
    assert client.post("/neuroglancer/state/view", json={}).status_code == 404


def test_a_fault_of_the_viewer_is_mended(tmp_path):
    """An annotation layer that isn't restored yet has no relationships; asking for their number took others away."""
    code = b'...;let{x:t}=this;return e[a]=1===t.length&&"segments"===t[0]?void 0:t,e'
    (tmp_path / "main.1f.js").write_bytes(code)
    assert viewer._mended(tmp_path / "main.1f.js") == code.replace(b"t.length", b"t?.length").replace(
        b"t[0]", b"t?.[0]"
    )
    (tmp_path / "main.2f.js").write_bytes(b"something else")
    assert viewer._mended(tmp_path / "main.2f.js") is None


def test_without_the_package(client, volumes, monkeypatch):
    monkeypatch.setattr("dvid_dask.api.pages.front.bundle", lambda: None)
    monkeypatch.setattr(viewer, "bundle", lambda: None)
    root, _ = volumes
    assert "isn't installed on this server" in page(client, f"/repo/{root}").text
    assert "pip install 'dvid-dask[viewer]'" in page(client, "/neuroglancer/", 404).text


def test_a_broken_instance_does_not_break_the_page(client, volumes, monkeypatch):
    from dvid_dask.datatypes.keyvalue import KeyValue
    from dvid_dask.store import BadStore

    def broken(self):
        raise BadStore("a data file is missing")

    monkeypatch.setattr(KeyValue, "stored", broken)
    assert "a data file is missing" in page(client, f"/repo/{volumes[0]}").text
