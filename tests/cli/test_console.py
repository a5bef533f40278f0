"""Errors are one line and a status; versions are found by every name they have."""

import pytest

import dvid_dask
from dvid_dask.cli.console import find_repo, find_version, human_bytes, run
from dvid_dask.errors import BadRequest, UnknownVersion


def test_a_domain_error_is_one_line_and_status_1(cli, tmp_path):
    failed = cli("info", tmp_path / "nothing", code=1)
    assert failed.out == ""
    assert failed.err.startswith("dvid-dask: there is no store at ")
    assert len(failed.err.splitlines()) == 1


def test_wrong_usage_is_status_2(cli):
    assert "No such command" in cli("nosuch", code=2).err
    assert "Missing argument" in cli("info", code=2).err


def test_debug_anywhere_lets_the_error_through(tmp_path):
    from dvid_dask.cli.app import app
    from dvid_dask.store import StoreNotFound

    with pytest.raises(StoreNotFound):
        run(app, ["info", str(tmp_path / "nothing"), "--debug"])


def test_an_unexpected_error_names_its_kind(capsys):
    def broken(**_):
        raise ZeroDivisionError("over\nhere")

    assert run(broken, []) == 1
    assert capsys.readouterr().err == "dvid-dask: ZeroDivisionError: over here (--debug shows where)\n"


def test_an_interrupt_is_status_130(capsys):
    def interrupted(**_):
        raise KeyboardInterrupt

    assert run(interrupted, []) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_versions_are_found_by_uuid_branch_and_alias(tmp_path):
    ds = dvid_dask.create(str(tmp_path / "s"), compact="never")
    fly = ds.new_repo("fly")
    root = fly["master"]
    assert find_version(ds, root.uuid[:10]) == root
    assert find_version(ds, "master") == root
    assert find_version(ds, "fly:master") == root
    assert find_repo(ds, None) == fly
    mouse = ds.new_repo("mouse")
    assert find_version(ds, "mouse:master") == mouse["master"]
    assert find_repo(ds, "mouse") == mouse
    assert find_repo(ds, root.uuid[:12]) == fly
    with pytest.raises(UnknownVersion):
        find_version(ds, "master")
    with pytest.raises(UnknownVersion, match="no repository 'flies'"):
        find_version(ds, "flies:master")
    with pytest.raises(BadRequest, match="say which one"):
        find_repo(ds, None)


def test_the_only_repository_must_exist(tmp_path):
    ds = dvid_dask.create(str(tmp_path / "s"), compact="never")
    with pytest.raises(UnknownVersion, match="dvid-dask repo new"):
        find_repo(ds, None)


@pytest.mark.parametrize(
    ("n", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2.5e9, "2.5 GB"), (7e18, "7000.0 PB")]
)
def test_sizes_for_people(n, text):
    assert human_bytes(n) == text
