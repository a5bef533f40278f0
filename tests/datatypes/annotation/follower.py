"""A datatype that follows an annotation and adds up what it is told: one class, as any new one would be."""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

import msgspec

from dvid_dask.datatypes import events
from dvid_dask.datatypes.annotation import KINDS
from dvid_dask.datatypes.base import Datatype, register


@register
class Follower(Datatype):
    """Counts elements by body and kind; twice, by sums and by elements, which have to agree."""

    typename: ClassVar[str] = "test-tally"
    typeurl: ClassVar[str] = "test"
    merges_by_meaning: ClassVar[bool] = True
    sync_partners: ClassVar[frozenset[str] | None] = frozenset({"annotation"})

    def merge_versions(self, step):
        """What the annotation merges is told."""

    def on_event(self, m, event):
        space = m.space(self)
        held = Counter(self._read(space))
        if isinstance(event, events.ElementsFiled):
            change = Counter()
            for label, kind, delta in zip(*(c.tolist() for c in (event.label, event.kind, event.delta)), strict=True):
                change[label, KINDS[kind]] += delta
            one_by_one = Counter()
            for part in event.parts():
                assert len(part.position_zyx) == len(part.label)
                for label, kind, sign in zip(*(c.tolist() for c in part[:3]), strict=True):
                    one_by_one[label, KINDS[kind]] += sign
            assert {k: n for k, n in one_by_one.items() if n} == {k: n for k, n in change.items() if n}
            held.update(change)
        elif isinstance(event, events.ListsReplaced):
            held = Counter()
            annotation = m.teller
            for labels, counts in annotation.label_counts(m.space(annotation)):
                for label, row in zip(labels.tolist(), counts.tolist(), strict=True):
                    for kind, n in zip(KINDS, row, strict=True):
                        held[label, kind] += n
            again = Counter()
            for part in annotation.filed_parts(m.space(annotation)):
                assert (part.sign == 1).all()
                for label, kind in zip(part.label.tolist(), part.kind.tolist(), strict=True):
                    again[label, KINDS[kind]] += 1
            assert +held == +again
        assert all(n >= 0 for n in held.values())
        space.put(b"c", msgspec.msgpack.encode([[label, kind, n] for (label, kind), n in held.items() if n]))

    @staticmethod
    def _read(space):
        value = space.get(b"c")
        return {} if value is None else {(label, kind): n for label, kind, n in msgspec.msgpack.decode(value)}

    @property
    def counts(self):
        return self._read(self.view())
