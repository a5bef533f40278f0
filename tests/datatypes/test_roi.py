"""Regions against sets of blocks: spans, points, masks, partitions, versions; refusals leave all as it was."""

import itertools
import pickle
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dvid_dask
from dvid_dask.datatypes.roi import PinnedRoi, datatype, partition
from dvid_dask.datatypes.roi.spans import Lookup, as_spans, disjoint
from dvid_dask.errors import BadRequest, LockedVersion
from dvid_dask.formats.errors import FormatError

LOW, HIGH = -(2**31), 2**31 - 1

shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture
def repo():
    with dvid_dask.create("memory://", compact="never") as datastore:
        yield datastore.new_repo()


@pytest.fixture
def roi(repo):
    return repo.new_instance("roi", "area", {"blocksize": "2,3,4"})


def state(roi):
    """Everything a refused request must leave alone."""
    return list(roi.view(0).scan()), list(roi.mutations())


def blocks_of(spans):
    return {(z, y, x) for z, y, x0, x1 in np.asarray(spans).reshape(-1, 4).tolist() for x in range(x0, x1 + 1)}


# few places, so that spans overlap, touch and repeat; y on both sides of the borders between pages
ZS = st.integers(-3, 3)
YS = st.sampled_from([-257, -256, -2, -1, 0, 1, 2, 254, 255, 256])
XS = st.integers(-6, 6)


@st.composite
def spans_of(draw, y=YS):
    rows = draw(st.lists(st.tuples(ZS, y, XS, st.integers(0, 7)), max_size=25))
    return [[z, y, x, x + n] for z, y, x, n in rows]


NEAR = np.array(
    list(itertools.product(range(-4, 5), [-258, -257, -256, -255, -3, -2, -1, 0, 255, 256, 257], range(-8, 16)))
)


# ------------------------------------------------------------------ spans and blocks


@shared
@given(spans_of())
def test_spans_come_back_sorted_and_once(roi, spans):
    roi.replace(spans)
    assert roi.spans.dtype == np.int32
    assert roi.spans.tolist() == sorted(map(list, set(map(tuple, spans))))
    zs = [span[0] for span in spans]
    assert roi.z_bounds == ((min(zs), max(zs)) if zs else None)


@shared
@given(spans_of())
def test_disjoint_spans_are_the_same_blocks_and_never_touch(roi, spans):
    out = disjoint(as_spans(spans))
    assert blocks_of(out) == blocks_of(spans)
    for (z, y, _, end), (r, q, begin, _) in itertools.pairwise(out.tolist()):
        assert (z, y) < (r, q) or ((z, y) == (r, q) and begin > end + 1)


@shared
@given(spans_of(), st.integers(0, 10))
def test_blocks_are_found(roi, spans, together):
    roi.replace(spans)
    model = blocks_of(spans)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datatype, "_TOGETHER", together + 1)
        found = roi.contains_blocks(NEAR)
    assert set(map(tuple, NEAR[found].tolist())) == model & set(map(tuple, NEAR.tolist()))


