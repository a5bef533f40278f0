"""Who watches is told of each mutation once when it begins and once when it is durable; no mutation waits or fails."""

from __future__ import annotations

import logging
import pickle
import threading

import pytest

from dvid_dask import datatypes
from dvid_dask.datatypes.base import Datatype
from dvid_dask.errors import BadRequest, LockedVersion
from dvid_dask.versions.feed import Feed, Message, Seldom


@datatypes.register
class Spoken(Datatype):
    """Announces what it is about to count, then counts."""

    typename = "test-spoken"
    sync_partners = frozenset({"*"})

    def count(self, *, before_commit=lambda attempt: None, event=None, **how):
        attempts = []

        def write(m, space):
            n = int(space.get(b"n") or 0) + 1
            space.put(b"n", b"%d" % n)
            m.announce(self, {"Action": "count", "MutationID": m.id})
            m.announce(self, {"Action": "second", "MutationID": m.id})
            m.report(self, {"Action": "reported", "n": n})
            m.log(self, {"Action": "count-complete", "MutationID": m.id, "n": n})
            if event is not None:
                m.publish(self, event)
            attempts.append(m.id)
            before_commit(len(attempts))
            return len(attempts)

        return self.mutate(write, **how)

    def on_event(self, m, event):
        m.log(self, {"Action": "heard", "Event": event})


@pytest.fixture
def spoken(repo):
    return repo.new_instance("test-spoken", "spoken")


def actions(heard):
    return [message.record["Action"] for message in heard]


def test_begin_and_end_of_a_mutation(ds, repo, spoken):
    heard = []
    with ds.watch(heard.append):
        spoken.count()
    assert actions(heard) == ["count", "second", "reported", "count-complete"]
    assert {(m.repo, m.data) for m in heard} == {(repo.root, spoken.info.data_uuid)}
    assert heard[0].record["MutationID"] == heard[3].record["MutationID"]
    # every message says where and when; the log has what belongs there, and the completion is the log's own record
    assert {m.record["UUID"] for m in heard} == {repo.root}
    assert all(m.record["Timestamp"].endswith(" +0000 UTC") for m in heard)
    (kept,) = spoken.mutations()
    assert kept == {"Action": "count-complete", "MutationID": heard[3].record["MutationID"], "n": 1}
    assert kept.items() <= heard[3].record.items()
    spoken.count()
    assert len(heard) == 4  # nobody listens any more


def test_the_end_is_told_after_the_commit_is_durable(ds, repo, spoken):
    seen = []

    def receive(message):
        if message.record["Action"] == "count-complete":
            seen.append((message.record["n"], int(repo["master"]["spoken"].view(0).get(b"n"))))

    with ds.watch(receive):
        for _ in range(5):
            spoken.count()
    assert [n for n, _ in seen] == [1, 2, 3, 4, 5]
    assert all(stored >= told for told, stored in seen)


def test_a_mutation_that_is_tried_again_begins_once(ds, spoken):
    heard = []

    def interfere(attempt):
        if attempt <= 2:
            spoken.mutate(lambda m, space: space.put(b"n", b"%d" % (int(space.get(b"n") or 0) + 10)))

    with ds.watch(heard.append):
        assert spoken.count(before_commit=interfere) == 3
    assert actions(heard) == ["count", "second", "reported", "count-complete"]
    assert heard[-1].record["n"] == 21  # of the attempt that was committed


def test_a_mutation_that_is_refused_is_not_told(ds, spoken):
    heard = []

    def fail(attempt):
        raise BadRequest("stop")

    with ds.watch(heard.append):
        with pytest.raises(BadRequest, match="stop"):
            spoken.count(before_commit=fail)
        spoken.version.commit()
        with pytest.raises(LockedVersion):
            spoken.count()
    assert actions(heard) == ["commit"]


def test_a_mutation_whose_commit_fails_has_no_end(ds, spoken):
    heard = []
    with ds.watch(heard.append), pytest.raises(LockedVersion):
        spoken.count(before_commit=lambda attempt: spoken.version.commit())
    assert actions(heard) == ["commit", "count", "second"]
    assert list(spoken.mutations()) == []


def test_a_forced_write_is_told_once_though_it_is_carried_on(ds, spoken):
    spoken.version.commit()
    spoken.version.newversion()
    heard = []
    with ds.watch(heard.append):
        spoken.count(force=True)
    assert actions(heard) == ["count", "second", "reported", "count-complete"]


def test_followers_in_the_same_commit_and_in_one_of_their_own(ds, repo, spoken):
    near = repo.new_instance("test-spoken", "near")
    far = repo.new_instance("test-spoken", "far", {"Versioned": "0"})
    near.set_syncs(["spoken"])
    far.set_syncs(["spoken"])
    heard = []
    with ds.watch(heard.append):
        spoken.count(event="x")
    told = [(m.data, m.record["Action"]) for m in heard[2:]]
    mine = spoken.info.data_uuid
    assert told == [
        (mine, "reported"),
        (mine, "count-complete"),
        (near.info.data_uuid, "heard"),
        (far.info.data_uuid, "heard"),
    ]


