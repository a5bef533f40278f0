"""Handlers are found by keyword and method; bodies are whole or an error; JSON has the types it should have."""

import contextlib

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvid_dask.api.body import Body
from dvid_dask.api.common import COMMON, complete, help_text
from dvid_dask.api.face import Face, decode_json
from dvid_dask.api.failures import BrokenBody
from dvid_dask.api.state import ByteBudget
from dvid_dask.errors import BadRequest, TooBusy


def body_of(pieces, length=None, *, leaves=False, **options):
    messages = [{"type": "http.request", "body": p, "more_body": True} for p in pieces]
    if leaves:
        messages.append({"type": "http.disconnect"})
    elif messages:
        messages[-1]["more_body"] = False
    else:
        messages = [{"type": "http.request", "body": b"", "more_body": False}]
    rest = iter(messages)

    async def receive():
        message = next(rest, None)
        if message is None:
            await anyio.sleep_forever()
        return message

    return Body(receive, length, **options)


def in_thread(fn):
    """Handlers read bodies in worker threads of an event loop."""

    async def main():
        return await anyio.to_thread.run_sync(fn)

    return anyio.run(main)


@settings(deadline=None)
@given(
    st.lists(st.binary(max_size=50), max_size=8),
    st.lists(st.tuples(st.integers(0, 60), st.booleans()), max_size=12),
    st.booleans(),
)
def test_a_body_is_the_same_however_it_comes_and_is_read(pieces, reads, announced):
    whole = b"".join(pieces)
    body = body_of(pieces, len(whole) if announced and whole else None)

    def read():
        out = []
        for n, into in reads:
            if into:
                room = bytearray(n)
                out.append(bytes(room[: body.readinto(memoryview(room))]))
            else:
                out.append(body.read(n))
            assert len(out[-1]) <= n
        return b"".join(out) + body.read()

    assert in_thread(read) == whole


def test_reads_are_short_only_at_the_end():
    body = body_of([b"ab", b"c", b"defg"])
    assert in_thread(lambda: [body.read(3), body.read(3), body.read(3), body.read(3)]) == [b"abc", b"def", b"g", b""]
    body, room = body_of([b"ab", b"c", b"defg"]), bytearray(3)
    assert in_thread(lambda: [body.readinto(memoryview(room)) for _ in range(4)]) == [3, 3, 1, 0]
    assert room == b"gef"


@pytest.mark.parametrize(
    "read",
    [
        lambda b: b.read(),
        lambda b: b.read(100),
        lambda b: list(b.chunks(2)),
        lambda b: b.readinto(memoryview(bytearray(100))),
    ],
)
def test_a_client_that_leaves_is_an_error(read):
    with pytest.raises(BrokenBody, match="left"):
        in_thread(lambda: read(body_of([b"abc"], 10, leaves=True)))


def test_a_body_shorter_than_announced_is_an_error():
    with pytest.raises(BrokenBody, match="3 of 10"):
        in_thread(lambda: body_of([b"abc"], 10).read())
    with pytest.raises(BrokenBody, match="3 of 10"):
        in_thread(lambda: body_of([b"abc"], 10).readinto(memoryview(bytearray(5))))


def test_a_silent_client_is_an_error():
    async def receive():
        await anyio.sleep_forever()

    with pytest.raises(BrokenBody, match="within"):
        in_thread(Body(receive, 10, timeout=0.05).read)


@pytest.mark.parametrize("length", [100, None])
def test_limits(length):
    with pytest.raises(BadRequest, match="longer than"):
        in_thread(lambda: body_of([bytes(60), bytes(40)], length, limit=99).all())
    with pytest.raises(BadRequest, match="longer than"):
        in_thread(lambda: body_of([bytes(60), bytes(40)], length).all(limit=99))
    assert len(in_thread(lambda: body_of([bytes(60), bytes(40)], length, limit=100).all())) == 100


def test_bodies_share_a_budget_and_give_back():
    budget = ByteBudget(150)
    first = body_of([bytes(100)], 100, budget=budget)
    in_thread(first.all)
    assert budget.held == 100
    second = body_of([bytes(100)], 100, budget=budget)
    with pytest.raises(TooBusy):
        in_thread(second.all)
    first.close()
    first.close()
    assert budget.held == 0
    assert len(in_thread(second.all)) == 100


def test_methods_and_keywords():
    face = Face("toy")

    @face.get("a", "b", args="/<x>")
    def get(call):
        """Get it."""

    @face.post("a")
    def post(call):
        """Post it."""

    @face.head("b")
    def head(call): ...

    @face.any("c")
    def anything(call): ...

    assert face.find("GET", "a").handler is face.find("GET", "b").handler is face.find("HEAD", "a").handler is get
    assert face.find("POST", "a").handler is post
    assert face.find("HEAD", "b").handler is head
    assert {face.find(m, "c").handler for m in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "X")} == {anything}
    for method, keyword in (("POST", "b"), ("PUT", "a"), ("OPTIONS", "a"), ("GET", "nosuch")):
        with pytest.raises(BadRequest):
            face.find(method, keyword)
    with pytest.raises(ValueError, match="two handlers"):
        face.get("a")(get)


def test_methods_of_a_type_come_before_keywords():
    face = Face("toy", methods=("GET", "POST"))
    with pytest.raises(BadRequest, match="GET and POST only"):
        face.find("HEAD", "later")


def test_own_handlers_win_over_common_ones():
    face = Face("toy", common=("tags",))

    @face.post("info")
    def configure(call): ...

    complete(face)
    assert face.find("POST", "info").handler is configure
    assert face.find("GET", "info").handler is COMMON["info"].doors["info"]["*"].handler
    assert face.find("POST", "tags").keyword == "tags"
    with pytest.raises(BadRequest):
        face.find("POST", "sync")
    with pytest.raises(ValueError, match="no common keyword"):
        complete(Face("toy", common=("tag",)))


def test_help_shows_every_door_with_its_docstring():
    face = Face("toy", about="A toy.")

    @face.get("ball", args="/<colour>")
    def ball(call):
        """A ball.

        It is ``round``; see :func:`cube`.
        """

    text = help_text(complete(face), "toy")
    assert "A toy." in text
    assert "GET  /api/node/<uuid>/<instance>/ball/<colour>\n    A ball.\n\n    It is round; see cube." in text
    assert "any method  /api/node/<uuid>/<instance>/info" in text


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_json_or_a_bad_request(data):
    with contextlib.suppress(BadRequest):
        decode_json(data)


@pytest.mark.parametrize(
    "data", [b"", b"{", b'{"a":}', b"\xff\xfe", b'"\xc3"', b"[" * 100_000, b'{"a":' * 100_000, b"nul", b"{}x"]
)
def test_bad_json(data):
    with pytest.raises(BadRequest):
        decode_json(data)


def test_json_of_another_type():
    with pytest.raises(BadRequest, match="expected"):
        decode_json(b'{"a": 1}', dict[str, str])
