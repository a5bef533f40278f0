"""The tour runs from end to end, small; the mistakes it mends are real ones."""

import subprocess
import sys

import numpy as np
import pytest

import dvid_dask
from dvid_dask.demo import Volume, make_volume
from dvid_dask.demo.mistakes import border_of, make_mistakes


@pytest.fixture(scope="module")
def volume():
    return make_volume((128, 128, 128), seed=7)


def test_mistakes_are_one_false_split_and_one_false_merger(volume):
    mistakes = make_mistakes(volume)
    members = {}
    for supervoxel, body in mistakes.body_of.items():
        members.setdefault(body, set()).add(supervoxel)
    first, second = mistakes.split
    assert volume.body_of[first] == volume.body_of[second]
    neuron = {sv for sv, body in volume.body_of.items() if body == volume.body_of[first]}
    assert members[first] | members[second] == neuron
    assert {volume.body_of[sv] for sv in members[mistakes.merger]} == {
        volume.body_of[mistakes.merger],
        volume.body_of[mistakes.cleave[0]],
    }
    assert {volume.body_of[sv] for sv in mistakes.cleave} == {volume.body_of[mistakes.cleave[0]]}
    # everything else is right
    wrong = {first, second, mistakes.merger}
    assert all({volume.body_of[sv] for sv in m} == {body} for body, m in members.items() if body not in wrong)
    # a body bears the id of one of its supervoxels, and the slice shows all four parts
    assert all(body in m for body, m in members.items())
    seen = set(np.unique(volume.supervoxels[mistakes.z]).tolist())
    kept = members[mistakes.merger] - set(mistakes.cleave)
    for part in (members[first], members[second], set(mistakes.cleave), kept):
        assert seen & part


def test_mistakes_need_room():
    one = Volume(np.zeros((16, 16, 16), np.uint8), np.ones((16, 16, 16), np.uint64), {1: 1}, np.zeros(0))
    with pytest.raises(ValueError, match="make it larger"):
        make_mistakes(one)


def test_border_lies_between_two_parts():
    left = np.zeros((8, 8), bool)
    left[:, :4] = True
    y, x = border_of(left, ~left)
    assert 0 <= y < 8
    assert x in (3, 4)
    with pytest.raises(ValueError, match="don't touch"):
        border_of(left, np.zeros_like(left))


def run_tour(folder, *arguments):
    command = [sys.executable, "-m", "dvid_dask.demo", "--store", "out/store", "--picture", "out/demo.png"]
    return subprocess.run([*command, *arguments], cwd=folder, capture_output=True, text=True, timeout=500)


def test_the_tour(tmp_path):
    done = run_tour(tmp_path, "--size", "128", "--workers", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WRONG" not in done.stdout
    assert done.stdout.count("equal ") == 10
    assert (tmp_path / "out/demo.png").read_bytes().startswith(b"\x89PNG")
    repo = dvid_dask.open(str(tmp_path / "out/store"), compact="never").repos.named("demo")
    assert set(repo.branches) == {"master", "proofread"}
    assert repo["master"].locked
    assert not repo["proofread"].locked
    changed = {change.kind for change in repo["master"].diff(repo["proofread"])["segmentation"]}
    assert changed == {"added", "removed", "changed"}


def test_the_tour_removes_nothing_of_others(tmp_path):
    (tmp_path / "out/store").mkdir(parents=True)
    (tmp_path / "out/store/thesis.tex").write_text("42")
    refused = run_tour(tmp_path)
    assert refused.returncode == 1
    assert "choose another place" in refused.stderr
    assert (tmp_path / "out/store/thesis.tex").read_text() == "42"
    dvid_dask.create(str(tmp_path / "other")).new_repo("mine")
    refused = run_tour(tmp_path, "--store", "other")
    assert refused.returncode == 1
    assert "holds more than an earlier demo" in refused.stderr
