"""What an annotation means, in the plainest words: a dictionary from position to element, and bodies looked up anew."""

from __future__ import annotations

import copy
import json
from collections import Counter, defaultdict

import numpy as np

from dvid_dask.datatypes.annotation import KINDS
from dvid_dask.datatypes.annotation.parsing import listed_json, to_json


def element(pos, kind="Note", tags=(), prop=None, rels=()):
    """DVID's JSON; `pos` is x, y, z, `rels` pairs (kind, position)."""
    return {
        "Pos": list(pos),
        "Kind": kind,
        "Tags": list(tags),
        "Prop": dict(prop or {}),
        "Rels": [{"Rel": r, "To": list(to)} for r, to in rels],
    }


def plain(text):
    """An element of JSON without the difference between null and empty; order of properties doesn't count."""
    e = json.loads(text)
    return freeze(e)


def freeze(e):
    rels = tuple((r["Rel"], tuple(r["To"])) for r in e.get("Rels") or ())
    return (
        tuple(e["Pos"]), e["Kind"], tuple(e["Tags"] or ()), tuple(sorted((e["Prop"] or {}).items())), rels,
    )  # fmt: skip


def listed(e):
    """The form of lists."""
    return freeze({**e, "Rels": []})


class Model:
    """Elements by position x, y, z; `shape` is that of a block, z, y, x."""

    def __init__(self, shape):
        self.shape = shape
        self.elements = {}

    def child(self):
        return copy.deepcopy(self)

    def block(self, pos):
        return tuple(p // s for p, s in zip(pos[::-1], self.shape, strict=True))

    def post(self, elements):
        for e in elements:
            self.elements[tuple(e["Pos"])] = copy.deepcopy(e)

    def put_block(self, block, elements):
        for pos in [p for p in self.elements if self.block(p) == block]:
            del self.elements[pos]
        self.post(elements)

    def around(self, *positions):
        """Elements in the blocks of positions."""
        blocks = {self.block(p) for p in positions}
        return [e for p, e in self.elements.items() if self.block(p) in blocks]

    def delete(self, *positions):
        partners = [tuple(r["To"]) for p in positions for r in self.elements[p]["Rels"]]
        for pos in positions:
            del self.elements[pos]
        for e in self.around(*positions, *partners):
            e["Rels"] = [r for r in e["Rels"] if tuple(r["To"]) not in positions]

    def move(self, start, end):
        if start == end:
            return
        partners = [tuple(r["To"]) for r in self.elements[start]["Rels"]]
        moved = self.elements.pop(start)
        moved["Pos"] = list(end)
        self.elements[end] = moved
        for e in [*self.around(start, end, *partners), moved]:
            for r in e["Rels"]:
                if tuple(r["To"]) == start:
                    r["To"] = list(end)

    # ------------------------------------------------------------------ what queries answer

    def by_body(self, seg):
        points = np.array([p[::-1] for p in self.elements], np.int64).reshape(-1, 3)
        found = defaultdict(set)
        for body, e in zip(seg.labels_at(points).tolist(), self.elements.values(), strict=True):
            if body:
                found[body].add(listed(e))
        return dict(found)

    def by_tag(self):
        found = defaultdict(set)
        for e in self.elements.values():
            for tag in e["Tags"]:
                found[tag].add(listed(e))
        return dict(found)


def rows(parts, form=listed_json):
    """Elements as frozen ones, a list."""
    return [plain(text) for part in parts for text in form(part)]


def check(annotation, model, seg, bodies=()):
    """Every query of an annotation says what the model says."""
    expected = model.by_body(seg) if seg is not None else {}
    for body in {*expected, *bodies} - {0}:
        held = rows(annotation.listed(body))
        assert len(held) == len(set(held)), body
        assert set(held) == expected.get(body, set()), body
        kinds = Counter(e[1] for e in held)
        assert annotation.count(body) == {kind: kinds.get(kind, 0) for kind in KINDS}
    counted = {}
    for labels, counts in annotation.label_counts():
        counted.update(zip(labels.tolist(), counts.sum(axis=1).tolist(), strict=True))
    assert counted == {body: len(held) for body, held in expected.items()}
    tags = model.by_tag()
    assert set(annotation.tag_names()) == set(tags)
    for tag, wanted in tags.items():
        held = rows(annotation.tagged(tag))
        assert len(held) == len(set(held))
        assert set(held) == wanted, tag
    everything = rows((held for _, held, _ in annotation.scan()), to_json)
    assert sorted(everything) == sorted(freeze(e) for e in model.elements.values())
    for blocks, held, borders in annotation.scan():
        for block, a, b in zip(blocks.tolist(), borders.tolist(), borders.tolist()[1:], strict=False):
            assert all(model.block(tuple(p[::-1])) == tuple(block) for p in held.zyx[a:b].tolist())
    if model.elements:
        points = np.array(list(model.elements))[:, ::-1]
        low = points.min(axis=0) + 5
        high = points.max(axis=0) - 5
        inside = rows(annotation.in_box(low, high - low), to_json)
        wanted = [freeze(e) for p, e in model.elements.items() if all(low <= p[::-1]) and all(p[::-1] < high)]
        assert sorted(inside) == sorted(wanted)
    assert list(annotation.disagreements()) == []


def tallied(annotation, model, seg):
    """Elements by (body, kind)."""
    return Counter((body, e[1]) for body, held in model.by_body(seg).items() for e in held)
