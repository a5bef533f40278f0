"""`dvid-dask jobs`: what was killed is listed, given up, and tidied away."""

import json

import numpy as np
import pytest

import dvid_dask
from dvid_dask import ops
from dvid_dask.ops import job
from dvid_dask.ops.drafts import DraftLedger
from dvid_dask.ops.job import InstanceLedger, ScratchLedger
from dvid_dask.versions import staging


@pytest.fixture
def fly(store):
    return dvid_dask.open(str(store), compact="never").repos.named("fly")


@pytest.fixture
def seg(fly):
    made = fly.new_instance("labelmap", "seg", {"BlockSize": "16,16,16"})
    made.write(np.full((16, 16, 16), 7, np.uint64), (0, 0, 0))
    return fly["master"]["seg"]


def started(seg, name):
    """A job in place with two tasks done."""
    ledger = InstanceLedger(seg, name)
    ledger.begin({"op": "ingest"})
    for index in range(2):
        ledger.commit("bricks", index, lambda _, space: space.put(ledger.key("x", b"rows"), b"") or {})
    return ledger


def test_nothing_to_list(cli, store):
    assert cli("jobs", "list", store).out == "no unfinished jobs"
    assert json.loads(cli("jobs", "list", store, "--json").out) == []


def test_list_and_abandon(cli, store, fly, seg):
    started(seg, "a" * 24)
    draft = DraftLedger.start(seg, "b" * 24, {"op": "agglomerate"})
    draft.commit("moves", 0, lambda _, __: {})
    ScratchLedger(fly.datastore.store, "c" * 24).begin({"op": "index"})
    jobs = json.loads(cli("jobs", "list", store, "--json").out)
    told = [(j["name"][0], j["op"], j["instance"], j["version"], j["tasks"], j["draft"]) for j in jobs]
    version = fly["master"].uuid
    assert told == [
        ("a", "ingest", "seg", version, 2, False),
        ("b", "agglomerate", "seg", version, 1, True),
        ("c", "index", None, None, 0, False),
    ]
    table = cli("jobs", "list", store).out
    assert all(word in table for word in ("agglomerate", version[:12], "(draft)"))
    cli("jobs", "abandon", store, "master", "seg", "a" * 24)
    cli("jobs", "abandon", store, "master", "seg", "b" * 24)
    assert [j["name"][0] for j in json.loads(cli("jobs", "list", store, "--json").out)] == ["c"]
    assert not [t for t in fly.datastore.store.trees() if t.startswith("draft-")]
    assert "no unfinished job" in cli("jobs", "abandon", store, "master", "seg", "a" * 24, code=1).err
    assert fly["master"]["seg"].size(7) == 16**3


def test_an_unversioned_instance_is_listed_once(cli, store, fly):
    notes = fly.new_instance("keyvalue", "notes", {"Versioned": "false"})
    fly["master"].commit()
    fly["master"].newversion()
    job.InstanceLedger(fly["master"]["notes"], "d" * 24).begin({"op": "import"})
    assert notes.info.versioned is False
    assert len(ops.list_jobs(fly.datastore)) == 1


def test_tidy_drops_what_can_not_go_on(cli, store, fly, seg):
    trees = fly.datastore.store.trees
    DraftLedger.start(seg, "a" * 24, {"op": "agglomerate"})
    fly["master"].commit()
    child = fly["master"].newversion()
    DraftLedger.start(child["seg"], "b" * 24, {"op": "split"})
    ScratchLedger(fly.datastore.store, "c" * 24).begin({"op": "index"})
    before = set(trees())
    assert sum(t.startswith("draft-") for t in before) == 4
    ops.abandon(child["seg"], "a" * 24)  # inherited from the version that was committed
    assert sum(t.startswith("draft-") for t in trees()) == 2
    cli("node", "new-instance", store, child.uuid, "labelmap", "other")
    DraftLedger.start(fly["master"]["other"], "e" * 24, {"op": "edit"})
    fly.delete_instance("other")
    assert cli("jobs", "tidy", store).out.splitlines()[-1].startswith("2 trees dropped")
    left = [t for t in trees() if t.startswith(("draft-", "scratch-"))]
    assert left == ["draft-" + "b" * 24, "draft-" + "b" * 24 + ".0", "scratch-" + "c" * 24]
    assert cli("jobs", "tidy", store, "--older-than", "0").out.splitlines()[0] == "scratch-" + "c" * 24
    assert cli("jobs", "tidy", store, "--older-than", "0").out == "0 trees dropped"
    assert [j.name[0] for j in ops.list_jobs(fly.datastore)] == ["b"]


def test_tidy_drops_old_branches_of_edits(cli, store, fly, seg):
    base = seg.version.tree(seg.info).view(0)
    young = fly.datastore.store.branch(base, staging.stage_name(7)).name
    old = fly.datastore.store.branch(base, f"{staging.STAGED}0065000000-{7:016x}-01234567").name
    assert cli("jobs", "tidy", store).out.splitlines()[0] == old
    assert young in fly.datastore.store.trees()
    assert cli("jobs", "tidy", store, "--older-than", "0").out.splitlines()[0] == young
    assert seg.size(7) == 16**3
