"""Every endpoint in the specification is routed, and no path takes a method it shouldn't."""

import csv

import pytest

from dvid_dask.api import nodes, repos, server
from dvid_dask.api.routes import Routes

from .test_conformance import SHARED

TABLES = (server.silent, server.routes, repos.top, repos.routes, nodes.routes)


def test_placeholders_stand_for_one_part():
    routes = Routes()
    routes.get("/a/{x}/c")(lambda request: None)
    assert routes.find("GET", "/a/b/c")[1] == {"x": "b"}
    assert routes.find("GET", "/a//c") is routes.find("GET", "/a/b/b/c") is routes.find("GET", "/a/b/c/") is None


def test_head_follows_get_unless_it_has_its_own():
    routes = Routes()
    get, head = (lambda request: None), (lambda request: None)
    routes.get("/a")(get)
    assert routes.find("HEAD", "/a")[0].handler is get
    routes.head("/a")(head)
    assert routes.find("HEAD", "/a")[0].handler is head
    assert routes.find("DELETE", "/a") is None
    assert routes.methods("/a") == ["GET", "HEAD"]
    assert routes.methods("/b") == []


def test_every_endpoint_has_a_description():
    for table in TABLES:
        for route in table.routes:
            assert route.handler.__doc__, route


@pytest.mark.skipif(SHARED is None, reason="needs the shared folder (set DVID_DASK_SHARED)")
def test_every_endpoint_of_the_specification_is_routed():
    missing = []
    with open(SHARED / "spec/endpoints-server.csv") as f:
        for row in csv.DictReader(f):
            path, method, name = row["path"].partition("[")[0], row["method"], row["id"]
            if row["scope"] not in ("server", "repos", "repo", "node") or method not in (
                "GET",
                "HEAD",
                "POST",
                "DELETE",
            ):
                continue
            routed = any(table.find(method, path) for table in TABLES)
            # what the reference itself can't reach or has removed
            expected = not (".absent" in name or name in ("server.blobstore.get", "server.static.get"))
            if routed != expected:
                missing.append(name)
    assert missing == []
