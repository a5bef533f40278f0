"""Runs are exact sets of voxels, sorted and maximal: against masks made with numpy."""

import hashlib
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvid_dask.formats import label_blocks as lb
from dvid_dask.formats import rles
from dvid_dask.formats.errors import FormatError

from . import reference as ref

LABELS = [0, 2, 3, 4, 2**63]


@st.composite
def bodies(draw):
    """Some blocks of a volume at a position that may be negative, the volume, and what is foreground."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = draw(st.sampled_from([(8, 8, 8), (8, 16, 24), (16, 8, 8)]))
    grid = [int(n) for n in rng.integers(1, 4, 3)]
    origin = [int(n) for n in rng.integers(-3, 3, 3)]
    volume = ref.blobs(rng, tuple(g * s for g, s in zip(grid, shape, strict=True)), LABELS, int(rng.integers(1, 14)))
    blocks, positions = [], []
    for at, block in zip(np.ndindex(*grid), lb.encode_blocks(volume, shape), strict=True):
        corner = tuple(slice(a * s, (a + 1) * s) for a, s in zip(at, shape, strict=True))
        if rng.random() < 0.2:
            volume[corner] = 10**6  # an absent block
        else:
            blocks.append(block)
            positions.append([a + o for a, o in zip(at, origin, strict=True)])
    start = [o * s for o, s in zip(origin, shape, strict=True)]
    wanted = [int(v) for v in rng.choice(LABELS, int(rng.integers(0, 4)), replace=False)]
    order = rng.permutation(len(blocks))
    return [blocks[i] for i in order], np.array(positions)[order].reshape(-1, 3), shape, start, volume, wanted


@settings(max_examples=60, deadline=None)
@given(bodies(), st.data())
def test_from_blocks(body, data):
    blocks, positions, shape, start, volume, wanted = body
    mask = np.isin(volume, np.array(wanted, np.uint64))
    runs = rles.rles_from_blocks(blocks, positions, wanted)
    assert ref.are_normal(runs)
    np.testing.assert_array_equal(rles.rles_to_mask(runs, start, volume.shape), mask)
    assert rles.voxel_count(runs) == mask.sum()
    np.testing.assert_array_equal(rles.rles_from_mask(mask, start), runs)

    edge = st.one_of(st.none(), st.integers(-60, 60))
    bounds = data.draw(st.tuples(st.tuples(edge, edge, edge), st.tuples(edge, edge, edge)))
    inside = np.zeros_like(mask)
    box = []
    for o, n, a, b in zip(start, volume.shape, *bounds, strict=True):
        box.append(slice(0 if a is None else max(a - o, 0), n if b is None else max(b - o, 0)))
    inside[tuple(box)] = True
    clipped = rles.rles_from_blocks(blocks, positions, wanted, bounds)
    assert ref.are_normal(clipped)
    np.testing.assert_array_equal(rles.rles_to_mask(clipped, start, volume.shape), mask & inside)
    assert rles.voxel_count(clipped) == (mask & inside).sum()

    # blocks that the bounds touch, whole
    touched = np.zeros_like(mask)
    for corner in np.ndindex(*(n // s for n, s in zip(volume.shape, shape, strict=True))):
        block = tuple(slice(a * s, (a + 1) * s) for a, s in zip(corner, shape, strict=True))
        touched[block] = inside[block].any()
    whole = rles.rles_from_blocks(blocks, positions, wanted, bounds, exact=False)
    np.testing.assert_array_equal(rles.rles_to_mask(whole, start, volume.shape), mask & touched)


@settings(max_examples=30, deadline=None)
@given(bodies())
def test_streaming_gives_the_same_runs(body):
    blocks, positions, *_, wanted = body
    order = np.lexsort(positions.T[::-1])
    rows = list(rles.iter_rles(((positions[i], blocks[i]) for i in order), wanted))
    assert all(ref.are_normal(r) and len(r) for r in rows)
    together = np.concatenate([np.empty((0, 4), np.int32), *rows])
    np.testing.assert_array_equal(rles.normalize(together), rles.rles_from_blocks(blocks, positions, wanted))
    assert len(together) == len(rles.normalize(together))


def test_bounds_cut_uniform_subblocks():
    """DVID lets runs pass maxx inside a uniform sub-block of a mixed block (its Q-04)."""
    volume = np.full((16, 16, 16), 5, np.uint64)
    volume[8:] = 6
    runs = rles.rles_from_blocks([lb.encode_block(volume)], [[0, 0, 0]], [5], ((0, 0, 2), (1, 1, 11)))
    assert runs.tolist() == [[2, 0, 0, 9]]


def test_blocks_that_do_not_belong_together():
    a, b = lb.solid_block(1, (8, 8, 8)), lb.solid_block(1, (8, 8, 16))
    with pytest.raises(ValueError, match="others"):
        rles.rles_from_blocks([a, b], [[0, 0, 0], [0, 0, 1]], [1])
    with pytest.raises(ValueError, match="repeat"):
        rles.rles_from_blocks([a, a], [[0, 0, 0], [0, 0, 0]], [1])
    with pytest.raises(ValueError, match="ascend"):
        list(rles.iter_rles([((0, 1, 0), a), ((0, 0, 0), a)], [1]))
    with pytest.raises(ValueError, match="32-bit"):
        rles.rles_from_blocks([a], [[0, 0, 2**28]], [1])
    with pytest.raises(ValueError):
        rles.rles_from_blocks([a], [[0, 0, 0], [0, 0, 1]], [1])
    edge = rles.rles_from_blocks([a], [[-(2**28), 0, 2**28 - 1]], [1])
    assert edge[0].tolist() == [2**31 - 8, 0, -(2**31), 8]


def test_recorded_sparse_volumes():
    blocks = {v["name"]: ref.gz64(v["serialized_gz64"]) for v in ref.vectors("block")}
    for v in ref.vectors("sparse"):
        given = [blocks[b["block"]] for b in v["blocks"]]
        positions = [b["coord"][::-1] for b in v["blocks"]]
        bounds = None
        if "bounded" in v["name"]:
            want = np.frombuffer(ref.gz64(v["rles_normalized_gz64"]), "<i4").reshape(-1, 4)
            # the recorded runs pass the bound in uniform sub-blocks: compare what lies inside of it
            full = rles.rles_from_blocks(given, positions, v["labels"])
            assert ref.voxels_of(want) <= ref.voxels_of(full)
            continue
        runs = rles.rles_from_blocks(given, positions, v["labels"], bounds)
        assert len(runs) == v["rles_count"], v["name"]
        assert hashlib.sha256(rles.encode_srles(runs)).hexdigest() == v["rles_normalized_sha256"], v["name"]


# ------------------------------------------------------------------ operations


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(*[st.integers(-5, 5)] * 3, st.integers(1, 6)), max_size=30))
def test_normalize(runs):
    normal = rles.normalize(runs)
    assert ref.are_normal(normal)
    assert ref.voxels_of(normal) == ref.voxels_of(runs)
    assert rles.voxel_count(normal) == len(ref.voxels_of(runs))


def test_normal_runs_stay_within_int32():
    long = [[-(2**31), 0, 0, 2**31 - 1], [-5, 0, 0, 2**31 - 1]]
    normal = rles.normalize(long)
    assert (normal[:, 3] > 0).all()
    assert rles.voxel_count(normal) == (-5 + 2**31 - 1) - -(2**31)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(*[st.integers(-40, 40)] * 3, st.integers(1, 50)), max_size=20),
    st.sampled_from([(8, 8, 8), (16, 8, 32)]),
)
def test_split_by_block(runs, shape):
    blocks, offsets, pieces = rles.split_by_block(runs, shape)
    assert (
        blocks.tolist() == sorted(set(map(tuple, blocks.tolist())), key=tuple)
        or len(blocks) == 0
        or (blocks.tolist() == sorted(blocks.tolist()))
    )
    assert offsets.tolist()[0] == 0
    assert offsets.tolist()[-1] == len(pieces)
    for block, a, b in zip(blocks.tolist(), offsets[:-1], offsets[1:], strict=True):
        for z, y, x in ref.voxels_of(pieces[a:b]):
            assert [z // shape[0], y // shape[1], x // shape[2]] == block
    assert ref.voxels_of(pieces) == ref.voxels_of(runs)


def test_a_run_across_the_world_is_refused():
    with pytest.raises(FormatError), ref.memory_within(50):
        rles.split_by_block([[-(2**31), 0, 0, 2**31 - 1]], (1, 1, 1))


# ------------------------------------------------------------------ bytes


def test_layout():
    data = bytes.fromhex("00030000 00000000 01000000 0a000000 14000000 1e000000 05000000")
    assert rles.encode_rles([[10, 20, 30, 5]]) == data
    assert rles.decode_rles(data).tolist() == [[10, 20, 30, 5]]
    assert rles.decode_rles(data + b"ignored").tolist() == [[10, 20, 30, 5]]
    assert rles.encode_srles([[10, 20, 30, 5]]) == data[12:]
    assert rles.decode_srles(b"").shape == rles.decode_rles(rles.encode_rles([])).shape == (0, 4)


@pytest.mark.parametrize(
    "data",
    [
        b"\1" + rles.encode_rles([[0, 0, 0, 1]])[1:],
        rles.encode_rles([[0, 0, 0, 1]])[:-1],
        struct.pack("<4B2I", 0, 3, 0, 0, 0, 2**32 - 1),
        rles.encode_rles([[0, 0, 0, 0]]),
        rles.encode_rles([[0, 0, 0, -1]]),
        rles.encode_rles([[2**31 - 1, 0, 0, 2]]),
        b"",
    ],
)
def test_refused(data):
    with pytest.raises(FormatError):
        rles.decode_rles(data)


def test_hostile_bytes():
    rng = np.random.default_rng(0)
    data = rles.encode_rles(rng.integers(0, 50, (20, 4)) + 1)
    assert ref.only_format_errors(rles.decode_rles, ref.mangled(data, rng)) > 10
    assert ref.only_format_errors(rles.decode_srles, ref.mangled(data[12:], rng)) > 10
    blocks = ref.mangled(lb.encode_block(ref.blobs(rng, (16, 16, 16), LABELS, 3)), rng, 60)
    with_runs = lambda b: rles.rles_from_blocks([b], [[0, 0, 0]], [2, 3]) if len(b) < 10**5 else None  # noqa: E731
    ref.only_format_errors(lambda b: None if _large(b) else with_runs(b), blocks)


def _large(block):
    try:
        return np.prod(lb.block_shape(block)) > 1 << 21
    except FormatError:
        return False


def test_what_are_no_runs():
    for bad in ([[1, 2, 3]], [1, 2, 3, 4], [[0.5, 0, 0, 1]]):
        with pytest.raises(ValueError):
            rles.normalize(bad)
