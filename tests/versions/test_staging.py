"""Mutations in many commits: seen as one, or not at all; others go on meanwhile, and it ends whatever they do."""

import threading

import pytest

import dvid_dask
from dvid_dask.errors import LockedVersion
from dvid_dask.versions import staging
from dvid_dask.versions.staging import land_caught_up, staged


@pytest.fixture
def notes():
    repo = dvid_dask.create("memory://", compact="never").new_repo("fly")
    made = repo.new_instance("keyvalue", "notes")
    made.put("there", b"0")
    return made


def trees(notes):
    return notes.version.datastore.store.trees()


def no_catching_up(update, old, new):
    raise AssertionError("nobody else changed anything")


def test_parts_are_seen_at_once(notes):
    with staged(notes) as stage:
        for n in range(3):
            stage.update(lambda _, space, n=n: space.put(b"part %d" % n, b""))
            assert not list(notes.view(0).keys(b"part"))
        held = stage.land(no_catching_up, lambda m, space: (m.id, len(list(space.keys(b"part")))))
    assert held == (stage.mutation, 3)
    assert len(list(notes.view(0).keys(b"part"))) == 3
    assert not [t for t in trees(notes) if t.startswith(staging.STAGED)]


def test_what_fails_leaves_nothing(notes):
    before = notes.view(0).token
    with staged(notes) as stage:
        stage.update(lambda _, space: space.put(b"part", b""))
        with pytest.raises(ZeroDivisionError):
            stage.land(no_catching_up, lambda _, __: 1 // 0)
    assert notes.view(0).token == before
    assert not [t for t in trees(notes) if t.startswith(staging.STAGED)]


def test_a_version_that_is_committed_meanwhile(notes):
    with staged(notes) as stage:
        stage.update(lambda _, space: space.put(b"part", b""))
        notes.version.commit()
        with pytest.raises(LockedVersion):
            stage.land(lambda *_: None, lambda _, __: None)
    assert not list(notes.view(0).keys(b"part"))


def test_it_ends_while_others_edit_all_the_time(notes, monkeypatch):
    """Each round finds as much as the one before: the last takes it all up, and has the others wait."""
    monkeypatch.setattr(staging, "_FEW", 2)
    tree = notes.version.tree(notes.info)
    store = notes.version.datastore.store
    base = tree.view(0)
    branch = store.branch(base, "branch")
    branch.update(lambda tx: tx.put(b"ours", b""))
    rounds, waiting = [], []

    def others():
        """Some edits by another thread, which has to wait where nobody else may commit."""
        number = len(rounds)
        editor = threading.Thread(target=lambda: [notes.put(f"{number}-{n}", b"") for n in range(5)], daemon=True)
        editor.start()
        editor.join(0.3)
        waiting.append(editor)

    def catch_up(update, old, new):
        rounds.append(1)
        changed = [c.key for c in store.diff(old, new)]

        def take(tx):
            for key, value in zip(changed, new.get_many(changed), strict=True):
                tx.put(key, value)

        update(take)
        others()

    others()
    assert land_caught_up(tree, branch, base, catch_up, lambda _, __: len(rounds)) < 3 * staging._ROUNDS
    for editor in waiting:
        editor.join(30)
    held = tree.view(0)
    assert held.get(b"ours") == b""
    assert set(notes) == {"there", *(f"{r}-{n}" for r in range(len(rounds) + 1) for n in range(5))}
