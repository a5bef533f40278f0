"""Elements as columns, their stored form, paged lists and runs: each room against the plainest way to do it."""

from __future__ import annotations

import contextlib

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvid_dask.datatypes.annotation import Elements, Texts, keys, lists, reload
from dvid_dask.datatypes.annotation.blocks import blocks_around, grouped, new_blocks
from dvid_dask.datatypes.annotation.elements import decode, decode_many, encode, encode_groups, find
from dvid_dask.datatypes.annotation.errors import DamagedListError
from dvid_dask.datatypes.annotation.filing import tag_pairs, under_runs
from dvid_dask.datatypes.annotation.kinds import KINDS, RELATIONS
from dvid_dask.datatypes.annotation.lists import Drop, Lists, PageNumbers, Record
from dvid_dask.datatypes.annotation.merging import merged_elements
from dvid_dask.datatypes.annotation.parsing import parse, to_json
from dvid_dask.datatypes.annotation.verify import verify
from tests.datatypes.labelmap.conftest import DictSpace

INT32 = st.integers(-(2**31), 2**31 - 1)
POINT = st.tuples(INT32, INT32, INT32)
TEXT = st.text(max_size=4)
ELEMENT = st.fixed_dictionaries(
    {"Pos": POINT},
    optional={
        "Kind": st.sampled_from(KINDS),
        "Tags": st.none() | st.lists(st.text(min_size=1, max_size=3), max_size=3),
        "Prop": st.none() | st.dictionaries(TEXT, TEXT, max_size=3),
        "Rels": st.none()
        | st.lists(st.fixed_dictionaries({"Rel": st.sampled_from(RELATIONS), "To": POINT}), max_size=3),
    },
)
ELEMENTS = st.lists(ELEMENT, max_size=8)


def full(e):
    """With what the defaults are."""
    e = {"Kind": "Unknown", "Tags": None, "Prop": None, "Rels": None, **e}
    rels = None if e["Rels"] is None else [{"Rel": r["Rel"], "To": list(r["To"])} for r in e["Rels"]]
    return {**e, "Pos": list(e["Pos"]), "Rels": rels}


def shown(elements):
    return [msgspec.json.decode(text) for text in to_json(elements)]


@settings(deadline=None)
@given(ELEMENTS)
def test_json_comes_back(given_elements):
    held = parse(msgspec.json.encode(given_elements))
    assert shown(held) == [full(e) for e in given_elements]


@settings(deadline=None)
@given(st.lists(ELEMENTS, max_size=4), st.data())
def test_the_stored_form_comes_back(groups, data):
    parts = [parse(msgspec.json.encode(g)) for g in groups]
    borders = np.cumsum([0, *map(len, parts)])
    joined = Elements.join(parts)
    joined = joined.with_key(np.arange(len(joined), dtype=np.uint64) * np.uint64(2**60))
    values = encode_groups(joined, borders)
    held, edges = decode_many(values)
    assert shown(held) == shown(joined) == [full(e) for g in groups for e in g]
    assert (held.key == joined.key).all()
    assert edges.tolist() == borders.tolist()
    for value, part in zip(values, parts, strict=True):
        assert shown(decode(value)) == shown(part)
    if len(joined):
        order = np.array(data.draw(st.lists(st.integers(0, len(joined) - 1), max_size=10)), np.int64)
        assert shown(held[order]) == [shown(joined)[i] for i in order.tolist()]
        mask = np.arange(len(joined)) % 2 == 0
        assert shown(decode(encode(held[mask]))) == shown(joined)[::2]


@settings(deadline=None)
@given(ELEMENTS.filter(bool), st.binary(max_size=20), st.integers(0, 200))
def test_damaged_values_are_told(elements, junk, at):
    value = encode(parse(msgspec.json.encode(elements)))
    for bad in (junk, value[: at % len(value)], value[: at % len(value)] + junk):
        with contextlib.suppress(DamagedListError):
            decode(bad)


def test_other_forms_are_told():
    with pytest.raises(DamagedListError, match="form"):
        decode(msgspec.msgpack.encode((2, b"", b"", b"")))
    with pytest.raises(DamagedListError):
        Record.decode(msgspec.msgpack.encode((2, False, b"", b"")))


SMALL_POINT = st.tuples(*[st.integers(0, 3)] * 3)


