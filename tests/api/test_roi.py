"""roi over HTTP: forms of bodies, statuses, JSON as DVID's; what it says agrees with the region itself."""

import json

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dvid_dask.api import roi as face

from .conftest import ADMIN

LOW, HIGH = -(2**31), 2**31 - 1

SPANS = [[-1, 300, -4, 2], [0, 0, 0, 0], [0, 0, 2, 5], [0, 0, 4, 9], [2, 1, 7, 7]]


@pytest.fixture
def area(client, repo):
    """A region in blocks of 8 x 4 x 2 voxels, and its URL."""
    url = client.instance(repo, "roi", "area", BlockSize="8,4,2")
    assert client.post(f"{url}/roi", json=SPANS[::-1]).status_code == 200
    return url


def spans(client, url):
    answer = client.get(f"{url}/roi")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    return answer.json()


# ------------------------------------------------------------------ spans


def test_spans_come_back_in_order_and_are_replaced(client, area):
    assert spans(client, area) == SPANS
    answer = client.post(f"{area}/roi", json=[[9, 9, 9, 9], [9, 9, 9, 9]])
    assert (answer.status_code, answer.content) == (200, b"")
    assert spans(client, area) == [[9, 9, 9, 9]]
    answer = client.delete(f"{area}/roi")
    assert (answer.status_code, answer.content) == (200, b"")
    assert client.get(f"{area}/roi").content == b"[]"
    assert client.delete(f"{area}/roi").status_code == 200


def test_many_spans_pass_in_pieces(client, area):
    many = [[z, 300 * y, x, x + 1] for z in range(30) for y in range(20) for x in range(0, 300, 3)]
    assert client.post(f"{area}/roi", json=many[::-1]).status_code == 200
    answer = client.get(f"{area}/roi")
    assert answer.json() == many
    assert b" " not in answer.content
    assert client.head(f"{area}/roi").status_code == 200


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("null", []),
        ("[]", []),
        ("[null]", [[0, 0, 0, 0]]),
        ("[[]]", [[0, 0, 0, 0]]),
        ("[[3]]", [[3, 0, 0, 0]]),
        ("[[3, 4, null, 6, 7]]", [[3, 4, 0, 6]]),
        ("[[1, 2, 3, 4], [1, 2, 3, 4, 5]]", [[1, 2, 3, 4]]),
        (f" [[{LOW},{HIGH},{LOW},{HIGH}]]\n", [[LOW, HIGH, LOW, HIGH]]),
    ],
)
def test_short_rows_are_filled_and_long_ones_cut(client, area, body, expected):
    assert client.post(f"{area}/roi", content=body).status_code == 200
    assert spans(client, area) == expected


BAD_BODIES = [
    "",
    "spans",
    "{}",
    '{"spans": []}',
    "[1, 2, 3, 4]",
    '[[1, 2, "a", 4]]',
    "[[1, 2, 3, 4.5]]",
    "[[1, 2, 3, 4.0]]",
    "[[1, 2, 3, 1e2]]",
    "[[1, 2, 3, NaN]]",
    "[[1, 2, Infinity, 4]]",
    "[[1, 2, 3, 1e400]]",
    "[[1, 2, 3, -1e999]]",
    "[[1, 2, 3, true]]",
    "[[1, 2, 3, [4]]]",
    f"[[1, 2, 3, {HIGH + 1}]]",
    f"[[{LOW - 1}, 2, 3, 4]]",
    "[[1, 2, 3, 4]",
    "[[1, 2, 3, 4]] x",
    "[[1, 2, 3, 4], [1, 2, 4, 3]]",
    "[[1, 2, 1]]",  # filled up it ends before it begins
    "[" * 100_000,
    b"\xff\xfe",
    b'["\xff"]',
]


@pytest.mark.parametrize("body", BAD_BODIES, ids=lambda b: repr(b[:30]))
def test_bad_spans_change_nothing(client, area, body):
    answer = client.post(f"{area}/roi", content=body)
    assert answer.status_code == 400
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.text.endswith(f"({area}/roi).\n")
    assert spans(client, area) == SPANS


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "roi"),
        ("PATCH", "roi"),
        ("GET", "ptquery"),
        ("PUT", "ptquery"),
        ("DELETE", "mask/0_1_2/1_1_1/0_0_0"),
        ("POST", "mask/0_1_2/1_1_1/0_0_0"),
        ("POST", "partition?batchsize=4"),
        ("GET", "tags"),
        ("POST", "tags"),
        ("GET", "mutations"),
        ("GET", "nothing"),
    ],
)
def test_what_is_not_offered_is_refused_and_changes_nothing(client, area, method, path):
    assert client.request(method, f"{area}/{path}", content=b"[]").status_code == 400
    assert spans(client, area) == SPANS


@pytest.mark.parametrize("path", ["roi", "ptquery"])
def test_a_body_that_is_too_long_is_refused_before_it_is_read(client, area, path):
    before = spans(client, area)
    for body in (b"[" + b"[0,0,0,0]," * 7_000_000 + b"[0,0,0,0]]", (b" " * 10_000_000 for _ in range(7))):
        answer = client.post(f"{area}/{path}", content=body)
        assert (answer.status_code, "longer than the 67108864" in answer.text) == (400, True)
    assert spans(client, area) == before


