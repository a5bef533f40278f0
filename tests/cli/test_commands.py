"""Each command does what it says to the store, and says what it did."""

import json

import pytest

import dvid_dask


def test_version(cli):
    assert cli("--version").out == f"dvid-dask {dvid_dask.__version__}"


def test_help_of_every_command(cli):
    commands = [line.split()[0] for line in cli("--help").out.split("Commands:")[1].splitlines() if line.strip()]
    assert {"init", "serve", "ingest", "info", "repo", "node", "diff", "gc", "fsck", "bench", "export"} <= set(commands)
    for command in commands:
        assert "Usage: dvid-dask" in cli(command, "--help").out


def test_init_refuses_what_is_there(cli, store):
    assert "is a store already" in cli("init", store, code=1).err


def test_info_tells_what_is_there(cli, store):
    report = json.loads(cli("info", store, "--json").out)
    assert report["repositories"][0]["alias"] == "fly"
    assert report["files"] > 0
    assert report["bytes"] > 0
    assert "1 repositories" in cli("info", store).out


def test_repositories(cli, store):
    root = cli("repo", "new", store, "mouse", "--root", "0123456789abcdef0123456789abcdef").out
    assert root == "0123456789abcdef0123456789abcdef"
    listed = json.loads(cli("repo", "list", store, "--json").out)
    assert {r["alias"] for r in listed} == {"fly", "mouse"}
    assert "mouse" in cli("repo", "list", store).out
    cli("repo", "set", store, "mouse", "--description", "grey")
    assert json.loads(cli("repo", "info", store, "mouse", "--json").out)["Description"] == "grey"
    cli("repo", "log", store, "mouse", "--add", "a line")
    assert cli("repo", "log", store, "mouse").out.endswith("a line")
    assert json.loads(cli("repo", "log", store, "mouse", "--json").out)["log"][-1].endswith("a line")
    assert "say which one" in cli("repo", "info", store, code=1).err
    cli("repo", "delete", store, root, "--yes")
    assert [r["alias"] for r in json.loads(cli("repo", "list", store, "--json").out)] == ["fly"]


def test_a_passcode_protects_a_repository(cli, store):
    root = cli("repo", "new", store, "mouse", "--passcode", "cheese").out
    assert "passcode" in cli("repo", "delete", store, root, "--yes", code=1).err
    cli("repo", "delete", store, root, "--passcode", "cheese", "--yes")


def test_the_life_of_a_version(cli, store):
    made = cli("node", "new-instance", store, "master", "keyvalue", "notes", "Versioned=true").out
    assert made.startswith("notes [keyvalue] ")
    cli("node", "note", store, "master", "in the works")
    assert cli("node", "note", store, "master").out == "in the works"
    cli("node", "log", store, "master", "--add", "one", "--add", "two")
    assert [line.split("  ")[-1] for line in cli("node", "log", store, "master").out.splitlines()] == ["one", "two"]
    root = cli("node", "commit", store, "master", "-m", "first").out
    assert "committed" in cli("node", "commit", store, root, code=1).err
    branch = cli("node", "branch", store, root, "work", "-m", "tries").out
    child = cli("node", "newversion", store, root).out
    assert cli("node", "tag", store, root, "v1.0").out == "v1.0"
    info = json.loads(cli("node", "info", store, "fly:work", "--json").out)
    assert info["uuid"] == branch
    assert info["parents"] == [root]
    assert "notes" in info["instances"]
    assert child in cli("node", "info", store, "master").out
    shown = cli("repo", "info", store).out
    for version in (root, branch, child):
        assert version[:12] in shown


def test_commit_compacts_unless_told_not_to(cli, store):
    root = cli("node", "commit", store, "master", "--no-compact").out
    assert cli("compact", store).out == "1 versions compacted"
    cli("node", "newversion", store, root)
    cli("node", "commit", store, "master")
    assert cli("compact", store).out == "0 versions compacted"