@shared
@given(spans_of(), st.randoms(use_true_random=False))
def test_points_are_found_in_any_order_and_number(roi, spans, random):
    roi.replace(spans)
    model = blocks_of(spans)
    points = [
        (random.randint(-20, 20), random.choice([-770, -768, -1, 0, 2, 767, 768]), random.randint(-20, 40))
        for _ in range(60)
    ]
    expected = [(z // 4, y // 3, x // 2) in model for z, y, x in points]
    assert roi.contains(points).tolist() == expected


@shared
@given(
    spans_of(),
    st.tuples(st.integers(-20, 20), st.sampled_from([-775, -9, -1, 0, 760]), st.integers(-20, 20)),
    st.tuples(st.integers(1, 9), st.integers(1, 12), st.integers(1, 30)),
    st.integers(1, 400),
)
def test_a_mask_is_what_its_points_say(roi, spans, offset, shape, piece):
    roi.replace(spans)
    mask = roi.mask(offset, shape)
    assert mask.shape == shape
    points = np.indices(shape).reshape(3, -1).T + np.array(offset)
    assert (mask.reshape(-1) == roi.contains(points)).all()
    model = blocks_of(spans)
    for point, inside in zip(
        points[:: max(1, len(points) // 50)].tolist(), mask.reshape(-1)[:: max(1, len(points) // 50)], strict=True
    ):
        assert inside == (tuple(c // n for c, n in zip(point, (4, 3, 2), strict=True)) in model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datatype, "PIECE", piece)
        parts = list(roi.pin().mask_parts(offset, shape))
    assert all(part.size <= piece for part in parts)
    assert (np.concatenate([part.reshape(-1) for part in parts]) == mask.reshape(-1)).all()


def test_the_corners_of_the_coordinates(roi):
    corners = [[z, y, *x] for z in (LOW, HIGH) for y in (LOW, HIGH) for x in ((LOW, LOW), (HIGH, HIGH))]
    whole = [0, 0, LOW, HIGH]
    roi.replace([*corners, whole])
    assert roi.spans.tolist() == sorted([*corners, whole])
    assert roi.z_bounds == (LOW, HIGH)
    inside = [[z, y, x] for z in (LOW, HIGH) for y in (LOW, HIGH) for x in (LOW, HIGH)]
    assert roi.contains_blocks([*inside, [0, 0, 5]]).all()
    outside = [[LOW, LOW, LOW + 1], [LOW, HIGH, HIGH - 1], [0, 1, 0], [HIGH + 1, LOW, LOW], [LOW - 1, HIGH, HIGH]]
    assert not roi.contains_blocks(outside).any()
    assert roi.mask((0, 0, HIGH - 3), (1, 1, 4)).all()
    assert not roi.mask((LOW, LOW, LOW), (2, 2, 2)).any()  # those are blocks far from the corner


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_blocks_of_another_size_count_by_their_middle_voxel(roi, n):
    roi.replace([[0, 0, 0, 3], [1, 1, -2, 1]])
    shape = (4 * n, 3 * n, 2 * n)
    blocks = np.array(list(itertools.product(range(-2, 3), repeat=3)))
    middle = blocks * shape + np.array(shape) // 2
    assert (roi.contains_blocks(blocks, shape) == roi.contains(middle)).all()
    assert (roi.contains_blocks(blocks, roi.block_shape) == roi.contains_blocks(blocks)).all()


def test_an_empty_lookup_finds_nothing():
    assert Lookup(disjoint(as_spans([]))).contains(np.zeros((2, 3), np.int64)).tolist() == [False, False]


# ------------------------------------------------------------------ partitions


def plain_simple(blocks, b):
    """The recipe, block by block."""
    out = []
    if not blocks:
        return out
    zs = [z for z, _, _ in blocks]
    z = min(zs) - (max(zs) - min(zs) + 1) % b // 2
    while z <= max(zs):
        layer = {p for p in blocks if z <= p[0] < z + b}
        if layer:
            ys = [p[1] for p in layer]
            y = min(ys) - (max(ys) - min(ys) + 1) % b // 2
            while y <= max(ys):
                row = {p for p in layer if y <= p[1] < y + b}
                if row:
                    xs = [p[2] for p in row]
                    x = min(xs) - (max(xs) - min(xs) + 1) % b // 2
                    while x <= max(xs):
                        count = sum(x <= p[2] < x + b for p in row)
                        if count:
                            out.append(([z, y, x], [z + b, y + b, x + b], count))
                        x += b
                y += b
        z += b
    return out


def plain_optimized(blocks, b):
    """The recipe, column by column."""
    out = []
    if not blocks:
        return out
    zs = [z for z, _, _ in blocks]
    z, z_over, depth = min(zs), (max(zs) - min(zs) + 1) % b, b
    while z <= max(zs):
        layer = {p for p in blocks if z <= p[0] < z + depth}
        if layer:
            ys = [p[1] for p in layer]
            y, y_over = min(ys), (max(ys) - min(ys) + 1) % b
            while y <= max(ys):
                height = b + (y_over > 0)
                y_over -= y_over > 0
                row = {p for p in layer if y <= p[1] < y + height}
                if row:
                    windows = plain_windows([p[2] for p in row], b)
                    for x0, x1 in windows:
                        held = sum(x0 <= p[2] < x1 for p in row)
                        out.append(([z, y, x0], [z + depth, y + height, x1], held))
                y += height
        z += depth
        depth = b + (z_over > 0)
        z_over -= z_over > 0
    return out


def plain_windows(xs, b):
    used, windows = set(xs), []
    x, over = min(xs), (max(xs) - min(xs) + 1) % b
    while x <= max(xs):
        stop = x + b + (over > 0)
        over -= over > 0
        holes = [list(group) for free, group in itertools.groupby(range(x, stop), lambda v: v not in used) if free]
        hole = max(holes, key=len, default=[])
        if not hole:
            windows.append((x, stop))
            x = stop
            continue
        if hole[0] > x:
            if windows and windows[-1][1] == x:
                windows[-1] = windows[-1][0], hole[0]
            else:
                windows.append((x, hole[0]))
        x = hole[-1] + 1
    return windows


@shared
@given(spans_of(st.integers(-4, 6)), st.integers(1, 9), st.booleans())
def test_partitions_are_as_the_recipe_says(roi, spans, batch, optimized):
    roi.replace(spans)
    blocks = blocks_of(spans)
    cut = roi.partition(batch, optimized=optimized)
    plain = (plain_optimized if optimized else plain_simple)(blocks, batch)
    assert [list(row) for row in zip(cut.start.tolist(), cut.stop.tolist(), cut.active.tolist(), strict=True)] == [
        list(row) for row in plain
    ]


@shared
@given(spans_of(), st.integers(1, 300), st.booleans())
def test_every_block_lies_in_exactly_one_subvolume(roi, spans, batch, optimized):
    roi.replace(spans)
    blocks = np.array(sorted(blocks_of(spans)), np.int64).reshape(-1, 3)
    cut = roi.partition(batch, optimized=optimized)
    inside = (blocks[None] >= cut.start[:, None]) & (blocks[None] < cut.stop[:, None])
    held = inside.all(axis=2)
    assert (held.sum(axis=0) == 1).all()
    assert held.sum(axis=1).tolist() == cut.active.tolist()
    assert (cut.active > 0).all()
    assert (cut.active <= cut.total).all()
    first, stop = cut.voxels()
    assert (first == cut.start * (4, 3, 2)).all()
    assert (stop == cut.stop * (4, 3, 2)).all()
    if len(blocks):
        assert cut.bounds == (tuple(blocks.min(axis=0).tolist()), tuple((blocks.max(axis=0) + 1).tolist()))
    else:
        assert (cut.bounds, len(cut)) == (None, 0)


@pytest.mark.parametrize("optimized", [False, True])
def test_far_apart_and_huge_costs_no_more_than_what_there_is(roi, optimized):
    far = [[z, y, x, x + 2] for z in (LOW, 0, HIGH) for y in (LOW, HIGH) for x in (LOW, 0, HIGH - 2)]
    roi.replace(far)
    cut = roi.partition(1, optimized=optimized)
    assert len(cut) == 3 * len(far)
    assert sum(cut.active.tolist()) == 3 * len(far)
    roi.replace([[5, 5, LOW, HIGH]])
    cut = roi.partition(1 << 13, optimized=optimized)
    assert len(cut) == 1 << 19
    assert (cut.active == 1 << 13).all()
    with pytest.raises(BadRequest, match="larger batch"):
        roi.partition(1, optimized=optimized)


@pytest.mark.parametrize("optimized", [False, True])
def test_a_partition_has_a_limit(roi, optimized, monkeypatch):
    monkeypatch.setattr(partition, "MAX_SUBVOLUMES", 10)
    roi.replace([[z, 0, x, x] for z in range(3) for x in range(0, 6, 2)])
    assert len(roi.partition(1, optimized=optimized)) == 9
    roi.replace([[z, 0, x, x] for z in range(4) for x in range(0, 6, 2)])
    with pytest.raises(BadRequest, match="more than 10 subvolumes"):
        roi.partition(1, optimized=optimized)


@pytest.mark.parametrize("batch", [0, -1, (1 << 20) + 1])
def test_impossible_batch_sizes(roi, batch):
    with pytest.raises(BadRequest, match="batch size"):
        roi.partition(batch)


# ------------------------------------------------------------------ writing


BAD = [
    [[0, 0, 2, 1]],
    [[0, 0, 0, 0], [0, 0, 5, 4]],
    [[0, 0, 0]],
    [[0, 0, 0, 0, 0]],
    [[0, 0, 0, 0], [0, 0]],
    [0, 0, 0, 0],
    [[0, 0, 0, 1.5]],
    [[0, 0, 0, HIGH + 1]],
    [[LOW - 1, 0, 0, 0]],
    [["0", "0", "0", "0"]],
    [[True, True, True, True]],
    [[0, 0, 0, 2**63]],
    [[0, 0, 0, 2**64]],
    [[[0, 0, 0, 0]]],
    "spans",
]


@pytest.mark.parametrize("spans", BAD, ids=str)
def test_bad_spans_change_nothing(roi, spans):
    roi.replace([[1, 2, 3, 4]])
    before = state(roi)
    with pytest.raises(BadRequest):
        roi.replace(spans)
    assert state(roi) == before


@pytest.mark.parametrize(
    "read",
    [
        lambda roi: roi.contains([[0, 0]]),
        lambda roi: roi.contains([[0.5, 0, 0]]),
        lambda roi: roi.contains_blocks([0, 0, 0]),
        lambda roi: roi.mask((0, 0), (1, 1)),
        lambda roi: roi.mask((0, 0, 0), (1, 0, 1)),
        lambda roi: roi.mask((0, 0, HIGH), (1, 1, 2)),
        lambda roi: roi.mask((LOW - 1, 0, 0), (1, 1, 1)),
        lambda roi: roi.mask((0, 0, 0), (2**11, 2**11, 2**11)),
        lambda roi: roi.pin().mask_parts((0, 0, 0), (2**31, 2**31, 2**31)),
    ],
)
def test_bad_reads(roi, read):
    with pytest.raises(BadRequest):
        read(roi)


def test_an_edit_writes_the_pages_it_changes(repo, roi):
    spans = [[z, y, 0, 5] for z in range(40) for y in range(0, 1024, 8)]
    roi.replace(spans)
    root = roi.version
    root.commit()
    child = root.newversion()
    same = child["area"]
    same.replace(spans[::-1])
    assert "area" not in root.diff(child)
    edited = [span for span in spans if span != [7, 512, 0, 5]]
    same.replace(edited)
    assert [(change.kind, change.what) for change in root.diff(child)["area"]] == [("changed", ((7, 512), (8, 768)))]
    same.replace([*edited, [50, -1, 0, 0]])
    changes = [(change.kind, change.what) for change in root.diff(child)["area"]]
    assert changes[1:] == [("added", ((50, -256), (51, 0)))]
    same.clear()
    assert root.diff(child)["area"].counts() == {"added": 0, "removed": 160, "changed": 0}
    assert len(roi.spans) == len(spans)


def test_versions_have_regions_of_their_own(repo, roi):
    roi.replace([[0, 0, 0, 3], [1, 0, 2, 2]])
    root = roi.version
    root.commit()
    for write in (lambda: roi.replace([]), roi.clear):
        with pytest.raises(LockedVersion):
            write()
    left, right = root.new_branch("left")["area"], root.new_branch("right")["area"]
    left.replace([[4, 4, 4, 4]])
    right.clear()
    assert (roi.z_bounds, left.z_bounds, right.z_bounds) == ((0, 1), (4, 4), None)
    assert roi.spans.tolist() == [[0, 0, 0, 3], [1, 0, 2, 2]]
    assert left.extended() == {"BlockSize": [2, 3, 4], "MinZ": 4, "MaxZ": 4}
    assert right.extended() == {"BlockSize": [2, 3, 4], "MinZ": HIGH, "MaxZ": LOW}
    assert [record["Action"] for record in right.mutations()] == ["delete-roi"]


def test_a_forced_write_reaches_descendants_that_had_no_say(roi):
    roi.replace([[0, 0, 0, 3], [1, 0, 0, 3]])
    root = roi.version
    root.commit()
    child = root.newversion()["area"]
    child.replace([[0, 0, 0, 3], [1, 0, 1, 1]])
    roi.replace([[0, 0, 2, 2], [2, 0, 0, 0]], force=True)
    assert roi.spans.tolist() == [[0, 0, 2, 2], [2, 0, 0, 0]]
    assert child.spans.tolist() == [[0, 0, 2, 2], [1, 0, 1, 1], [2, 0, 0, 0]]
    assert child.z_bounds == (0, 2)


@settings(deadline=None, max_examples=40)
@given(spans_of(), st.lists(spans_of(), min_size=2, max_size=3))
def test_a_merge_takes_the_blocks_that_either_side_added_and_removed(base, others):
    repo = dvid_dask.create("memory://", compact="never").new_repo()
    roi = repo.new_instance("roi", "area")
    roi.replace(base)
    roi.version.commit()
    sides = [roi.version.new_branch(f"side {n}") for n in range(len(others))]
    for side, spans in zip(sides, others, strict=True):
        side["area"].replace(spans)
        side.commit()
    merged = repo.merge(sides)
    old, *new = map(blocks_of, (base, *others))
    expected = old.intersection(*new).union(*(blocks - old for blocks in new))
    assert blocks_of(merged[roi.name].spans) == expected
    zs = [z for z, _, _ in expected]
    assert merged[roi.name].z_bounds == ((min(zs), max(zs)) if zs else None)
    assert len(merged.conflicts) == 0


def test_a_merge_keeps_spans_where_one_side_changed_nothing(repo, roi):
    spans = [[0, 0, 0, 3], [0, 0, 2, 9], [0, 1, 0, 1]]
    roi.replace(spans)
    roi.version.commit()
    left, right = (roi.version.new_branch(name) for name in "ab")
    left["area"].replace([*spans, [0, 0, 11, 12]])
    right["area"].replace([*spans, [4, 0, 11, 12]])
    for side in (left, right):
        side.commit()
    assert repo.merge([left, right])["area"].spans.tolist() == sorted([*spans, [0, 0, 11, 12], [4, 0, 11, 12]])


def test_two_writers_leave_the_region_of_one(roi):
    wanted = [[[z, 300 * n, 0, n] for z in range(n, 12, 2)] for n in range(4)]
    barrier = threading.Barrier(4)

    def write(spans):
        barrier.wait()
        for _ in range(5):
            roi.replace(spans)

    threads = [threading.Thread(target=write, args=(spans,)) for spans in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert roi.spans.tolist() in wanted
    assert len(list(roi.mutations())) == 20


def test_a_pinned_region_stays_and_pickles(tmp_path):
    with dvid_dask.create(str(tmp_path / "store"), compact="never") as datastore:
        roi = datastore.new_repo().new_instance("roi", "area")
        roi.replace([[0, 0, 0, 0]])
        pinned = roi.pin()
        roi.clear()
        assert pinned.spans.tolist() == [[0, 0, 0, 0]]
        again = pickle.loads(pickle.dumps(pinned))
        assert isinstance(again, PinnedRoi)
        assert again.mask((0, 0, 30), (1, 1, 4)).tolist() == [[[True, True, False, False]]]
        assert roi.spans.tolist() == []


def test_an_unversioned_region_is_one_for_all_versions(repo):
    roi = repo.new_instance("roi", "area", {"versioned": "false"})
    roi.replace([[0, 0, 0, 0]])
    roi.version.commit()
    child = repo[repo.root].newversion()["area"]
    child.replace([[5, 5, 5, 6]])
    assert repo[repo.root]["area"].spans.tolist() == [[5, 5, 5, 6]]


def test_a_damaged_page_is_named(roi):
    roi.replace([[3, 0, 0, 9]])
    (key,) = roi.view().keys(b"r")
    for value, why in ((b"\x02", "form"), (b"", "form"), (b"\x01rubbish", "zstd")):
        roi.mutate(lambda m, space, value=value: space.put(key, value))
        with pytest.raises(FormatError, match=why):
            roi.spans  # noqa: B018


@pytest.mark.parametrize(
    ("given", "size"), [(None, [32, 32, 32]), (" 64 ,64,4", [64, 64, 4]), (f"1,1,{HIGH}", [1, 1, HIGH])]
)
def test_block_sizes(repo, given, size):
    roi = repo.new_instance("roi", "x", {} if given is None else {"blocksize": given})
    assert roi.extended()["BlockSize"] == size
    assert roi.block_shape == tuple(size[::-1])


@pytest.mark.parametrize(
    "text", ["", "8", "8,8", "8,8,8,8", "8,8,x", "8,8,", "0,8,8", "-8,8,8", "8,8,8.0", f"8,8,{HIGH + 1}"]
)
def test_bad_block_sizes(repo, text):
    with pytest.raises(BadRequest, match="BlockSize"):
        repo.new_instance("roi", "x", {"blocksize": text})
    assert "x" not in repo.instances