@settings(deadline=None)
@given(st.lists(SMALL_POINT, max_size=30, unique=True), st.lists(SMALL_POINT, max_size=30), st.booleans())
def test_find(have, wanted, sorting):
    a, b = (np.array(p, np.int32).reshape(-1, 3) for p in (have, wanted))
    if sorting:  # the way that large ones go
        a, b = np.concatenate([a, a + 100] * 20), np.concatenate([b] * 20)
    expected = [next((i for i, p in enumerate(a.tolist()) if p == q), -1) for q in b.tolist()]
    assert find(a, b).tolist() == expected


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(-3, 3), st.integers(-1, 1), st.integers(-1, 1), st.integers(1, 4)), max_size=8),
    st.lists(st.tuples(*[st.integers(-4, 6)] * 3), max_size=20),
)
def test_under_runs(runs, points):
    voxels = {(z, y, x + i) for x, y, z, n in runs for i in range(n)}
    held = under_runs(np.array(points, np.int32).reshape(-1, 3), np.array(runs, np.int32).reshape(-1, 4))
    assert held.tolist() == [p in voxels for p in points]


def test_under_runs_at_the_edges():
    low, high = -(2**31), 2**31 - 1
    runs = np.array([[low, low, low, 1], [high, high, high, 1]], np.int32)
    points = np.array([[low] * 3, [high] * 3, [low, low, high]], np.int32)
    assert under_runs(points, runs).tolist() == [True, True, False]


@settings(deadline=None)
@given(
    st.lists(st.tuples(*[st.integers(-3, 3)] * 3), max_size=5),
    st.tuples(*[st.integers(1, 5)] * 3),
    st.tuples(*[st.integers(1, 5)] * 3),
)
def test_blocks_around(blocks, theirs, shape):
    expected = set()
    for b in blocks:
        ranges = [range(i * t // s, ((i + 1) * t - 1) // s + 1) for i, t, s in zip(b, theirs, shape, strict=True)]
        expected |= {(z, y, x) for z in ranges[0] for y in ranges[1] for x in ranges[2]}
    assert set(map(tuple, blocks_around(np.array(blocks).reshape(-1, 3), theirs, shape).tolist())) == expected


def test_grouped_by_block():
    held = Elements.of([[17, 0, 0], [0, 0, -1], [16, 0, 0], [3, 3, 3]], [0, 1, 2, 3])
    blocks, ordered, borders = grouped(held, (16, 16, 16))
    assert blocks.tolist() == [[0, 0, -1], [0, 0, 0], [1, 0, 0]]
    assert ordered.kind.tolist() == [1, 3, 0, 2]
    assert borders.tolist() == [0, 1, 2, 4]
    assert keys.blocks_of(keys.blocks(blocks)).tolist() == blocks.tolist()
    assert sorted(keys.blocks(blocks)) == keys.blocks(blocks)


def test_pairs_of_tags():
    known = {"b": 0}
    number, element = tag_pairs(Texts.of([b'["a","b","a"]', b"null", b'["",  "b"]']), known)
    assert known == {"b": 0, "a": 1}
    assert sorted(zip(number.tolist(), element.tolist(), strict=True)) == [(0, 0), (0, 2), (1, 0)]


# ------------------------------------------------------------------ lists


class Play:
    """Lists beside a dictionary of dictionaries."""

    def __init__(self):
        self.space = DictSpace()
        self.lists = Lists(self.space, keys.label, PageNumbers(7))
        self.model = {}

    def check(self):
        stored = {keys.label_of(k) for k in self.space.keys(keys.LABEL)}
        assert stored == {name for name, held in self.model.items() if held}
        pages = set()
        for name, held in self.model.items():
            found = Elements.join(list(self.lists.scan(name)))
            assert {tuple(p): int(k) for p, k in zip(found.zyx.tolist(), found.key, strict=True)} == held
            assert len(found) == len(held)
            record = self.lists.record(name)
            assert record.counts.sum() == len(held)
            assert len(record.inline) <= lists.INLINE
            pages |= set(record.directory.page_keys)
        assert set(self.space.keys(keys.PAGE)) == pages


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(*[st.integers(0, 1000)] * 4), min_size=1, max_size=25))
def test_lists_of_any_history(steps):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lists, "INLINE", 3)
        patch.setattr(lists, "PAGE", 4)
        play = Play()
        for step in steps:
            turn(play, *step)
            play.check()


