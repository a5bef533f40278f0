"""One mutation, one commit: data, log and what followers do, together or not at all."""

from __future__ import annotations

import threading

import pytest

from dvid_dask import datatypes
from dvid_dask.datatypes.base import Datatype
from dvid_dask.errors import BadRequest, LockedVersion
from dvid_dask.versions.undo import scan_undo

from .conftest import sound


@datatypes.register
class Source(Datatype):
    """Publishes what it is told to."""

    typename = "test-source"

    def change(self, event, **how):
        def write(m, space):
            space.put(b"n", b"%d" % (int(space.get(b"n") or 0) + 1))
            m.log(self, {"Action": "change", "Event": event})
            m.publish(self, event)
            return m.id

        return self.mutate(write, **how)


@datatypes.register
class Echo(Datatype):
    """Counts the events it gets; may publish them further, or fail."""

    typename = "test-echo"
    sync_partners = frozenset({"*"})

    def on_event(self, m, event):
        if event == "fail":
            raise BadRequest("the follower refuses")
        space = m.space(self)
        space.put(b"seen", (space.get(b"seen") or b"") + str(event).encode() + b";")
        m.log(self, {"Action": "seen", "Event": event})
        m.publish(self, event)

    @property
    def seen(self):
        return self.view().get(b"seen")


@pytest.fixture
def pair(repo):
    source = repo.new_instance("test-source", "source")
    echo = repo.new_instance("test-echo", "echo")
    echo.set_syncs(["source"])
    return source, echo


def test_followers_take_part_in_the_commit(ds, repo, pair):
    source, echo = pair
    mid = source.change("one", user="ann", app="tool")
    token = repo["master"].tree().view(0).token
    assert echo.seen == b"one;"
    (mine,), (theirs,) = source.history(), echo.history()
    assert (mine.id, mine.user, mine.app, mine.record) == (mid, "ann", "tool", {"Action": "change", "Event": "one"})
    assert (theirs.id, theirs.user, theirs.time) == (mid, "ann", mine.time)
    assert list(source.mutations()) == [mine.record]
    # all or nothing
    with pytest.raises(BadRequest):
        source.change("fail")
    assert source.view().get(b"n") == b"1"
    assert repo["master"].tree().view(0).token == token
    sound(ds)


def test_rings_of_subscriptions_end(repo, pair):
    _source, echo = pair
    second = repo.new_instance("test-echo", "second")
    second.set_syncs(["echo"])
    echo.set_syncs(["second", "echo"])
    pair[0].change("x")
    assert second.seen == b"x;"
    assert echo.seen.startswith(b"x;")


def test_a_follower_in_another_tree_gets_a_commit_of_its_own(ds, repo):
    source = repo.new_instance("test-source", "source")
    echo = repo.new_instance("test-echo", "echo", {"Versioned": "0"})
    echo.set_syncs(["source"])
    source.change("one")
    assert echo.seen == b"one;"
    with pytest.raises(BadRequest, match="different trees"):
        source.mutate(lambda m, space: m.space(echo))
    sound(ds)


def test_events_stay_in_their_version(repo, pair):
    source, _echo = pair
    source.change("root")
    root = repo["master"]
    root.commit()
    a, b = root.newversion(), root.new_branch("b")
    a["source"].change("a")
    assert a["echo"].seen == b"root;a;"
    assert b["echo"].seen == b"root;"
    assert [r["Event"] for r in a["source"].mutations()] == ["a"]
    assert list(b["source"].mutations()) == []
    with pytest.raises(LockedVersion):
        root["source"].change("late")


def test_concurrent_mutations_lose_nothing_and_log_in_order(ds, repo, pair):
    """Each record says the count after it: the order of the log is the order of the commits."""
    source = pair[0]
    repo["master"]["echo"].set_syncs([], replace=True)

    def work():
        for _ in range(15):

            def write(m, space):
                n = int(space.get(b"n") or 0) + 1
                space.put(b"n", b"%d" % n)
                m.log(source, {"n": n})

            source.mutate(write)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert [r["n"] for r in source.mutations()] == list(range(1, 61))
    ids = [r.id for r in source.history()]
    assert len(set(ids)) == 60
    sound(ds)