def test_info_tells_the_z_range_of_the_version_asked_for(client, repo, area):
    client.commit(repo)
    child = client.child(repo)
    below = area.replace(repo, child)
    assert client.delete(f"{below}/roi").status_code == 200
    assert client.get(f"{area}/info").json()["Extended"] == {"BlockSize": [8, 4, 2], "MinZ": -1, "MaxZ": 2}
    for method in ("GET", "POST"):
        held = client.request(method, f"{below}/info").json()["Extended"]
        assert held == {"BlockSize": [8, 4, 2], "MinZ": HIGH, "MaxZ": LOW}
    # as DVID: a POST, whatever it would do
    assert client.post(f"{area}/info").status_code == 400


def test_committed_versions_answer_points_and_refuse_changes(client, repo, area):
    client.commit(repo)
    for refused in (client.post(f"{area}/roi", json=[]), client.delete(f"{area}/roi")):
        assert refused.status_code == 400
    assert client.post(f"{area}/ptquery", json=[[0, 0, 0]]).json() == [True]
    assert client.post(f"{area}/roi", params=ADMIN, json=[[1, 1, 1, 1]]).status_code == 200
    assert spans(client, area) == [[1, 1, 1, 1]]


# ------------------------------------------------------------------ voxels


def inside(x, y, z):
    return any(z // 2 == s[0] and y // 4 == s[1] and s[2] <= x // 8 <= s[3] for s in SPANS)


def test_points_are_x_y_z_and_keep_their_order(client, area):
    points = [[0, 0, 0], [8, 0, 0], [16, 3, 1], [16, 4, 1], [-32, 1200, -2], [-33, 1200, -2], [-1, 1203, -1], [0, 0, 0]]
    answer = client.post(f"{area}/ptquery", json=points)
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == [inside(*p) for p in points] == [True, False, True, False, True, False, True, True]
    for nothing in ("[]", "null"):
        assert client.post(f"{area}/ptquery", content=nothing).content == b"[]"
    assert client.post(f"{area}/ptquery", content="[[], [8], null]").json() == [True, False, True]


@pytest.mark.parametrize(
    "body", ["", "x", '{"points": []}', '[["a", 1, 2]]', "[[1.0, 2, 3]]", f"[[{HIGH + 1}, 0, 0]]", "[1, 2, 3]"]
)
def test_bad_points(client, area, body):
    assert client.post(f"{area}/ptquery", content=body).status_code == 400


@pytest.mark.parametrize("dims", ["0_1_2", "vol", "VOL", "0,1,2"])
@pytest.mark.parametrize("offset", [(0, 0, 0), (-35, 1195, -3), (13, -2, -1), (LOW, LOW, LOW)])
def test_a_mask_is_zero_and_one_x_fastest(client, area, dims, offset):
    size = (50, 11, 7)
    path = f"{area}/mask/{dims}/{'_'.join(map(str, size))}/{'_'.join(map(str, offset))}"
    answer = client.get(path)
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-length"] == str(50 * 11 * 7)
    mask = np.frombuffer(answer.content, np.uint8).reshape(size[::-1])
    for z, y, x in np.ndindex(mask.shape):
        assert mask[z, y, x] == inside(x + offset[0], y + offset[1], z + offset[2])


def test_a_big_mask_comes_in_pieces(client, area, monkeypatch):
    from dvid_dask.datatypes.roi import datatype

    whole = client.get(f"{area}/mask/0_1_2/300_200_10/-40_-9_-3").content
    monkeypatch.setattr(datatype, "PIECE", 777)
    assert client.get(f"{area}/mask/0_1_2/300_200_10/-40_-9_-3").content == whole
    assert 0 < sum(whole) < len(whole)


@pytest.mark.parametrize(
    "path",
    [
        "mask",
        "mask/0_1_2",
        "mask/0_1_2/8_8_8",
        "mask/0_1/8_8/0_0_0",
        "mask/xy/8_8/0_0_0",
        "mask/2_1_0/8_8_8/0_0_0",
        "mask/0_1_2/8_8/0_0_0",
        "mask/0_1_2/8_8_0/0_0_0",
        "mask/0_1_2/8_8_-8/0_0_0",
        "mask/0_1_2/8_8_8/0_0",
        "mask/0_1_2/8_8_8/0_0_x",
        f"mask/0_1_2/8_8_8/0_0_{HIGH}",
        "mask/0_1_2/2000_2000_2000/0_0_0",
        f"mask/0_1_2/{HIGH}_{HIGH}_{HIGH}/0_0_0",
    ],
)
def test_bad_masks(client, area, path):
    assert client.get(f"{area}/{path}").status_code == 400


# ------------------------------------------------------------------ partitions


def test_a_partition_is_indented_and_ordered_as_in_dvid(client, area):
    client.post(f"{area}/roi", json=[[1, 1, 0, 2], [1, 1, 5, 5]])
    answer = client.get(f"{area}/partition?batchsize=2")
    assert answer.headers["content-type"] == "application/json"
    expected = {
        "NumTotalBlocks": 24,
        "NumActiveBlocks": 4,
        "NumSubvolumes": 3,
        "ROI": {"MinChunk": [0, 1, 1], "MaxChunk": [5, 1, 1]},
        "Subvolumes": [
            {
                "MinPoint": [8 * x, 4, 2],
                "MaxPoint": [8 * x + 15, 11, 5],
                "MinChunk": [x, 1, 1],
                "MaxChunk": [x + 1, 2, 2],
                "TotalBlocks": 8,
                "ActiveBlocks": active,
            }
            for x, active in ((0, 2), (2, 1), (4, 1))
        ],
    }
    assert answer.json() == expected
    # Python and Go indent alike
    assert answer.text == json.dumps(expected, indent=4)


def test_the_partition_of_nothing_is_dvids(client, repo):
    url = client.instance(repo, "roi", "none")
    for options in ("batchsize=3", "batchsize=3&optimized=on"):
        assert client.get(f"{url}/partition?{options}").json() == {
            "NumTotalBlocks": 0,
            "NumActiveBlocks": 0,
            "NumSubvolumes": 0,
            "ROI": {"MinChunk": [0, 0, HIGH], "MaxChunk": [0, 0, LOW]},
            "Subvolumes": [],
        }


# ends the request, or the server, in the reference
def test_an_optimized_partition_of_a_narrow_region(client, area):
    client.post(f"{area}/roi", json=[[0, 0, 0, 2]])
    answer = client.get(f"{area}/partition?batchsize=8&optimized=true").json()
    (only,) = answer["Subvolumes"]
    assert (only["MinChunk"], only["MaxChunk"]) == ([0, 0, 0], [2, 8, 7])
    assert (only["MinPoint"], only["MaxPoint"]) == ([0, 0, 0], [23, 35, 15])
    assert (only["TotalBlocks"], only["ActiveBlocks"]) == (3 * 9 * 8, 3)


def test_a_partition_comes_in_pieces(client, area, monkeypatch):
    client.post(f"{area}/roi", json=[[z, y, 0, 9] for z in range(5) for y in range(5)])
    whole = client.get(f"{area}/partition?batchsize=1").content
    monkeypatch.setattr(face, "_TOGETHER", 7)
    assert client.get(f"{area}/partition?batchsize=1").content == whole
    assert len(json.loads(whole)["Subvolumes"]) == 250


@pytest.mark.parametrize(
    "options",
    [
        "",
        "batchsize=",
        "batchsize=x",
        "batchsize=0",
        "batchsize=-4",
        "batchsize=1.5",
        "optimized=true",
        f"batchsize={2**40}",
    ],
)
def test_bad_partitions(client, area, options):
    assert client.get(f"{area}/partition?{options}").status_code == 400


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(st.tuples(*[st.integers(-9, 9)] * 3, st.integers(0, 5)), max_size=12),
    st.integers(1, 7),
    st.sampled_from(["", "&optimized=true", "&optimized=on", "&optimized=false"]),
)
def test_numbers_of_a_partition_agree_with_each_other(client, area, rows, batch, option):
    assert client.post(f"{area}/roi", json=[[z, y, x, x + n] for z, y, x, n in rows]).status_code == 200
    cut = client.get(f"{area}/partition?batchsize={batch}{option}").json()
    assert cut["NumActiveBlocks"] == len({(z, y, v) for z, y, x, n in rows for v in range(x, x + n + 1)})
    assert cut["NumSubvolumes"] == len(cut["Subvolumes"])
    for name, total in (("TotalBlocks", "NumTotalBlocks"), ("ActiveBlocks", "NumActiveBlocks")):
        assert sum(part[name] for part in cut["Subvolumes"]) == cut[total]
    for part in cut["Subvolumes"]:
        sides = [b - a + 1 for a, b in zip(part["MinChunk"], part["MaxChunk"], strict=True)]
        assert np.prod(sides) == part["TotalBlocks"]
        assert part["MinPoint"] == [a * n for a, n in zip(part["MinChunk"], (8, 4, 2), strict=True)]
        assert part["MaxPoint"] == [(b + 1) * n - 1 for b, n in zip(part["MaxChunk"], (8, 4, 2), strict=True)]


# ------------------------------------------------------------------ anything


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(JUNK)
def test_any_json_is_taken_whole_or_refused(client, area, body):
    before = spans(client, area)
    answer = client.post(f"{area}/roi", content=msgspec.json.encode(body))
    assert answer.status_code in (200, 400)
    after = spans(client, area)
    if answer.status_code == 400:
        assert after == before
        return
    rows = [[v or 0 for v in [*(row or []), 0, 0, 0, 0][:4]] for row in body or []]
    assert after == sorted(map(list, set(map(tuple, rows))))
    assert client.post(f"{area}/ptquery", content=msgspec.json.encode(body)).status_code == 200
