"""The decoded metadata: what threads make of it at the same time."""

from __future__ import annotations

import msgspec

from dvid_dask.versions.meta import MetaTree


class Racing(MetaTree):
    """Somebody else looks right after one thread has looked at what is known."""

    meanwhile: list[object] = []  # noqa: RUF012 - set by the test

    @property
    def _state(self):
        found = self.__dict__.get("known")
        if self.meanwhile:
            self.meanwhile.pop()()
        return found

    @_state.setter
    def _state(self, state):
        self.__dict__["known"] = state


def test_two_threads_look_after_a_commit(ds, repo):
    """Both find it, also the one that knew the state before and meets the token of the state after."""
    tree = ds.store.tree("meta")
    racing, other = Racing(tree), MetaTree(tree)
    assert racing.state(0).repo(repo.id).record.alias == "fly"

    def change(meta):
        meta.put(msgspec.structs.replace(meta.repo(repo.id), alias="moth"))

    other.update(change)
    racing.meanwhile = [lambda: racing.state(0)]
    assert racing.state(0).repo(repo.id).record.alias == "moth"
