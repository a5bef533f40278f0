"""labelsz against plain recounting: whatever is published, recounted, branched and merged."""

import collections

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dvid_dask
from dvid_dask.datatypes.events import KINDS, FiledPart
from dvid_dask.datatypes.labelsz import INDEX_TYPES, counts, datatype
from dvid_dask.datatypes.labelsz.counts import Tally
from dvid_dask.errors import BadRequest, Conflict, LockedVersion, NotSupported

shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)

TYPES = INDEX_TYPES[:5]
LARGEST = 2**64 - 1


@pytest.fixture
def repo():
    with dvid_dask.create("memory://", compact="never") as datastore:
        yield datastore.new_repo()


@pytest.fixture
def ranks(repo):
    return repo.new_instance("labelsz", "ranks")


def add(ranks, rows):
    """Rows of (label, kind, how many), in one commit."""
    label, kind, n = zip(*rows, strict=True)
    change = counts.tally(np.array(label, np.uint64), np.array(kind, np.uint8), np.array(n))
    ranks.mutate(lambda m, space: counts.add(space, change))


def size(held, index_type, everything=False):
    """The size under an index type of a dict of kind to count."""
    if index_type != "AllSyn":
        return held.get(index_type, 0)
    return sum(n for kind, n in held.items() if everything or kind in ("PostSyn", "PreSyn", "Gap"))


def check(ranks, model, everything=False):
    """`model`: label -> kind name -> count."""
    for name in TYPES:
        rows = [(label, size(held, name, everything)) for label, held in model.items()]
        right = sorted(((label, n) for label, n in rows if n > 0), key=lambda row: (-row[1], row[0]))
        found = ranks.top(1000, name)
        assert list(zip(found.label.tolist(), found.size.tolist(), strict=True)) == right, name
        assert ranks.counts([label for label, _ in rows], name).tolist() == [max(0, n) for _, n in rows]
        for least in (0, 2, 5):
            listed = ranks.threshold(least, name)
            assert listed.label.tolist() == [label for label, n in right if n >= least]
        assert ranks.threshold(1, name, offset=1, n=2).label.tolist() == [label for label, _ in right][1:3]
    assert list(ranks.disagreements()) == []


LABELS = st.sampled_from([1, 2, 3, 255, 256, 2**32, 2**63, LARGEST])
ROWS = st.lists(st.tuples(LABELS, st.integers(0, 4), st.integers(-2, 4)), min_size=1, max_size=12)


@shared
@given(st.lists(ROWS, min_size=1, max_size=6))
def test_additions_are_what_adding_up_gives(repo, commits):
    ranks = repo.new_instance("labelsz", f"ranks{len(repo.instances)}")
    model = collections.defaultdict(lambda: collections.Counter())
    for rows in commits:
        add(ranks, rows)
        for label, kind, n in rows:
            model[label][KINDS[kind]] += n
    shown = {label: {kind: max(0, n) for kind, n in held.items()} for label, held in model.items()}
    check(ranks, shown)
    table = ranks.table()
    assert table.index.tolist() == sorted(label for label in shown if any(size(shown[label], t) for t in TYPES))
    assert all(table.loc[label, t] == size(shown[label], t) for label in table.index for t in TYPES)


def test_label_0_is_nowhere_and_repeated_labels_are_answered_each_time(ranks):
    add(ranks, [(0, 1, 3), (5, 1, 2)])
    assert ranks.counts([0, 5, 5, 9, 0], "PostSyn").tolist() == [0, 2, 2, 0, 0]
    assert ranks.counts([], "PostSyn").tolist() == []
    assert ranks.top(9, "PostSyn").label.tolist() == [5]
    assert ranks.table([9, 5]).PostSyn.tolist() == [0, 2]
    assert ranks.count(5, "Voxels") == 0
    assert not len(ranks.top(4, "Voxels").label)


