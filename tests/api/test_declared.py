"""Types whose operations are still to come: all is there but those, which say so."""

import csv

import pytest

from dvid_dask import datatypes
from dvid_dask.api.declared import FACES
from dvid_dask.datatypes import declared
from dvid_dask.errors import BadRequest

from .test_conformance import SHARED

TYPES = [face.typenames[0] for face in FACES]


@pytest.mark.parametrize("typename", TYPES)
def test_made_listed_described_and_not_yet_more(client, repo, typename):
    path = client.instance(repo, typename, "x")
    assert client.get(f"{path}/info").json()["Base"]["TypeName"] == typename
    assert typename in client.get(f"/api/repo/{repo}/info").json()["DataInstances"]["x"]["Base"]["TypeURL"]
    face = next(f for f in FACES if typename in f.typenames)
    for keyword in face.planned:
        answer = client.get(f"{path}/{keyword}/1/2/3")
        assert answer.status_code == 501
        assert "not answered by this server yet" in answer.text
    assert client.get(f"{path}/nosuch").status_code == 400


@pytest.mark.skipif(SHARED is None, reason="needs the shared folder (set DVID_DASK_SHARED)")
def test_every_keyword_of_the_specification_is_known():
    faces = {face.typenames[0]: face for face in FACES}
    missing = []
    for name in ("endpoints-image-kv.csv", "endpoints-labels-annotation.csv"):
        with open(SHARED / "spec" / name) as f:
            for row in csv.DictReader(f):
                face = faces.get(row["scope"])
                parts = row["path"].split("/")
                if face is None or len(parts) < 6 or row["method"] == "CLI" or parts[5].startswith("{"):
                    continue
                keyword = parts[5].partition("[")[0]
                if keyword not in face.planned | face.doors.keys():
                    missing.append((row["scope"], keyword))
    assert missing == []


@pytest.mark.parametrize(
    ("typename", "settings"),
    [
        ("roi", {"BlockSize": "0,1,1"}),
        ("roi", {"BlockSize": "1,1,4294967296"}),
        ("labelarray", {"BlockSize": "60,64,64"}),
        ("labelarray", {"BlockSize": "8,8,8"}),
        ("labelblk", {"VoxelSize": "8,8,nan"}),
        ("labelblk", {"VoxelSize": "8,8,0"}),
        ("labelblk", {"VoxelUnits": "um"}),
        ("labelblk", {"Background": "256"}),
        ("labelblk", {"GridStore": "there"}),
        ("labelsz", {"ROI": "area"}),
    ],
)
def test_settings_that_are_refused(typename, settings):
    with pytest.raises(BadRequest, match="setting|needs"):
        datatypes.lookup(typename).parse_settings({k.lower(): v for k, v in settings.items()})


def test_block_coordinates_of_extents_round_down():
    settings = declared.LabelBlk.parse_settings({"minpoint": "-1,0,31", "maxpoint": "31,32,64"})
    volume = declared.LabelBlk.__new__(declared.LabelBlk)
    volume.info = type("Info", (), {"settings": settings})
    held = volume.properties()
    assert (held["MinIndex"], held["MaxIndex"]) == ([-1, 0, 0], [0, 1, 2])
    assert [axis["Size"] for axis in volume.metadata()["Axes"]] == [33, 33, 34]
