"""Quick handlers: on the event loop while they are quick, in a thread where they aren't, and the same answers."""

import threading
import time

import pytest

from dvid_dask.api.app import BUDGET
from dvid_dask.api.face import Door
from dvid_dask.api.faces import face_of
from dvid_dask.api.responses import stream, text
from dvid_dask.errors import BadRequest


@pytest.fixture
def asked(client, kv, monkeypatch):
    """Ask a handler of one's own at an instance: returns the answer, and whether it ran on the loop, each time."""

    def ask(handler, query=""):
        ran = []

        def noted(call):
            ran.append("loop" if call.on_loop else "thread")
            # a worker thread of anyio is named so; the loop's thread isn't
            assert call.on_loop == ("AnyIO" not in threading.current_thread().name)
            return handler(call)

        door = Door("probe", "GET", noted, "", True, quick=True)
        monkeypatch.setitem(face_of("keyvalue").doors, "probe", {"GET": door})
        client.app.middleware_stack = client.app.build_middleware_stack()
        handler, begun = (lambda call: text("")), handler
        client.get(f"{kv}/probe")
        assert ran == ["thread"]  # the first time, where kernels may be compiled
        handler = begun
        ran.clear()
        return client.get(f"{kv}/probe{query}"), ran

    return ask


def test_on_the_loop(asked):
    answer, ran = asked(lambda call: text("yes"))
    assert (answer.text, ran) == ("yes", ["loop"])


def test_again_in_a_thread_with_what_it_took_given_back(asked, client):
    def handler(call):
        call.throttled()
        assert call.server.throttle.running == 1
        call.needs_thread()
        return text(str(call.args))

    answer, ran = asked(handler, "/a/b?throttle=on")
    assert (answer.text, ran) == ("['a', 'b']", ["loop", "thread"])
    assert client.app.state.server.throttle.running == 0


def test_errors_are_answers(asked, client):
    def bad(call):
        call.throttled()
        raise BadRequest("no")

    answer, ran = asked(bad, "?throttle=on")
    assert (answer.status_code, ran) == (400, ["loop"])
    assert client.app.state.server.throttle.running == 0
    answer, ran = asked(lambda call: 1 / 0)
    assert (answer.status_code, ran) == (500, ["loop"])


def test_a_stream_is_a_defect(asked):
    answer, _ = asked(lambda call: stream([b"x"]))
    assert answer.status_code == 500


def test_what_is_slow_moves_to_threads(client, kv, monkeypatch):
    ran = []

    def slow(call):
        ran.append(call.on_loop)
        time.sleep(6 * BUDGET)
        return text("")

    monkeypatch.setitem(face_of("keyvalue").doors, "probe", {"GET": Door("probe", "GET", slow, "", True, quick=True)})
    for _ in range(12):
        assert client.get(f"{kv}/probe").status_code == 200
    assert ran[:2] == [False, True]
    assert False in ran[1:]
    assert ran.index(False, 1) < 9


def test_version_lock_and_mode_count_on_the_loop(make_client):
    """What is checked before a handler is called is the same as in threads."""
    client = make_client(cors_domains=("*",), allow_timing=True)
    repo = client.repo()
    seg = client.instance(repo, "labelmap", "seg")
    answer = client.get(f"{seg}/size/7")
    assert answer.status_code == 404
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["timing-allow-origin"] == "*"
    assert client.get(f"{seg}/size/x").status_code == 400
    assert client.get(f"/api/node/{repo}/nothing/size/7").status_code == 400
    assert client.get("/api/node/ffff/seg/size/7").status_code == 400
    client.commit(repo)
    assert client.post(f"{seg}/size/7").status_code == 400