@pytest.mark.parametrize("name", ["Presyn", "Unknown", "Voxel", "", "AllSyn ", "Pre\0Syn"])
def test_other_index_types_are_refused(ranks, name):
    for ask in (lambda: ranks.count(1, name), lambda: ranks.top(1, name), lambda: ranks.threshold(1, name)):
        with pytest.raises(BadRequest, match="unknown index type"):
            ask()


@pytest.mark.parametrize("labels", [[-1], [2**64], [1.5], ["1"], [None], [[1, 2]], np.array([-1]), np.array([0.5])])
def test_what_is_no_label_is_refused(ranks, labels):
    with pytest.raises(BadRequest):
        ranks.counts(labels, "PreSyn")


def test_negative_numbers_are_refused(ranks):
    for ask in (
        lambda: ranks.top(-1, "Gap"),
        lambda: ranks.threshold(-1, "Gap"),
        lambda: ranks.threshold(1, "Gap", offset=-1),
        lambda: ranks.threshold(1, "Gap", n=-1),
    ):
        with pytest.raises(BadRequest):
            ask()


def test_a_size_beyond_32_bits_is_refused_and_changes_nothing(ranks):
    add(ranks, [(1, 2, 2**31 - 1)])
    before = list(ranks.view(0).scan())
    with pytest.raises(BadRequest):
        add(ranks, [(1, 2, 1)])
    assert list(ranks.view(0).scan()) == before
    assert ranks.top(1, "AllSyn").size.tolist() == [2**31 - 1]


def test_many_labels_come_in_pieces_in_order(ranks):
    label = np.arange(1, 40_001, dtype=np.uint64)
    change = Tally(label, np.zeros((len(label), 5), np.int64))
    change.by_kind[:, 1] = label % 7
    ranks.mutate(lambda m, space: counts.add(space, change))
    found = ranks.threshold(0, "PostSyn", n=10**9)
    order = np.lexsort((label, -(label % 7).astype(np.int64)))
    right = order[(label[order] % 7) > 0]
    assert np.array_equal(found.label, label[right])
    assert np.array_equal(found.size, label[right] % 7)
    assert len(ranks.threshold(0, "PostSyn").label) == 10_000
    assert len(list(ranks.ranked("PostSyn", n=40_000))) > 1


# ------------------------------------------------------------------ versions


def test_edits_of_different_labels_dont_disturb_each_other(ranks):
    tries = []

    def slow(m, space):
        tries.append(m.id)
        counts.add(space, counts.tally(np.array([1], np.uint64), np.array([1], np.uint8)))
        if len(tries) == 1:
            add(ranks, [(2, 1, 1)])

    ranks.mutate(slow)
    assert len(tries) == 1
    check(ranks, {1: {"PostSyn": 1}, 2: {"PostSyn": 1}})


def test_edits_of_one_label_add_up(ranks):
    tries = []

    def slow(m, space):
        tries.append(m.id)
        counts.add(space, counts.tally(np.array([1], np.uint64), np.array([1], np.uint8)))
        if len(tries) == 1:
            add(ranks, [(1, 1, 1)])

    ranks.mutate(slow)
    assert len(tries) == 2
    check(ranks, {1: {"PostSyn": 2}})


def test_committed_versions_keep_their_counts(repo, ranks):
    root = repo["master"]
    add(ranks, [(1, 1, 2)])
    root.commit()
    child = root.newversion()["ranks"]
    add(child, [(1, 1, -1), (2, 4, 1)])
    check(ranks, {1: {"PostSyn": 2}})
    check(child, {1: {"PostSyn": 1}, 2: {"Note": 1}})
    with pytest.raises(LockedVersion):
        add(root["ranks"], [(1, 1, 1)])
    with pytest.raises(LockedVersion):
        root["ranks"].recount()


