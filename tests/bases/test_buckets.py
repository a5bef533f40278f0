"""Volumes in buckets: read, gone, refused, failing, silent. `gs://` and `s3://` by servers of their protocols."""

from __future__ import annotations

import itertools
import shutil
import time

import numpy as np
import pytest

import dvid_dask
from dvid_dask import ops
from dvid_dask.bases import Base, readers, remote
from dvid_dask.errors import BrokenBase, NotFound, Unavailable

from . import volumes
from .server import serving

SHAPE = (40, 50, 61)
_serial = itertools.count()


class Gs:
    """A folder of a bucket of Google's."""

    def __init__(self, server, folder):
        self.server, self.folder, self.prefix = server, folder, f"bases-{next(_serial)}/"
        self.faults = server.faults

    def url(self, name):
        return f"gs://bucket/{self.prefix}{name}"

    def upload(self):
        self.server.put_folder(self.folder, self.prefix)

    def remove(self, name):
        return self.server.remove(self.prefix + name)

    def put_back(self, removed):
        with self.server.bucket.lock:
            self.server.bucket.objects.update(removed)


class S3:
    """A folder behind what `s3://` asks of a public bucket."""

    def __init__(self, served, folder):
        (self.address, self.faults), self.folder = served, folder / "bucket"
        self.folder.mkdir()

    def url(self, name):
        return f"s3://bucket/{name}?endpoint={self.address}&region=us-east-1&anonymous=1"

    def upload(self):
        pass

    def remove(self, name):
        aside = self.folder / f"aside{next(_serial)}"
        shutil.move(self.folder / name, aside)
        return aside, self.folder / name

    def put_back(self, removed):
        shutil.move(*removed)


@pytest.fixture(params=["gs", "s3"])
def bucket(request, tmp_path):
    if request.param == "gs":
        server = request.getfixturevalue("gcs_server")
        yield Gs(server, tmp_path)
        server.faults.heal()
        return
    with serving(tmp_path) as served:
        yield S3(served, tmp_path)


@pytest.fixture
def voxels():
    return np.random.default_rng(0).integers(1, 255, SHAPE, dtype=np.uint8)


def put(bucket, writer, voxels):
    """Write a volume into the bucket; its URL."""
    name = writer(bucket.folder, voxels)
    bucket.upload()
    return bucket.url(name), name


@pytest.mark.parametrize(
    "writer", [volumes.zarr2, volumes.zarr3_sharded, volumes.ome5, volumes.n5, volumes.precomputed_sharded]
)
def test_formats(bucket, voxels, writer):
    base = Base.find(put(bucket, writer, voxels)[0])
    assert base.remote
    start, stop = base.extents()
    np.testing.assert_array_equal(base.read(0, start, stop), voxels)
    assert Base.of(base.to_json()) == base


def test_an_adopted_image_and_what_becomes_of_it(bucket, voxels, monkeypatch):
    monkeypatch.setattr(readers, "CHECK_SECONDS", 0.0)
    url, name = put(bucket, volumes.zarr3, voxels)
    repo = dvid_dask.create("memory://", compact="never").new_repo()
    image = ops.adopt(url, repo["master"], "em", settings={"BlockSize": "16,16,16"})
    image[0:16, 0:16, 0:16] = 7
    np.testing.assert_array_equal(image.read_box((0, 0, 16), (40, 50, 45)), voxels[:, :, 16:])
    # one object that vanishes is a chunk never written: zarr can't tell, and the fill value is what it says
    readers.forget()
    chunk = bucket.remove(f"{name}/c/1/1/1")
    assert not image.read_box((16, 16, 16), (16, 16, 16)).any()
    bucket.put_back(chunk)
    # all of it gone is no background
    readers.forget()
    whole = bucket.remove(name)
    with pytest.raises(BrokenBase, match="gone"):
        image.read_box((16, 16, 16), (16, 16, 16))
    assert (image.read_box((0, 0, 0), (16, 16, 16)) == 7).all()
    with pytest.raises(NotFound):
        Base.find(url)
    bucket.put_back(whole)
    np.testing.assert_array_equal(image.read_box((16, 16, 16), (16, 16, 16)), voxels[16:32, 16:32, 16:32])


