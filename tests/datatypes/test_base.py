"""What all datatypes share: registration, settings, the base part of info."""

from __future__ import annotations

import pytest

import dvid_dask
from dvid_dask import datatypes
from dvid_dask.datatypes.base import CONFLICT, Datatype
from dvid_dask.errors import BadRequest


@datatypes.register
class Plain(Datatype):
    typename = "test-plain"
    typeurl = "example.org/plain"
    typeversion = "1.2"
    default_compression = "gzip"

    @classmethod
    def parse_settings(cls, config):
        size = config.get("size", "7")
        if not str(size).isdigit():
            raise BadRequest(f"size {size!r} is no number")
        return {"size": int(size)}

    def extended(self):
        return {"Size": self.info.settings["size"]}


@pytest.fixture
def repo():
    return dvid_dask.create("memory://", compact="now").new_repo()


def test_registry():
    assert datatypes.lookup("test-plain") is Plain
    assert "keyvalue" in datatypes.typenames()
    assert "labelmap" in datatypes.typenames()
    assert datatypes.register(Plain) is Plain
    with pytest.raises(ValueError, match="already registered"):
        datatypes.register(type("Other", (Datatype,), {"typename": "test-plain"}))
    with pytest.raises(ValueError, match="no typename"):
        datatypes.register(type("Nameless", (Datatype,), {}))
    with pytest.raises(BadRequest, match="did you mean 'keyvalue'"):
        datatypes.lookup("keyvalu")


def test_settings_reach_the_type_in_lower_case(repo):
    plain = repo.new_instance("test-plain", "p", {"SIZE": "9", "Tags": "a=b"})
    assert plain.info.settings == {"size": 9}
    shown = plain.describe()
    assert shown["Extended"] == {"Size": 9}
    assert shown["Base"]["TypeURL"] == "example.org/plain"
    assert shown["Base"]["TypeVersion"] == "1.2"
    assert shown["Base"]["Compression"] == "gzip compression, level -1"
    with pytest.raises(BadRequest, match="no number"):
        repo.new_instance("test-plain", "q", {"size": "x"})
    assert list(repo.instances) == ["p"]


def test_update_settings_refreshes_the_object(repo):
    plain = repo.new_instance("test-plain", "p")
    other = repo["master"]["p"]
    plain.update_settings(size=8)
    assert plain.extended() == {"Size": 8}
    assert other.extended() == {"Size": 7}  # objects live as long as a request
    assert repo["master"]["p"].extended() == {"Size": 8}
    plain.update_settings()
    assert plain.extended() == {"Size": 8}


def test_defaults_of_the_hooks(repo):
    plain = repo.new_instance("test-plain", "p")
    assert plain.describe_change(b"k") == b"k"
    assert plain.merge_value(b"k", None, [b"1", b"2"]) is CONFLICT
    assert plain.on_event(None, "x") is None
    assert Plain.reads_by_post == frozenset()
    assert Plain.sync_partners is None


def test_views_are_pinned_and_pickle(tmp_path):
    import pickle

    with dvid_dask.create(str(tmp_path / "s"), compact="never") as ds:
        plain = ds.new_repo().new_instance("test-plain", "p")
        plain.mutate(lambda m, space: space.put(b"k", b"1"))
        pinned = plain.view()
        plain.mutate(lambda m, space: space.put(b"k", b"2"))
        assert pinned.get(b"k") == b"1"
        assert pickle.loads(pickle.dumps(pinned)).get(b"k") == b"1"
        assert plain.view().get(b"k") == b"2"
        assert pinned.token != plain.view().token


@pytest.mark.parametrize(
    ("typename", "settings"),
    [
        ("roi", {"blocksize": "0,1,1"}),
        ("roi", {"blocksize": "1,1,4294967296"}),
        ("labelsz", {"roi": "area"}),
        ("labelarray", {"blocksize": "60,64,64"}),
        ("labelarray", {"gridstore": "there"}),
        ("labelblk", {"voxelsize": "8,8,nan"}),
        ("labelvol", {"voxelunits": "um"}),
    ],
)
def test_settings_that_cannot_be_used_are_refused(typename, settings):
    with pytest.raises(BadRequest, match=r"setting|needs"):
        datatypes.lookup(typename).parse_settings(settings)


def test_block_coordinates_of_extents_round_down(repo):
    blk = repo.new_instance(
        "labelarray", "seg", {"MinPoint": "-1,0,31", "MaxPoint": "31,32,64", "BlockSize": "32,32,32"}
    )
    told = blk.describe()["Extended"]
    assert (told["MinIndex"], told["MaxIndex"]) == ([-1, 0, 0], [0, 1, 2])
    assert [axis["Size"] for axis in blk.metadata()["Axes"]] == [33, 33, 34]