def test_a_forced_write_reaches_descendants_whole_or_not_at_all(repo, ranks):
    add(ranks, [(1, 1, 2), (2, 1, 1)])
    root = repo["master"]
    root.commit()
    kept, changed = root.new_branch("kept"), root.new_branch("changed")
    add(changed["ranks"], [(2, 1, 5)])
    change = counts.tally(np.array([1], np.uint64), np.array([1], np.uint8))
    root["ranks"].mutate(lambda m, space: counts.add(space, change), force=True)
    check(root["ranks"], {1: {"PostSyn": 3}, 2: {"PostSyn": 1}})
    check(kept["ranks"], {1: {"PostSyn": 3}, 2: {"PostSyn": 1}})
    check(changed["ranks"], {1: {"PostSyn": 3}, 2: {"PostSyn": 6}})


@shared
@given(ROWS, ROWS, ROWS)
def test_changes_of_both_sides_of_a_merge_add_up(at_root, left, right):
    with dvid_dask.create("memory://", compact="never") as datastore:
        repo = datastore.new_repo()
        repo.new_instance("labelsz", "ranks")
        root = repo["master"]
        add(root["ranks"], [(label, kind, abs(n) + 10) for label, kind, n in at_root])
        root.commit()
        sides = [root.new_branch("left"), root.new_branch("right")]
        for side, rows in zip(sides, (left, right), strict=True):
            add(side["ranks"], rows)
            side.commit()
        both = repo.merge(sides)
        model = collections.defaultdict(collections.Counter)
        for label, kind, n in [*((label, kind, abs(n) + 10) for label, kind, n in at_root), *left, *right]:
            model[label][KINDS[kind]] += n
        assert len(both.conflicts) == 0
        check(both["ranks"], {k: {t: max(0, n) for t, n in held.items()} for k, held in model.items()})


# ------------------------------------------------------------------ counting anew


class Elements:
    """An annotation that holds some rows of (label, kind, position z, y, x)."""

    def __init__(self, ranks, rows):
        self.version, self.info, self.rows, self.space_in = ranks.version, ranks.info, rows, ranks.space_in

    def filed_parts(self, space):
        for row in self.rows:
            columns = (np.array([row[0]], np.uint64), np.array([row[1]], np.uint8), np.ones(1, np.int8))
            yield FiledPart(*columns, np.array([row[2]], np.int32))

    def label_counts(self, space):
        return (tuple(counts.tally(part.label, part.kind)) for part in self.filed_parts(space))


@pytest.fixture
def elements(monkeypatch, ranks):
    """The elements that a recount finds; change the list."""
    rows = []
    monkeypatch.setattr(datatype.LabelSize, "_sources", lambda self: [Elements(self, rows)])
    return rows


@shared
@given(ROWS, st.lists(st.tuples(LABELS, st.integers(0, 4)), max_size=12), st.booleans(), st.booleans())
def test_a_recount_puts_right_what_differs(repo, elements, held, right, first, then):
    ranks = repo.new_instance("labelsz", f"ranks{len(repo.instances)}")
    add(ranks, held)
    elements[:] = [(label, kind, (0, 0, 0)) for label, kind in right]
    model = collections.defaultdict(lambda: collections.Counter())
    for label, kind in right:
        model[label][KINDS[kind]] += 1
    ranks.recount(everything=first)
    check(ranks, model, everything=first)
    ranks.recount(everything=then)
    check(ranks, model, everything=then)
    assert ranks.recount() == 0
    add(ranks, [(1, 4, 1)])
    model[1]["Note"] += 1
    elements.append((1, 4, (0, 0, 0)))
    check(ranks, model, everything=then)


