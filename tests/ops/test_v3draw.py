"""V3D raw files into multichan16, at every alignment of blocks and bricks."""

import struct

import numpy as np
import pytest

from dvid_dask import ops
from dvid_dask.errors import BadRequest, LockedVersion
from dvid_dask.ops import v3draw as module


def stack(path, shape, dtype="<u2", seed=0, order="L"):
    """Write a file; returns its voxels (channel, z, y, x)."""
    voxels = np.random.default_rng(seed).integers(5, 200, shape).astype(dtype)
    size = np.dtype(dtype).itemsize
    head = b"raw_image_stack_by_hpeng" + order.encode()
    head += struct.pack({"L": "<", "B": ">"}[order] + "H4I", size, *shape[::-1])
    path.write_bytes(head + voxels.tobytes())
    return voxels


@pytest.mark.parametrize(
    ("shape", "dtype", "order"),
    [
        ((3, 20, 35, 40), "<u2", "L"),
        ((1, 16, 16, 16), "u1", "L"),
        ((2, 5, 70, 9), ">u2", "B"),
        ((5, 17, 8, 33), "u1", "B"),
    ],
)
def test_all_voxels_of_all_channels(repo, tmp_path, monkeypatch, shape, dtype, order):
    monkeypatch.setattr(module, "_BRICK_BYTES", 1)
    voxels = stack(tmp_path / "a.v3draw", shape, dtype, order=order)
    target = repo.new_instance("multichan16", "m", {"BlockSize": "16,8,8"})
    report = ops.load_v3draw(str(tmp_path / "a.v3draw"), target, progress=False)
    assert (report.channels, report.shape) == (shape[0], shape[1:])
    loaded = repo["master"]["m"]
    found = loaded.read_box((0, 0, 0), shape[1:])
    np.testing.assert_array_equal(found, voxels[0] if shape[0] == 1 else np.moveaxis(voxels, 0, -1))
    assert loaded.extents == ((0, 0, 0), shape[1:])
    assert loaded.ranges == [(int(c.min()), int(c.max())) for c in voxels]
    assert loaded.dtype == np.dtype(dtype).newbyteorder("=")
    # beyond the volume, within its last blocks
    assert not loaded.read_box((0, 0, shape[3]), (2, 2, 40)).any()
    assert next(iter(loaded.mutations()))["Action"] == "load-v3draw"
    assert not ops.unfinished_jobs(loaded)


def test_the_composite_stretches_each_channel(repo, tmp_path):
    voxels = stack(tmp_path / "a.raw", (4, 4, 8, 8))
    target = repo.new_instance("multichan16", "m", {"BlockSize": "8,8,8"})
    ops.load_v3draw(str(tmp_path / "a.raw"), target, progress=False)
    found = target.composite((0, 2), (8, 4), (0, 3, 0))
    for i in range(3):
        low, high = int(voxels[i].min()), int(voxels[i].max())
        np.testing.assert_array_equal(found[..., i], 255 * (voxels[i, :, 3].astype(int) - low) // (high - low))
    assert (found[..., 3] == 255).all()


def test_files_that_are_refused_change_nothing(repo, tmp_path):
    target = repo.new_instance("multichan16", "m")
    stack(tmp_path / "good.raw", (2, 4, 8, 8))
    whole = (tmp_path / "good.raw").read_bytes()
    (tmp_path / "short.raw").write_bytes(whole[:-1])
    (tmp_path / "other.raw").write_bytes(b"GIF89a" * 20)
    for name, words in (("short.raw", "cut off"), ("other.raw", "no V3D raw file"), ("nosuch.raw", "can't be read")):
        with pytest.raises(BadRequest, match=words):
            ops.load_v3draw(str(tmp_path / name), target, progress=False)
    assert target.extended()["NumChannels"] == 0
    ops.load_v3draw(str(tmp_path / "good.raw"), target, progress=False)
    stack(tmp_path / "more.raw", (3, 4, 8, 8))
    with pytest.raises(BadRequest, match="has 2 channels"):
        ops.load_v3draw(str(tmp_path / "more.raw"), target, progress=False)
    with pytest.raises(BadRequest, match="multichan16"):
        ops.load_v3draw(str(tmp_path / "good.raw"), repo.new_instance("uint8blk", "g"), progress=False)
    repo["master"].commit()
    with pytest.raises(LockedVersion):
        ops.load_v3draw(str(tmp_path / "good.raw"), target, progress=False)


def test_channels_that_are_refused(repo):
    target = repo.new_instance("multichan16", "m", {"BlockSize": "128,128,128"})
    for dtype, count, words in (
        ("float32", 1, "uint8 or uint16"),
        ("uint8", 0, "1 to 64"),
        ("uint16", 64, "BlockSize"),
    ):
        with pytest.raises(BadRequest, match=words):
            target.set_channels(dtype, count)
    with pytest.raises(BadRequest, match="no channels yet"):
        target.read_box((0, 0, 0), (1, 1, 1))
    with pytest.raises(BadRequest, match="JPEG|jpeg"):
        repo.new_instance("multichan16", "j", {"Compression": "jpeg"})


def test_coarser_scales_of_channels(repo, tmp_path):
    voxels = stack(tmp_path / "a.raw", (3, 9, 16, 20), "u1")
    target = repo.new_instance("multichan16", "m", {"BlockSize": "8,8,8"})
    ops.load_v3draw(str(tmp_path / "a.raw"), target, progress=False)
    target = repo["master"]["m"]
    ops.downres(target, scales=1, progress=False)
    from dvid_dask.formats import downsample

    np.testing.assert_array_equal(
        target.read_box((0, 0, 0), (5, 8, 10), scale=1), downsample.mean(np.moveaxis(voxels, 0, -1))
    )