def test_operations_on_the_repository(ds):
    repo = ds.new_repo("fly")
    root = repo["master"]
    heard = []
    with ds.watch(heard.append):
        repo.new_instance("keyvalue", "notes")
        root.set_note("a note")
        root.add_log(["one", "two"])
        root.commit("done")
        child = root.newversion("next")
        branch = root.new_branch("side", "another")
        tag = root.tag("v1", "tagged")
    assert {(m.repo, m.data) for m in heard} == {(repo.root, "")}
    parent = {"Parent": root.uuid}
    assert [m.record for m in heard] == [
        {"Action": "newinstance", "UUID": root.uuid, "Typename": "keyvalue", "Dataname": "notes"},
        {"Action": "nodenote", "UUID": root.uuid, "Note": "a note"},
        {"Action": "nodelog", "UUID": root.uuid, "Log": ["one", "two"]},
        {"Action": "commit", "UUID": root.uuid, "Note": "done", "Log": None},
        {"Action": "newversion", **parent, "Child": child.uuid, "Note": "next"},
        {"Action": "branch", **parent, "Child": branch.uuid, "Note": "another", "Branch": "side"},
        {"Action": "tag", **parent, "Child": tag.uuid, "Note": "tagged", "Branch": "tag-v1", "Tag": "v1"},
    ]


def test_what_is_refused_is_not_told(ds, repo):
    root = repo["master"]
    heard = []
    with ds.watch(heard.append):
        for refused in (root.newversion, lambda: root.new_branch("b"), lambda: root.tag("t")):
            with pytest.raises(LockedVersion):
                refused()
        with pytest.raises(BadRequest):
            repo.new_instance("keyvalue", "")
    assert heard == []


def test_a_watcher_that_fails_or_hangs_harms_nobody(ds, spoken, caplog):
    gate, good = threading.Event(), []

    def hang(message):
        gate.wait(30)

    def fail(message):
        raise RuntimeError("no room")

    with caplog.at_level(logging.WARNING), ds.watch(good.append), ds.watch(fail):
        slow = ds.watch(hang, waiting=3)
        assert [spoken.count() for _ in range(4)] == [1, 1, 1, 1]
        assert slow.lost > 0
        gate.set()
        slow.close()
    assert len(good) == 16
    assert "no room" in caplog.text
    assert "are lost by now" in caplog.text
    # and not a line for each message
    assert len(caplog.records) == 2


def test_messages_that_belong_together_are_taken_whole_or_not_at_all():
    gate, got = threading.Event(), []

    def receive(message):
        gate.wait(30)
        got.append(message.record["n"])

    def messages(*numbers):
        return [Message("r", "d", {"n": n}) for n in numbers]

    feed = Feed()
    watcher = feed.watch(receive, waiting=4)
    feed.tell(messages(*range(10)))  # more than the limit, but nothing else waits
    feed.tell(messages(90, 91))
    gate.set()
    assert watcher.close() == 0
    assert got == list(range(10))
    assert watcher.lost == 2
    watcher.put(messages(99))
    assert got == list(range(10))


def test_long_messages_count_for_several():
    gate = threading.Event()
    feed = Feed()
    watcher = feed.watch(lambda message: gate.wait(30), waiting=100)
    for _ in range(4):
        feed.tell([Message("r", "d", {"Labels": list(range(10_000))})])
    assert watcher.lost == 2  # 40 each
    gate.set()
    watcher.close()


def test_what_a_hanging_watcher_did_not_take_is_counted_at_the_end():
    gate = threading.Event()
    feed = Feed()
    watcher = feed.watch(lambda message: gate.wait(30))
    feed.tell([Message("r", "d", {"n": n}) for n in range(5)])
    assert watcher.close(timeout=0.05) == 5
    assert not feed
    gate.set()


def test_a_watcher_may_stop_itself(ds, spoken):
    heard = []

    def receive(message):
        heard.append(message)
        watcher.close()

    watcher = ds.watch(receive)
    spoken.mutate(lambda m, space: m.report(spoken, {"Action": "once"}))
    watcher.close()
    spoken.count()
    assert actions(heard) == ["once"]


def test_nobody_watches(ds, spoken, monkeypatch):
    """Then nothing is made that could be told."""
    monkeypatch.setattr("dvid_dask.versions.mutation.Voice", None)
    assert not ds.feed
    spoken.count()
    spoken.tell({"Action": "unheard"})
    # who gets the datastore by pickle opens it anew, without its watchers
    with ds.watch(print):
        assert not pickle.loads(pickle.dumps(ds)).feed


def test_lines_of_one_kind_are_seldom(caplog, monkeypatch):
    moment = [0.0]
    monkeypatch.setattr("dvid_dask.versions.feed.time.monotonic", lambda: moment[0])
    say = Seldom(logging.getLogger("test"), every=10.0)
    with caplog.at_level(logging.WARNING):
        for moment[0] in (1.0, 2.0, 3.0, 11.5):
            say("it is %s", "late")
    assert caplog.messages == ["it is late", "it is late (and 2 more like this since the last line)"]