def test_what_fn_returns_and_raises(repo, pair):
    source = pair[0]
    assert source.mutate(lambda m, space: (m.version.uuid, m.id > 0)) == (repo.root, True)
    before = repo["master"].tree().view(0).token

    def fail(m, space):
        space.put(b"x", b"y")
        m.log(source, {"never": "kept"})
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        source.mutate(fail)
    assert repo["master"].tree().view(0).token == before


def test_spaces(repo, pair):
    source = pair[0]

    def write(m, space):
        space.put_many([(b"a1", b"1"), (b"a2", b"2"), (b"b1", b"3")])
        assert space.get(b"a1") == b"1"
        space.delete(b"a2")
        assert space.get_many([b"a1", b"a2", b"b1"]) == [b"1", None, b"3"]
        assert list(space.keys()) == [b"a1", b"b1"]
        space.delete_prefix(b"b")
        space.put(b"c\xff", b"4")
        space.put(b"c\xff\xff", b"5")

    source.mutate(write)
    space = source.view()
    assert list(space.scan()) == [(b"a1", b"1"), (b"c\xff", b"4"), (b"c\xff\xff", b"5")]
    assert list(space.keys(b"c\xff")) == [b"c\xff", b"c\xff\xff"]
    assert list(space.keys(b"", b"b")) == [b"c\xff", b"c\xff\xff"]
    assert list(space.keys(b"", None, b"c")) == [b"a1"]
    assert list(space.keys(b"a", b"b", b"c")) == []
    assert list(space.keys(b"c", b"c\xff", b"c\xff\xff")) == [b"c\xff"]
    assert space.kvstore.read(b"a1").result().value == b"1"
    # another instance sees none of it
    assert list(pair[1].view().keys()) == []


def test_arrays_lie_in_the_space(repo, pair):
    import numpy as np
    import tensorstore as ts

    source = pair[0]
    grid = {"name": "regular", "configuration": {"chunk_shape": [2]}}
    spec = {"driver": "zarr3", "metadata": {"shape": [4], "data_type": "uint16", "chunk_grid": grid}}

    def write(m, space):
        array = ts.open(spec, kvstore=space.kvstore / "v/s0/", create=True, open=True).result()
        array[...] = np.arange(4, dtype=np.uint16)

    source.mutate(write)
    assert list(source.view().keys(b"v/")) == [b"v/s0/c/0", b"v/s0/c/1", b"v/s0/zarr.json"]
    array = ts.open({"driver": "zarr3"}, kvstore=source.view().kvstore / "v/s0/").result()
    assert array[...].read().result().tolist() == [0, 1, 2, 3]
    with pytest.raises(ZeroDivisionError):
        source.mutate(lambda m, space: (write(m, space), space.put(b"x", b"y"), 1 / 0))
    assert source.view().get(b"x") is None


def test_what_undoes_a_mutation_is_kept_until_the_version_is_committed(repo, pair):
    source, _ = pair

    def keep(m, space):
        space.put(b"n", b"1")
        m.keep_undo(source, "change", b"back")
        m.keep_undo(source, "change", b"other", m.id + 1)
        return m.id

    mid = source.mutate(keep, user="me")
    kept, data = source.mutate(lambda m, _: (m.undo_record(source, mid), m.undo_data(source, mid)))
    assert (kept.id, kept.action, kept.user, data) == (mid, "change", "me", b"back")
    assert (kept.undone, kept.latest) == (0, mid)
    tree, here = source.version.tree(), (source.info.id, source.version.id)
    assert [r.id for r in scan_undo(tree.view(0), *here)] == [mid, mid + 1]
    assert [r.id for r in scan_undo(tree.view(0), *here, after=mid)] == [mid + 1]
    source.version.commit()
    assert list(scan_undo(tree.view(0), *here)) == []
    source.mutate(keep, force=True)
    assert list(scan_undo(tree.view(0), *here)) == []
