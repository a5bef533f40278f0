"""A local DatasetGateway, and a store with what is public in it and what isn't."""

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PERSONS = {
    "t-ann": {"email": "ann@lab.org", "admin": False, "permissions_v2": {"fly": ["edit"]}, "datasets_admin": []},
    "t-viv": {"email": "viv@lab.org", "name": "Viv", "groups": ["x"], "permissions_v2": {"fly": ["view"]}},
    "t-max": {"email": "max@lab.org", "permissions_v2": {"fly": ["view", "manage"]}},
    "t-pam": {"email": "pam@lab.org", "permissions_v2": {"fly": ["admin"]}},
    "t-dan": {"email": "dan@lab.org", "permissions_v2": None, "datasets_admin": ["fly"]},
    "t-bob": {"email": "bob@lab.org", "permissions_v2": {"mouse": ["edit"], "fly": ["dance"]}},
    "t-root": {"email": "root@lab.org", "admin": True},
}


@dataclass
class FakeGateway:
    """The service.

    `fault` is how it misbehaves: a status to answer, "garbage", "types", "hang", "drip", "close", "long" or "redirect".
    """

    persons: dict = field(default_factory=lambda: dict(PERSONS))
    fault: str = ""
    asked: list = field(default_factory=list)

    def __post_init__(self):
        self.go = threading.Event()
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                service.handle(self)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self):
        self.go.set()
        self.server.shutdown()
        self.server.server_close()

    def handle(self, request):
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        self.asked.append((request.path, token))
        status, body, fault = 200, json.dumps(self.persons.get(token, {})).encode(), self.fault
        if fault == "hang":
            self.go.wait(30)
        if request.path != "/api/v1/user/cache":
            status = 404
        elif fault.isdigit():
            status = int(fault)
        elif token not in self.persons:
            status, body = 401, b'{"error": "who?"}'
        elif fault == "garbage":
            body = b"<html>"
        elif fault == "types":
            body = b'{"email": 3}'
        elif fault == "long":
            body = b" " * (5 << 20) + body
        elif fault == "redirect":
            status = 302
        try:
            request.send_response(status)
            if status == 302:
                request.send_header("Location", f"{self.url}/api/v1/user/cache?again")
            request.send_header("Content-Length", str(len(body)))
            request.end_headers()
            if fault == "drip":
                for byte in body:
                    request.wfile.write(bytes([byte]))
                    if self.go.wait(0.2):
                        break
                request.close_connection = True
            elif fault == "close":
                request.wfile.write(body[:5])
                request.close_connection = True
            else:
                request.wfile.write(body)
        except OSError:
            pass


@dataclass
class World:
    """Selectors: `root`, `one`, `side` and `release` are public, `top` is open below them; `mouse` is another root."""

    root: str
    one: str
    side: str
    release: str
    top: str
    mouse: str

    @property
    def public(self):
        return {self.root, self.one, self.side, self.release}

    def auth(self, **more):
        """A configuration."""
        return {"public_versions": (self.release,), "dataset_map": {self.root: "fly"}, **more}


#: Settings without which a type can't be.
NEEDED = {"tarsupervoxels": {"Extension": "dat"}}
#: An instance of each type that needs nothing from elsewhere.
INSTANCES = {
    "kv": "keyvalue",
    "seg": "labelmap",
    "gray": "uint8blk",
    "lb": "labelblk",
    "la": "labelarray",
    "lv": "labelvol",
    "syn": "annotation",
    "sz": "labelsz",
    "neu": "neuronjson",
    "area": "roi",
    "tiles": "imagetile",
    "multi": "multichan16",
    "tars": "tarsupervoxels",
}


def make_world(datastore):
    repo = datastore.new_repo("fly", "a fly", passcode="")
    for name, typename in INSTANCES.items():
        repo.new_instance(typename, name, NEEDED.get(typename))
    repo.new_instance("keyvalue", "shared", {"versioned": "false"})
    root = repo["master"]
    root["kv"].put("a", b"old")
    root["shared"].put("s", b"for all versions")
    repo.add_log(["secret of the repository"])
    root.commit("base")
    one, side = root.newversion(), root.new_branch("side")
    one["kv"].put("one", b"1")
    side["kv"].put("side", b"2")
    one.commit()
    side.commit()
    release = repo.merge([one, side])
    release.commit("released")
    top = release.newversion()
    top["kv"].put("new", b"secret")
    top.set_note("secret note")
    mouse = datastore.new_repo("mouse", "a mouse")
    mouse.new_instance("keyvalue", "kv").put("a", b"squeak")
    return World(root.uuid, one.uuid, side.uuid, release.uuid, top.uuid, mouse.root)