def test_an_adopted_segmentation(bucket, monkeypatch):
    monkeypatch.setattr(readers, "CHECK_SECONDS", 0.0)
    labels = np.random.default_rng(1).integers(1, 50, (4, 5, 6)).repeat(8, 0).repeat(8, 1).repeat(8, 2)
    url, name = put(bucket, volumes.precomputed_sharded, labels.astype(np.uint64))
    repo = dvid_dask.create("memory://", compact="never").new_repo()
    seg = ops.adopt(url, repo["master"], "seg", settings={"BlockSize": "16,16,16"}, progress=False)
    start, shape = seg.extents.start, seg.extents.shape
    np.testing.assert_array_equal(seg.read(start, shape), labels)
    body, other = np.unique(labels)[:2].tolist()
    seg.merge(body, [other])
    np.testing.assert_array_equal(seg.read(start, shape), np.where(labels == other, body, labels))
    readers.forget()
    whole = bucket.remove(name)
    with pytest.raises(BrokenBase, match="gone"):
        seg.read(start, shape)
    # what the index knows needs no voxel
    assert sum(seg.size(b) for b in seg.bodies()) == labels.size
    bucket.put_back(whole)
    assert seg.read(start, shape)[0, 0, 0] in labels


@pytest.mark.parametrize(
    ("writer", "status"),
    [
        (volumes.zarr3, 401),
        (volumes.precomputed_sharded, 403),
        (volumes.zarr3, 429),
        (volumes.precomputed_sharded, 503),
    ],
)
def test_a_bucket_that_refuses_or_fails_is_no_background(bucket, voxels, writer, status):
    url, _ = put(bucket, writer, voxels)
    base = Base.find(url)
    bucket.faults.matching, bucket.faults.status = r"/c/|\.shard|8_8_8/", status
    start, stop = base.extents()
    with pytest.raises(Unavailable, match=str(status)):
        base.read(0, start, [v + 2 for v in start])
    bucket.faults.matching = ""
    readers.forget()
    with pytest.raises(Unavailable, match=str(status)):
        Base.find(url)
    bucket.faults.heal()
    np.testing.assert_array_equal(base.read(0, start, stop), voxels)


def test_a_bucket_that_fails_now_and_then_is_asked_again(bucket, voxels):
    base = Base.find(put(bucket, volumes.zarr3, voxels)[0])
    bucket.faults.matching, bucket.faults.status, bucket.faults.times = "/c/", 503, 2
    np.testing.assert_array_equal(base.read(0, (0, 0, 0), (2, 2, 2)), voxels[:2, :2, :2])
    assert bucket.faults.times == 0


def test_a_slow_bucket_is_waited_for_and_a_silent_one_given_up(bucket, voxels, monkeypatch):
    base = Base.find(put(bucket, volumes.zarr3, voxels)[0])
    bucket.faults.matching, bucket.faults.delay, bucket.faults.times = "/c/", 0.3, 1
    np.testing.assert_array_equal(base.read(0, (0, 0, 0), (2, 2, 2)), voxels[:2, :2, :2])
    bucket.faults.delay, bucket.faults.times = 60, None
    monkeypatch.setattr(remote, "READ_SECONDS", 0.5)
    began = time.monotonic()
    with pytest.raises(Unavailable, match="in time"):
        base.read(0, (20, 20, 20), (22, 22, 22))
    assert time.monotonic() - began < 10
    bucket.faults.heal()
    np.testing.assert_array_equal(base.read(0, (20, 20, 20), (22, 22, 22)), voxels[20:22, 20:22, 20:22])
