"""Version selectors: DVID's forms, with an exact UUID before longer ones, and the real leaf of a branch."""

from __future__ import annotations

import pytest

from dvid_dask.errors import AmbiguousVersion, BadRequest, UnknownVersion


@pytest.fixture
def tree(repo):
    """root - v2 - v3 - v4 on master, side - side2 from v2."""
    v = {"root": repo["master"]}
    v["root"].commit("root")
    for name, parent in (("v2", "root"), ("v3", "v2")):
        v[name] = v[parent].newversion(name)
        v[name].commit()
    v["v4"] = v["v3"].newversion("v4")
    v["side"] = v["v2"].new_branch("side", "side")
    v["side"].commit()
    v["side2"] = v["side"].newversion("side2")
    return v


@pytest.mark.parametrize(
    ("start", "tail", "expected"),
    [
        ("root", "", "root"),
        ("v3", "", "v3"),
        ("v3", ":", "v3"),
        ("side", ":master", "v4"),
        ("v4", ":side", "side2"),
        ("root", ":master~0", "v4"),
        ("root", ":master~3", "root"),
        ("root", ":side~1", "side"),
        ("root", ":side~2", "v2"),
        ("root", ":~1", "v3"),
    ],
)
def test_forms(ds, tree, start, tail, expected):
    assert ds[tree[start].uuid + tail] == tree[expected]
    assert ds[tree[start].uuid[:10] + tail] == tree[expected]


@pytest.mark.parametrize(
    ("selector", "expected"),
    [("master", "v4"), ("side", "side2"), ("master~2", "v2"), (":side", "side2"), ("side~3", "root"), (":", "v4")],
)
def test_within_a_repository(repo, tree, selector, expected):
    assert repo[selector] == tree[expected]


@pytest.mark.parametrize(
    ("tail", "error"),
    [
        (":master~4", UnknownVersion),
        (":nosuch", UnknownVersion),
        (":nosuch~0", UnknownVersion),
        (":Side", UnknownVersion),
        (":master~x", BadRequest),
        (":master~-1", BadRequest),
        (":master~", BadRequest),
        (":master^1", UnknownVersion),
        (":a:b", BadRequest),
    ],
)
def test_refused(ds, tree, tail, error):
    with pytest.raises(error):
        ds[tree["root"].uuid + tail]


def test_empty_and_foreign_values(ds, tree):
    for bad in ("", 5, None, b"x"):
        with pytest.raises(BadRequest):
            ds[bad]
    with pytest.raises(UnknownVersion, match="did you mean 'side'"):
        ds[tree["root"].uuid + ":sid"]


def test_errors_are_what_python_expects(ds, repo):
    with pytest.raises(KeyError):
        ds["nosuch"]
    with pytest.raises(LookupError):
        repo["nosuch"]
    assert "nosuch" not in ds
    assert repo.root in ds


def test_an_exact_uuid_wins(ds, repo):
    root = repo["master"]
    root.commit()
    short = root.tag("v1.0")
    long = root.tag("v1.0b")
    assert ds["v1.0"] == short
    assert ds["v1.0b"] == long
    with pytest.raises(AmbiguousVersion):
        ds["v1."]
    assert ds["v1.0b:master"] == root


def test_prefixes_are_unique_over_all_repositories(ds):
    a = ds.new_repo(root="aa" + "0" * 30)
    b = ds.new_repo(root="ab" + "0" * 30)
    assert ds["aa"] == a["master"]
    with pytest.raises(AmbiguousVersion, match="not unique"):
        ds["a"]
    assert b["a"] == b["master"]  # within one repository it is
    with pytest.raises(UnknownVersion):
        ds["A"]


def test_a_bare_branch_needs_a_single_repository(ds):
    with pytest.raises(UnknownVersion, match="no repository yet"):
        ds[":master"]
    only = ds.new_repo()
    assert ds[":master"] == ds[":"] == ds[":~0"] == only["master"]
    ds.new_repo()
    for selector in (":master", ":", ":master~0"):
        with pytest.raises(AmbiguousVersion):
            ds[selector]


def test_the_leaf_follows_the_branch_at_once(ds, repo):
    """DVID keeps a cache of leafs that merges and restarts leave stale."""
    at = repo["master"]
    for n in range(4):
        at.commit()
        if n == 2:
            at.tag("t")
            at.new_branch("other")
        assert ds[repo.root + ":master"] == at  # also while it has children on other branches only
        at = at.newversion()
        assert ds[repo.root + ":master"] == at


def test_a_merge_moves_master_on(ds, repo):
    root = repo["master"]
    root.commit()
    left, right = root.newversion(), root.new_branch("right")
    left.commit()
    right.commit()
    merged = repo.merge([left, right])
    assert ds[repo.root + ":master"] == merged
    assert repo.branch_versions("master") == [merged, left, root]
    assert repo.branch_versions("right") == [right, root]
    assert repo.branch_versions("nosuch") == []


def test_a_merge_beside_the_line_leaves_master_alone(ds, repo):
    root = repo["master"]
    root.commit()
    left, right = root.newversion(), root.new_branch("right")
    left.commit()
    right.commit()
    line = left.newversion()
    beside = repo.merge([left, right])
    assert repo["master"] == line
    line.commit()
    assert repo["master"] == line
    assert beside.branch == "master"
    far = line.newversion()
    assert repo["master"] == far


def test_branches_may_look_like_uuids_and_hold_marks(repo):
    root = repo["master"]
    root.commit()
    for name in ("with blank", "v1.2-rc_3", "größe", "123", "a~b", root.uuid[:4]):
        child = root.new_branch(name)
        assert repo[name] == child
        assert repo.datastore[f"{root.uuid}:{name}"] == child
    assert repo[root.uuid] == root