def turn(play, kind, a, b, seed):
    rng = np.random.default_rng(seed)
    one, other = 1 + a % 4, 1 + b % 4
    mine = play.model.setdefault(one, {})
    if kind % 5 == 0 or not mine:
        zyx = np.unique(rng.integers(0, 40, (1 + seed % 9, 3)), axis=0).astype(np.int32)
        everywhere = {p for held in play.model.values() for p in held}
        zyx = np.array([p for p in zyx.tolist() if tuple(p) not in everywhere], np.int32).reshape(-1, 3)
        key = rng.integers(1, 9, len(zyx)).astype(np.uint64)
        held = Elements.of(zyx, np.ones(len(zyx)), key=key)
        play.lists.exchange([one], [Drop.nothing()], [held])
        mine.update(zip(map(tuple, zyx.tolist()), key.tolist(), strict=True))
    elif kind % 5 == 1:
        gone = [p for p in sorted(mine) if rng.random() < 0.4]
        absent = np.array([[99, 9, 9]], np.int32)
        zyx = np.concatenate([np.array(gone, np.int32).reshape(-1, 3), absent])
        key = np.array([mine[p] for p in gone] + [3], np.uint64)
        (taken,) = play.lists.exchange([one], [Drop(zyx, key)], [Elements.none()])
        assert sorted(map(tuple, taken.zyx.tolist())) == gone
        for p in gone:
            del mine[p]
    elif kind % 5 == 2 and one != other:
        play.lists.join(other, one)
        play.model.setdefault(other, {}).update(mine)
        play.model[one] = {}
    elif kind % 5 == 3 and one != other:
        wanted = np.unique(rng.integers(1, 9, 1 + b % 4)).astype(np.uint64)
        play.lists.give(other, play.lists.take_keys(one, wanted))
        moved = {p: k for p, k in mine.items() if k in wanted}
        play.model.setdefault(other, {}).update(moved)
        play.model[one] = {p: k for p, k in mine.items() if k not in wanted}
    else:
        wanted = np.unique(rng.integers(1, 9, 1 + b % 4)).astype(np.uint64)
        play.lists.rekey(one, wanted, lambda e: e.key + np.uint64(1))
        play.model[one] = {p: k + (k in wanted) for p, k in mine.items()}


def test_lists_made_at_once():
    rng = np.random.default_rng(0)
    zyx = np.unique(rng.integers(0, 500, (5000, 3)), axis=0).astype(np.int32)
    held = Elements.of(zyx, rng.integers(0, 5, len(zyx)), Texts(rng.integers(0, 2, len(zyx)), [b'["a"]', b'["b","a"]']))
    bodies = rng.choice(np.array([0, 1, 2, 3, 2**63], np.uint64), len(zyx), p=[0.1, 0.6, 0.28, 0.01, 0.01])
    svs = rng.integers(1, 100, len(zyx)).astype(np.uint64)
    space = DictSpace()
    space.put_many(reload.new_label_lists(held, bodies, svs, PageNumbers(1)))
    space.put_many(reload.new_tag_lists(held, PageNumbers(1)))
    space.put_many(new_blocks(held, (16, 16, 16)))

    def located(points):
        at = find(held.zyx, points)
        return bodies[at], svs[at]

    def wrong(**changed):
        return [text for _, text in verify(space, (16, 16, 16), changed.get("located", located))]

    assert wrong() == []
    assert not list(space.keys(keys.label(0)))
    good = dict(space.data)
    space.delete(keys.label(3))
    assert wrong() == [f"the list of body 3: there is none, but {(bodies == 3).sum()} elements are expected in it"]
    space.data[keys.label(3)] = space.data[keys.label(7)] = good[keys.label(2**63)]
    assert {text.split(":")[0] for text in wrong()} == {"the list of body 3", "the list of body 7"}
    space.data = dict(good)
    space.data[keys.tag("b")] = space.data[keys.tag("a")]
    assert [text.split(":")[0] for text in wrong()] == ["the list of tag 'b'"]
    space.data = dict(good)
    page = Lists(space, keys.label).record(1).directory.page_keys[0]
    space.data[page] = encode(decode(good[page])[::-1].with_key(decode(good[page]).key))
    assert len(wrong()) == 1
    space.data[page] = encode(Elements.join([decode(good[page])[1:], decode(good[page])[1:2]]))
    assert len(wrong()) == 1
    space.delete(page)
    assert "missing" in wrong()[0]
    space.data = dict(good)
    del space.data[next(iter(space.keys(keys.BLOCK)))]
    assert len(wrong()) > 1


# ------------------------------------------------------------------ merging


def named(d):
    return Elements.of(list(d), list(d.values()))


NAMED = st.dictionaries(st.tuples(*[st.integers(0, 1)] * 3), st.integers(0, 4), max_size=5)


@settings(deadline=None)
@given(NAMED, NAMED, NAMED)
def test_merging_three_ways(base, ours, theirs):
    found, conflicts = merged_elements(named(base), named(ours), named(theirs))
    held = {tuple(p): int(k) for p, k in zip(found.zyx.tolist(), found.kind, strict=True)}
    assert len(held) == len(found)
    expected, contradict = {}, set()
    for p in base.keys() | ours.keys() | theirs.keys():
        old, a, b = (d.get(p) for d in (base, ours, theirs))
        value = b if a == old else a
        if a != b and old not in (a, b):
            contradict.add(p)
            value = b if a is None else a
        if value is not None:
            expected[p] = value
    assert held == expected
    assert {tuple(p) for p in conflicts.tolist()} == contradict