def test_edits_beside_a_recount_of_many_commits_are_counted_once(ranks, elements, monkeypatch):
    monkeypatch.setattr(datatype, "_TOGETHER", 2)
    elements[:] = [(label, 1, (0, 0, 0)) for label in range(1, 8) for _ in range(label + 3)]
    put_right, seen = datatype.LabelSize._put_right, []

    def between(self, m, space, **kwargs):
        if kwargs["at"] not in seen:
            seen.append(kwargs["at"])
            elements.extend([(1, 1, (0, 0, 0)), (7, 1, (0, 0, 0))])
            elements.remove((3, 1, (0, 0, 0)))
            elements.append((3, 2, (0, 0, 0)))
            add(ranks, [(1, 1, 1), (7, 1, 1), (3, 1, -1), (3, 2, 1)])
        put_right(self, m, space, **kwargs)

    monkeypatch.setattr(datatype.LabelSize, "_put_right", between)
    assert ranks.recount() == 7
    assert len(seen) == 4
    model = collections.defaultdict(collections.Counter)
    for label, kind, _ in elements:
        model[label][KINDS[kind]] += 1
    check(ranks, model)


def test_of_two_recounts_at_a_time_the_first_gives_way(ranks, elements, monkeypatch):
    elements[:] = [(1, 1, (0, 0, 0))]
    put_right, begun = datatype.LabelSize._put_right, []

    def between(self, m, space, **kwargs):
        if not begun:
            begun.append(1)
            self.recount()
        put_right(self, m, space, **kwargs)

    monkeypatch.setattr(datatype.LabelSize, "_put_right", between)
    with pytest.raises(Conflict, match="another recount"):
        ranks.recount()
    check(ranks, {1: {"PostSyn": 1}})


def test_a_recount_needs_somebody_to_follow(ranks):
    with pytest.raises(NotSupported, match="follows no annotation"):
        ranks.recount()


def test_counts_that_are_wrong_are_told(ranks, elements):
    elements[:] = [(1, 1, (0, 0, 0)), (2, 2, (0, 0, 0))]
    ranks.recount()
    assert list(ranks.disagreements()) == []
    add(ranks, [(1, 1, 2), (2, 2, -1)])
    assert list(ranks.disagreements()) == ["label 1: 2 PostSyn too many", "label 2: 1 PreSyn too few"]
    ranks.recount()
    key = next(ranks.view(0).keys(counts.RANK))
    ranks.mutate(lambda m, space: space.delete(key))
    assert list(ranks.disagreements()) == ["1 labels have PostSyn, 0 are listed rightly"]
    ranks.mutate(lambda m, space: space.put(key, b""))
    (key,) = counts._rank_keys(0, np.array([9], np.uint64), np.array([4]))
    ranks.mutate(lambda m, space: space.put(key, b""))
    assert any("label 9 is listed with 4 PostSyn, it has 0" in text for text in ranks.disagreements())


# ------------------------------------------------------------------ regions


@pytest.fixture
def zoned(repo):
    zone = repo.new_instance("roi", "zone", {"blocksize": "32,32,32"})
    zone.replace([[0, 0, 0, 0], [0, 1, 0, 1]])
    return repo.new_instance("labelsz", "zoned", {"roi": f"zone,{repo.root}"})


def test_only_elements_in_the_region_are_counted(zoned, elements):
    inside, outside = [(31, 0, 31), (0, 63, 63), (0, 40, 0)], [(0, 0, 32), (32, 0, 0), (-1, 0, 0)]
    elements[:] = [(1, 1, at) for at in inside] + [(1, 2, at) for at in outside]
    zoned.recount()
    check(zoned, {1: {"PostSyn": 3}})


def test_without_its_region_nothing_is_counted_and_that_is_told(repo, elements):
    lost = repo.new_instance("labelsz", "lost", {"roi": f"nothing,{repo.root}"})
    elements[:] = [(1, 1, (0, 0, 0))]
    with pytest.raises(KeyError):
        lost.recount()
    lost.mutate(lambda m, space: space.put(b"n", b""))
    assert "its ROI can't be read" in next(lost.disagreements())


@pytest.mark.parametrize("text", ["zone", "a,b,c"])
def test_a_setting_that_names_no_region_is_refused(repo, text):
    with pytest.raises(BadRequest, match="name,uuid"):
        repo.new_instance("labelsz", "x", {"roi": text})