def test_settings_of_an_instance_are_key_value(cli, store):
    assert "no KEY=VALUE" in cli("node", "new-instance", store, "master", "keyvalue", "n", "Versioned", code=2).err
    assert "datatype" in cli("node", "new-instance", store, "master", "nosuch", "n", code=1).err


def test_rename_and_delete_an_instance(cli, store):
    cli("node", "new-instance", store, "master", "keyvalue", "notes")
    cli("repo", "rename-instance", store, "fly", "notes", "remarks")
    assert list(dvid_dask.open(str(store)).repos.named("fly").instances) == ["remarks"]
    cli("repo", "delete-instance", store, "fly", "remarks", "--yes")
    assert list(dvid_dask.open(str(store)).repos.named("fly").instances) == []


@pytest.fixture
def forked(cli, store):
    """master and work, each with changes of its own."""
    cli("node", "new-instance", store, "master", "keyvalue", "notes")
    repo = dvid_dask.open(str(store), compact="never").repos.named("fly")
    root = repo["master"]
    root["notes"].put_many({"a": b"1", "b": b"2", "c": b"3"})
    root.commit()
    work, main = root.new_branch("work"), root.newversion()
    work["notes"]["a"] = b"one"
    del work["notes"]["b"]
    work["notes"]["d"] = b"4"
    main["notes"]["c"] = b"three"
    work.commit()
    main.commit()
    return store


def test_diff(cli, forked):
    report = json.loads(cli("diff", forked, "master~1", "work", "--json").out)
    notes = report["notes"]
    assert (notes["added"], notes["removed"], notes["changed"]) == (1, 1, 1)
    assert {(c["kind"], c["what"]) for c in notes["changes"]} == {("added", "d"), ("removed", "b"), ("changed", "a")}
    shown = cli("diff", forked, "master~1", "work", "--limit", "1").out
    assert "notes: 1 added, 1 removed, 1 changed" in shown
    assert "... and 2 more" in shown
    assert cli("diff", forked, "work", "work").out == "no difference"
    assert "nosuch" in cli("diff", forked, "master", "work", "--instance", "nosuch", code=1).err


def test_merge(cli, forked):
    merged = cli("node", "merge", forked, "work", "master", "-m", "both").out
    notes = dvid_dask.open(str(forked), compact="never")[merged]["notes"]
    assert dict(notes.items()) == {"a": b"one", "c": b"three", "d": b"4"}
    assert "at least two" in cli("node", "merge", forked, "work", code=2).err


def test_merge_names_its_conflicts(cli, store):
    cli("node", "new-instance", store, "master", "keyvalue", "notes")
    root = dvid_dask.open(str(store), compact="never").repos.named("fly")["master"]
    root["notes"]["a"] = b"1"
    root.commit()
    for version, value in ((root.new_branch("work"), b"2"), (root.newversion(), b"3")):
        version["notes"]["a"] = value
        version.commit()
    failed = cli("node", "merge", store, "work", "master", code=1)
    assert "conflict: " in failed.err
    assert "contradictions between the sides: 1." in failed.err


def test_care_of_a_store(cli, forked):
    assert "compacted" in cli("compact", forked).out
    swept = json.loads(cli("gc", forked, "--grace", "0", "--json").out)
    assert swept["trees"] > 0
    assert "deleted bytes" in cli("gc", forked).out
    checked = json.loads(cli("fsck", forked, "--json").out)
    assert checked["files"]["error_count"] == 0
    assert "files:" in cli("fsck", forked, "--repair").out


def test_fsck_fails_where_a_file_is_gone(cli, forked):
    for file in (forked / "data").rglob("*"):
        if file.is_file():
            file.unlink()
    failed = cli("fsck", forked, code=1)
    assert "dvid-dask: " in failed.err


def test_benchmarks_run(cli, tmp_path):
    rows = json.loads(cli("bench", "store", "--where", tmp_path, "--keys", "2000", "--json").out)
    assert rows["branch"]["value"] > 0
    assert list(tmp_path.iterdir()) == []
    assert "encode" in json.loads(cli("bench", "codec", "--size", "64", "--json").out)
