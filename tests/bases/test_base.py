"""A base gives the voxels that another program wrote, at any URL, or an error that says why it can't; never others."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
import textwrap
import threading
import time

import h5py
import msgspec
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dvid_dask.bases import Base, readers, remote
from dvid_dask.bases.urls import kvstore_spec
from dvid_dask.boxes import Box
from dvid_dask.errors import BadRequest, BrokenBase, NotFound, TooBusy, Unavailable

from . import volumes
from .server import serving

SHAPE = (40, 50, 61)
WRITERS = [
    volumes.zarr2, volumes.zarr3, volumes.zarr3_sharded, volumes.ome4, volumes.ome5, volumes.n5, volumes.n5_scales,
    volumes.precomputed, volumes.precomputed_sharded, volumes.hdf5,
]  # fmt: skip
OFFSETS = {volumes.precomputed: (8, -4, 16), volumes.ome4: (0, 0, 8)}
SCALES = {volumes.ome4: [0, 1, 2], volumes.precomputed: [0, 1, 2], volumes.n5_scales: [0, 1, 2]}


@pytest.fixture
def voxels():
    return np.random.default_rng(0).integers(1, 255, SHAPE, dtype=np.uint8)


@pytest.fixture
def web(tmp_path):
    with serving(tmp_path) as served:
        yield served


def quick(monkeypatch, seconds=0.5):
    """Limits of time that a test can wait for."""
    monkeypatch.setattr(remote, "READ_SECONDS", seconds)


def check_all(base, voxels, writer):
    offset = OFFSETS.get(writer, (0, 0, 0))
    assert base.extents() == Box.of_shape(SHAPE).shift(offset)
    assert base.scales == SCALES.get(writer, [0])
    for scale, level in enumerate(volumes.halves(voxels, len(base.scales))):
        box = base.extents(scale)
        assert box.start == tuple(v // 2**scale for v in offset)
        np.testing.assert_array_equal(base.read(scale, *box), level)
        inner = Box.of((3, 5, 7), (9, 10, 11)).intersect(Box.of_shape(level.shape))
        np.testing.assert_array_equal(base.read(scale, *inner.shift(box.start)), level[inner.slices()])


@pytest.mark.parametrize("writer", WRITERS, ids=lambda w: w.__name__)
def test_every_format_on_disk_and_over_http(tmp_path, web, voxels, writer):
    name = writer(tmp_path, voxels)
    for url in (str(tmp_path / name), (tmp_path / name).as_uri(), f"{web[0]}/{name}"):
        base = Base.find(url)
        check_all(base, voxels, writer)
        again = Base.of(json.loads(json.dumps(base.to_json())))
        assert again == base == pickle.loads(pickle.dumps(base))
        check_all(again, voxels, writer)
        base.check()


def test_segmentation_and_jpeg(tmp_path):
    labels = np.random.default_rng(0).integers(0, 2**63, (32, 40, 48), dtype=np.uint64) // 2**59
    base = Base.find(str(tmp_path / volumes.precomputed_segmentation(tmp_path, labels)))
    assert (base.dtype, base.scales) == (np.uint64, [0, 1])
    np.testing.assert_array_equal(base.read(1, *base.extents(1)), labels[::2, ::2, ::2])
    smooth = np.add.outer(np.arange(32), np.add.outer(np.arange(40), np.arange(48))).astype(np.uint8)
    base = Base.find(str(tmp_path / volumes.precomputed_jpeg(tmp_path, smooth)))
    assert np.abs(base.read(0, *base.extents()).astype(int) - smooth).max() <= 4


def test_voxel_sizes(tmp_path, voxels):
    sizes = {}
    for writer in (volumes.ome4, volumes.ome5, volumes.precomputed, volumes.n5_scales, volumes.zarr3):
        sizes[writer.__name__] = Base.find(str(tmp_path / writer(tmp_path, voxels))).nanometres
    even = (8.0, 8.0, 8.0)
    assert sizes == {"ome4": even, "ome5": (16.0, 8.0, 8.0), "precomputed": even, "n5_scales": even, "zarr3": None}


def test_ways_to_name_a_volume(tmp_path, web, voxels):
    volumes.zarr3(tmp_path, voxels)
    volumes.precomputed(tmp_path, voxels)
    volumes.hdf5(tmp_path, voxels)
    path, url = tmp_path / "v.zarr", f"{web[0]}/v.zarr"
    spec = {"driver": "zarr3", "kvstore": {"driver": "http", "base_url": web[0], "path": "/v.zarr/"}}
    for name in (f"zarr3://{path}", f"zarr://{url}", f"{url}|zarr3:", f"{url}/|zarr3", spec):
        np.testing.assert_array_equal(Base.find(name).read(0, (1, 2, 3), (4, 5, 6)), voxels[1:4, 2:5, 3:6])
    raw = Base.find(f"precomputed://{web[0]}/raw", offset=(0, 0, 0))
    np.testing.assert_array_equal(raw.read(0, (1, 2, 3), (4, 5, 6)), voxels[1:4, 2:5, 3:6])
    for name, dataset in ((f"{tmp_path}/v.h5:/em/gray", None), (f"{web[0]}/v.h5", "em/gray"), (f"{web[0]}/v.h5", None)):
        base = Base.find(name, dataset=dataset)
        np.testing.assert_array_equal(base.read(0, (1, 2, 3), (4, 5, 6)), voxels[1:4, 2:5, 3:6])


def test_axes_and_channels(tmp_path, voxels):
    colour = np.stack([voxels, voxels // 2, voxels // 3, voxels // 4])
    array = zarr.create_array(str(tmp_path / "c.zarr"), shape=colour.shape, chunks=(4, 16, 16, 16), dtype="u1")
    array[:] = colour
    with pytest.raises(BadRequest, match="select"):
        Base.find(str(tmp_path / "c.zarr"))
    one = Base.find(str(tmp_path / "c.zarr"), select={"c": 2})
    np.testing.assert_array_equal(one.read(0, *one.extents()), colour[2])
    every = Base.find(str(tmp_path / "c.zarr"), channels=4)
    np.testing.assert_array_equal(every.read(0, *every.extents()), colour.transpose(1, 2, 3, 0))
    with pytest.raises(BadRequest, match="3 channels"):
        Base.find(str(tmp_path / "c.zarr"), channels=3)
    volumes.zarr2(tmp_path, voxels.transpose(2, 0, 1))
    turned = Base.find(str(tmp_path / "v.zarr2"), axes="xzy", offset=(-5, 0, 2))
    np.testing.assert_array_equal(turned.read(0, *turned.extents()), voxels)
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file["v"] = colour.transpose(3, 1, 2, 0)
    flipped = Base.find(str(tmp_path / "t.h5"), axes="xzyc", select={"c": 1})
    np.testing.assert_array_equal(flipped.read(0, *flipped.extents()), colour[1])


def test_boxes_that_leave_the_volume(tmp_path, voxels):
    base = Base.find(str(tmp_path / volumes.zarr3(tmp_path, voxels)), offset=(10, 0, -10))
    with pytest.raises(BadRequest, match="isn't inside"):
        base.read(0, (9, 0, 0), (11, 1, 1))
    with pytest.raises(BadRequest, match="no scale 3"):
        base.read(3, (9, 0, 0), (11, 1, 1))
    out = base.read_box(0, (8, 48, 48), (4, 4, 5), np.uint16)
    expected = np.zeros((4, 4, 5), np.uint16)
    expected[2:, :2, :3] = voxels[:2, 48:, 58:]
    np.testing.assert_array_equal(out, expected)
    assert not base.read_box(0, (800, 0, 0), (2, 2, 2), np.uint8).any()
    assert not base.read_box(5, (0, 0, 0), (2, 2, 2), np.uint8).any()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_box_of_a_pyramid(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "pyramid"
    if not folder.exists():
        folder.mkdir()
        volumes.precomputed(folder, np.random.default_rng(0).integers(0, 255, SHAPE, dtype=np.uint8))
    voxels = np.random.default_rng(0).integers(0, 255, SHAPE, dtype=np.uint8)
    base = Base.find(str(folder / "raw"))
    scale = data.draw(st.sampled_from(base.scales))
    box = base.extents(scale)
    start = [data.draw(st.integers(a, b)) for a, b in zip(*box, strict=True)]
    stop = [data.draw(st.integers(a, b)) for a, b in zip(start, box.stop, strict=True)]
    part = Box.of(start, stop).relative(box.start).slices()
    np.testing.assert_array_equal(base.read(scale, start, stop), volumes.halves(voxels)[scale][part])


# ------------------------------------------------------------------ what is missing, gone, or another


@pytest.mark.parametrize("writer", [volumes.zarr2, volumes.zarr3, volumes.n5, volumes.precomputed_sharded])
@pytest.mark.parametrize("over_http", [False, True], ids=["disk", "http"])
def test_chunks_that_were_never_written_are_the_fill_value(tmp_path, web, writer, over_http):
    voxels = np.zeros((48, 48, 48), np.uint8)
    voxels[:16, :16, :16] = 9
    more = {"fill_value": 7} if writer in (volumes.zarr2, volumes.zarr3) else {}
    name = writer(tmp_path, voxels, **more)
    if more:
        for file in (tmp_path / name).glob("**/*"):
            if file.is_file() and file.name not in ("zarr.json", ".zarray", "0.0.0") and file.parts[-3:] != ("0",) * 3:
                file.unlink()
        voxels[voxels == 0] = 7
    base = Base.find(f"{web[0]}/{name}" if over_http else str(tmp_path / name))
    assert base.fill == (7 if more else 0)
    np.testing.assert_array_equal(base.read(0, *base.extents()), voxels)


@pytest.mark.parametrize("writer", WRITERS, ids=lambda w: w.__name__)
@pytest.mark.parametrize("over_http", [False, True], ids=["disk", "http"])
def test_a_volume_that_went_away_is_no_background(tmp_path, web, voxels, writer, over_http, monkeypatch):
    name = writer(tmp_path, voxels)
    if writer is volumes.hdf5:  # read in large blocks, which are kept
        monkeypatch.setattr(readers, "CHECK_SECONDS", 0.0)
    base = Base.find(f"{web[0]}/{name}" if over_http else str(tmp_path / name))
    start = base.extents().start
    base.read(0, start, [v + 4 for v in start])
    (tmp_path / name).rename(tmp_path / "elsewhere")
    far = [v - 4 for v in base.extents().stop]
    with pytest.raises((BrokenBase, Unavailable)):
        base.read(0, far, base.extents().stop)
    with pytest.raises(BrokenBase, match="gone"):
        base.check()
    (tmp_path / "elsewhere").rename(tmp_path / name)
    check_all(base, voxels, writer)


@pytest.mark.parametrize("change", ["shape", "dtype", "chunk"])
@pytest.mark.parametrize("writer", [volumes.zarr2, volumes.n5, volumes.precomputed, volumes.hdf5])
def test_a_volume_that_became_another_one(tmp_path, voxels, writer, change):
    name = writer(tmp_path, voxels)
    base = Base.find(str(tmp_path / name))
    box = base.extents()
    shutil.rmtree(tmp_path / name) if (tmp_path / name).is_dir() else (tmp_path / name).unlink()
    if change == "chunk":
        if writer is not volumes.zarr2:
            pytest.skip("chunks are the writers' own")
        volumes.zarr2(tmp_path, voxels, chunk=8)
    else:
        writer(tmp_path, voxels[:32] if change == "shape" else voxels.astype(np.uint16))
    for _ in range(2):
        with pytest.raises(BrokenBase, match="no longer what was adopted"):
            base.read(0, box.start, [v + 1 for v in box.start])
    new = Base.find(str(tmp_path / name))
    assert new != base
    new.read(0, *new.extents())


def test_a_change_over_http_is_noticed_in_time(tmp_path, web, voxels, monkeypatch):
    name = volumes.zarr3(tmp_path, voxels)
    base = Base.find(f"{web[0]}/{name}")
    base.read(0, (0, 0, 0), (2, 2, 2))
    shutil.rmtree(tmp_path / name)
    volumes.zarr3(tmp_path, voxels.astype(np.uint16))
    monkeypatch.setattr(readers, "CHECK_SECONDS", 0.0)
    with pytest.raises(BrokenBase, match="uint16"):
        base.read(0, (0, 0, 0), (2, 2, 2))


def test_more_attributes_are_no_change(tmp_path, voxels):
    name = volumes.precomputed(tmp_path, voxels)
    base = Base.find(str(tmp_path / name))
    info = json.loads((tmp_path / name / "info").read_text())
    (tmp_path / name / "info").write_text(json.dumps({**info, "mesh": "mesh"}))
    check_all(base, voxels, volumes.precomputed)


def test_a_damaged_chunk_says_so(tmp_path, voxels):
    name = volumes.zarr3(tmp_path, voxels)
    (tmp_path / name / "c" / "0" / "0" / "0").write_bytes(b"nonsense")
    base = Base.find(str(tmp_path / name))
    with pytest.raises(BrokenBase, match="damaged"):
        base.read(0, (0, 0, 0), (2, 2, 2))
    base.read(0, (0, 0, 16), (2, 2, 18))


# ------------------------------------------------------------------ stores that fail


@pytest.mark.parametrize("status", [403, 429, 500, 503])
def test_a_failing_store_is_no_background(tmp_path, web, voxels, status):
    url, faults = web
    base = Base.find(f"{url}/{volumes.zarr3(tmp_path, voxels)}")
    faults.matching, faults.status = "/c/", status
    with pytest.raises(Unavailable, match=str(status)):
        base.read(0, (0, 0, 0), (2, 2, 2))
    faults.heal()
    np.testing.assert_array_equal(base.read(0, (0, 0, 0), (2, 2, 2)), voxels[:2, :2, :2])


def test_a_store_that_fails_now_and_then_is_asked_again(tmp_path, web, voxels):
    url, faults = web
    base = Base.find(f"{url}/{volumes.zarr3(tmp_path, voxels)}")
    faults.matching, faults.status, faults.times = "/c/", 503, 2
    np.testing.assert_array_equal(base.read(0, (0, 0, 0), (2, 2, 2)), voxels[:2, :2, :2])
    assert faults.times == 0


@pytest.mark.parametrize("writer", [volumes.zarr3, volumes.precomputed, volumes.hdf5])
def test_a_store_that_breaks_off(tmp_path, web, voxels, writer, monkeypatch):
    quick(monkeypatch, 3)
    url, faults = web
    name = writer(tmp_path, voxels)
    faults.matching, faults.broken = r"v\.h5|/c/|8_8", True
    with pytest.raises(Unavailable):
        Base.find(f"{url}/{name}").read(0, (8, 0, 16), (40, 46, 61))


def test_a_silent_store_is_given_up(tmp_path, web, voxels, monkeypatch):
    quick(monkeypatch)
    url, faults = web
    base = Base.find(f"{url}/{volumes.zarr3(tmp_path, voxels)}")
    faults.delay = 60
    began = time.monotonic()
    with pytest.raises(Unavailable, match="in time"):
        base.read(0, (0, 0, 0), (2, 2, 2))
    assert time.monotonic() - began < 10
    faults.heal()
    np.testing.assert_array_equal(base.read(0, (20, 20, 20), (22, 22, 22)), voxels[20:22, 20:22, 20:22])


def test_a_silent_store_does_not_hold_all_threads(tmp_path, web, voxels, monkeypatch):
    quick(monkeypatch, 2)
    monkeypatch.setattr(remote, "WAIT_SECONDS", 0.1)
    monkeypatch.setattr(remote, "_slots", threading.BoundedSemaphore(2))
    url, faults = web
    base = Base.find(f"{url}/{volumes.zarr3(tmp_path, voxels)}")
    local = Base.find(str(tmp_path / "v.zarr"))
    faults.matching, faults.delay = "/c/", 60
    outcomes = []

    def read(i):
        try:
            base.read(0, (0, 0, i), (1, 1, i + 1))
        except (Unavailable, TooBusy) as e:
            outcomes.append(type(e))

    threads = [threading.Thread(target=read, args=(i * 10,)) for i in range(5)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    np.testing.assert_array_equal(local.read(0, (0, 0, 0), (2, 2, 2)), voxels[:2, :2, :2])
    for thread in threads:
        thread.join()
    assert sorted(t.__name__ for t in outcomes) == ["TooBusy"] * 3 + ["Unavailable"] * 2


def test_a_server_that_is_down(tmp_path, voxels):
    volumes.zarr3(tmp_path, voxels)
    with serving(tmp_path) as (url, _):
        base = Base.find(f"{url}/v.zarr")
    with pytest.raises(Unavailable):
        base.read(0, (0, 0, 0), (2, 2, 2))
    with pytest.raises(Unavailable):
        Base.find(f"{url}/v.zarr?another")


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("url", "options", "error", "message"),
    [
        ("/nowhere/v.zarr", {}, NotFound, "no volume"),
        ("/nowhere/v.h5", {}, NotFound, "no such file"),
        ("/nowhere/v.h5", {"dataset": "a"}, NotFound, "no volume"),
        ("zarr3:///nowhere", {}, NotFound, "zarr.json"),
        ("ftps://x/y", {}, BadRequest, "ftps"),
        ("s3://bucket/a?nonsense=1", {}, BadRequest, "nonsense"),
        ("http://h/a|zip:b|zarr3:", {}, BadRequest, "zip"),
        ({"driver": "nonsense"}, {}, (BadRequest, BrokenBase, Unavailable), "nonsense"),
    ],
)
def test_nothing_there(url, options, error, message):
    with pytest.raises(error, match=message):
        Base.find(url, **options)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("zarr.json", "[1, 2]", "no JSON object"),
        ("zarr.json", "{", "no JSON"),
        ("info", '{"scales": []}', "no scales"),
        ("info", '{"scales": [{"key": "../../etc", "resolution": [1, 1, 1]}]}', "leads out"),
        ("info", '{"scales": [{"resolution": 3}]}', "can't be understood"),
        ("zarr.json", '{"node_type": "group", "attributes": {}}', "without multiscales"),
        (
            "zarr.json",
            '{"node_type": "group", "attributes": {"ome": {"multiscales": [{"axes": [{"name": "z"}, {"name": "y"}, '
            '{"name": "x"}], "datasets": [{"path": "../other", "coordinateTransformations": []}]}]}}}',
            "leads out",
        ),
        ("attributes.json", '{"n5": "2.0"}', "without s0"),
    ],
)
def test_metadata_that_mean_no_volume(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises((BadRequest, BrokenBase), match=message):
        Base.find(str(tmp_path))


def test_data_in_other_files_is_refused(tmp_path, voxels):
    """Such a file may name any file of the machine that serves it."""
    volumes.hdf5(tmp_path, voxels)
    layout = h5py.VirtualLayout(voxels.shape, voxels.dtype)
    layout[:] = h5py.VirtualSource(str(tmp_path / "v.h5"), "em/gray", voxels.shape)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file.create_virtual_dataset("virtual", layout)
        file["link"] = h5py.ExternalLink(str(tmp_path / "v.h5"), "em/gray")
        (tmp_path / "raw.bin").write_bytes(voxels.tobytes())
        file.create_dataset("raw", voxels.shape, "u1", external=[(str(tmp_path / "raw.bin"), 0, voxels.size)])
    for dataset in ("virtual", "link", "raw"):
        with pytest.raises(BadRequest, match="other files"):
            Base.find(str(tmp_path / "other.h5"), dataset=dataset)


def test_coordinates_that_do_not_fit(tmp_path, voxels):
    name = volumes.zarr3(tmp_path, voxels)
    with pytest.raises(BadRequest, match="outside the coordinates"):
        Base.find(str(tmp_path / name), offset=(0, 0, 2**31 - 3))


def test_what_is_stored_is_checked_when_it_is_read_back(tmp_path, voxels):
    held = Base.find(str(tmp_path / volumes.zarr3(tmp_path, voxels))).to_json()
    with pytest.raises(BadRequest, match="no description"):
        Base.of({**held, "levels": 3})
    assert msgspec.json.decode(msgspec.json.encode(held)) == json.loads(json.dumps(held))


def test_secrets_of_urls_are_not_told(tmp_path, web, voxels):
    url, faults = web
    base = Base.find(f"{url}/{volumes.zarr3(tmp_path, voxels)}?signature=abc")
    assert "abc" not in base.shown_url
    np.testing.assert_array_equal(base.read(0, (0, 0, 0), (2, 2, 2)), voxels[:2, :2, :2])
    assert any("signature=abc" in r for r in faults.requests)
    faults.status = 403
    with pytest.raises(Unavailable) as caught:
        base.check()
    assert "abc" not in str(caught.value)


def test_buckets_by_url():
    assert kvstore_spec("gs://bucket/a/") == {"driver": "gcs", "bucket": "bucket", "path": "a/"}
    assert kvstore_spec("s3://bucket/a/?endpoint=http://h:1&region=us-east-1&anonymous=1") == {
        "driver": "s3", "bucket": "bucket", "path": "a/", "endpoint": "http://h:1", "aws_region": "us-east-1",
        "aws_credentials": {"type": "anonymous"},
    }  # fmt: skip


def test_a_bucket_of_s3(voxels, tmp_path):
    """A local server of the S3 protocol: tensorstore for zarr, fsspec for HDF5."""
    boto3 = pytest.importorskip("boto3")
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer

    pytest.importorskip("moto")
    server = ThreadedMotoServer(port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        client = boto3.client(
            "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
        )
        client.create_bucket(Bucket="volumes")
        name = volumes.zarr3(tmp_path, voxels)
        for file in (tmp_path / name).glob("**/*"):
            if file.is_file():
                client.put_object(
                    Bucket="volumes",
                    Key=file.relative_to(tmp_path).as_posix(),
                    Body=file.read_bytes(),
                    ACL="public-read",
                )
        base = Base.find(f"s3://volumes/{name}?endpoint={endpoint}&region=us-east-1&anonymous=1")
        np.testing.assert_array_equal(base.read(0, *base.extents()), voxels)
    finally:
        server.stop()


# ------------------------------------------------------------------ fsspec, forks, missing chunks


def test_a_file_system_that_only_fsspec_knows(voxels):
    import fsspec

    memory = fsspec.filesystem("memory")
    store = zarr.storage.FsspecStore.from_url("memory://adopted/v.zarr")
    array = zarr.create_array(store, shape=SHAPE, chunks=(16, 16, 16), dtype="u1", dimension_names=["z", "y", "x"])
    array[:] = voxels
    base = Base.find("memory://adopted/v.zarr")
    np.testing.assert_array_equal(base.read(0, (1, 2, 3), (30, 31, 32)), voxels[1:30, 2:31, 3:32])
    memory.rm("/adopted", recursive=True)
    with pytest.raises(BrokenBase, match="gone"):
        base.read(0, (1, 2, 3), (30, 31, 32))


def test_a_fork_says_that_it_is_one(tmp_path, voxels):
    name = volumes.zarr3(tmp_path, voxels)
    script = f"""
        import os, sys
        from dvid_dask.bases import Base
        from dvid_dask.errors import Unavailable

        base = Base.find({str(tmp_path / name)!r})
        base.read(0, (0, 0, 0), (1, 1, 1))
        if os.fork() == 0:
            try:
                base.read(0, (0, 0, 0), (1, 1, 1))
            except Unavailable as e:
                os._exit(7 if "fork" in str(e) else 8)
            os._exit(9)
        print(os.waitstatus_to_exitcode(os.wait()[1]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "7"


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_chunks_that_may_be_missing(data):
    """Against a loop over all chunks."""
    point = st.tuples(*[st.integers(1, 5)] * 3)
    start, size, chunk = data.draw(st.tuples(*[st.integers(-4, 4)] * 3)), data.draw(point), data.draw(point)
    shape = readers.Shape("uint8", start, (20, 20, 20), chunk)
    box = Box.of_shape(size).shift(start).shift(data.draw(point))
    seed = data.draw(st.integers(0, 1000))
    out = np.random.default_rng(seed).integers(0, 4, box.shape, dtype=np.uint8) // 3
    pieces = box.relative(start).split(chunk)
    expected = any(not out[p.shift(start).relative(box.start).slices()].any() for p in pieces)
    assert readers._may_be_missing(out, box, shape) == expected


def test_many_threads_read_while_arrays_are_closed(tmp_path, voxels):
    """Also more arrays than are kept open."""
    bases = [Base.find(str(tmp_path / volumes.hdf5(tmp_path, voxels)))]
    for i in range(3):
        (tmp_path / str(i)).mkdir()
        bases.append(Base.find(str(tmp_path / str(i) / volumes.zarr3(tmp_path / str(i), voxels))))
    failed = []

    def read(seed):
        rng = np.random.default_rng(seed)
        for _ in range(60):
            base = bases[rng.integers(len(bases))]
            start = [int(rng.integers(0, n - 1)) for n in SHAPE]
            stop = [int(rng.integers(a + 1, n + 1)) for a, n in zip(start, SHAPE, strict=True)]
            if rng.random() < 0.1:
                readers.forget()
            if not np.array_equal(base.read(0, start, stop), voxels[Box.of(start, stop).slices()]):
                failed.append((start, stop))

    threads = [threading.Thread(target=read, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
