"""Tiles of whole images against a dense model; regions of what holds something."""

import numpy as np
import pytest

from dvid_dask import ops
from dvid_dask.datatypes.imagetile import Level, Levels
from dvid_dask.errors import BadRequest, LockedVersion
from dvid_dask.formats import downsample
from dvid_dask.formats.images import container
from dvid_dask.ops import tiles as module

OFFSET = (-5, 3, 40)  # z, y, x


@pytest.fixture
def image(repo):
    image = repo.new_instance("uint16blk", "image", {"BlockSize": "16,16,4"})
    image.write(np.random.default_rng(0).integers(0, 60000, (11, 40, 70), dtype=np.uint16), OFFSET)
    return image


def levels(side, *steps):
    made, resolution = [Level((8.0, 8.0, 8.0), (side,) * 3)], (8.0, 8.0, 8.0)
    for step in steps:
        resolution = tuple(r * s for r, s in zip(resolution, step, strict=True))
        made.append(Level(resolution, (side,) * 3))
    return Levels(tuple(made))


def check(tiles, image, scales, planes, normals=None):
    """Every tile of every plane and scale is the shrunk slice, and outside there are none."""
    side = scales[0].tile_size[0]
    low, high = (tuple(reversed(corner)) for corner in image.extents)
    count = 0
    for plane in planes:
        across, down = ("xyz".index(letter) for letter in plane)
        normal = 3 - across - down
        for at in range(*(normals or (low[normal], high[normal]))):
            # the slice from well before the image to well behind it, on a corner of tiles of every scale
            origin = -side * 8
            start, size = [0, 0, 0], side * 16
            start[across] = start[down] = origin
            start[normal] = at
            picture = image.read_slice((across, down), (size, size), start[::-1])
            for scale in range(len(scales.levels)):
                voxels = scales.voxels(scale)
                if scale:
                    step = scales.factors(scale - 1)
                    picture = downsample.mean(picture[None], (1, step[down], step[across]))[0]
                for i in range(-1, 7):
                    for j in range(-1, 4):
                        coord = [0, 0, 0]
                        coord[across], coord[down], coord[normal] = i, j, at
                        inside = all(
                            t * side * voxels[axis] < high[axis] and (t + 1) * side * voxels[axis] > low[axis]
                            for t, axis in ((i, across), (j, down))
                        )
                        found = tiles.get(plane, scale, coord)
                        assert (found is not None) == inside, (plane, scale, coord)
                        if inside:
                            x, y = i * side - origin // voxels[across], j * side - origin // voxels[down]
                            expected = picture[y : y + side, x : x + side]
                            np.testing.assert_array_equal(tiles.picture(plane, scale, coord), container(expected))
                            count += 1
    return count


@pytest.mark.parametrize("task_bytes", [1, 1 << 26], ids=["a scale a phase", "all in one"])
def test_all_tiles_of_all_planes_and_scales(repo, image, monkeypatch, task_bytes):
    monkeypatch.setattr(module, "_TASK_BYTES", task_bytes)
    scales = levels(16, (2, 2, 2), (2, 1, 4))
    tiles = repo.new_instance("imagetile", "tiles", {"Source": "image"})
    report = ops.generate_tiles(tiles, levels=scales, progress=False)
    tiles = repo["master"]["tiles"]
    assert tiles.levels == scales
    assert check(tiles, image, scales, ("xy", "xz", "yz")) == report.tiles
    assert not list(tiles.view(0).keys(b"J"))
    assert next(iter(tiles.mutations()))["Action"] == "generate-tiles"


def test_ranges_and_planes(repo, image):
    tiles = repo.new_instance("imagetile", "tiles", {"Source": "image"})
    tiles.set_levels(levels(32, (2, 2, 2)))
    report = ops.generate_tiles(tiles, planes=["yz"], ranges={"x": (50, 53)}, progress=False)
    assert check(tiles, image, tiles.levels, ("yz",), (50, 53)) == report.tiles > 0
    assert tiles.get("yz", 0, (53, 0, 0)) is None
    assert tiles.get("xy", 0, (2, 0, 0)) is None
    assert ops.generate_tiles(tiles, planes=["yz"], ranges={"x": (500, 530)}, progress=False).tiles == 0


@pytest.mark.parametrize("format", ["jpg", "lz4"])
def test_formats(repo, format):
    image = repo.new_instance("uint8blk", "image", {"BlockSize": "16,16,16"})
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8) * 3, (16, 64, 64))
    image.write(ramp, (0, 0, 0))
    tiles = repo.new_instance("imagetile", "tiles", {"Source": "image", "Format": format})
    ops.generate_tiles(tiles, planes=["xy"], levels=levels(32, (2, 2, 2)), progress=False)
    error = np.abs(tiles.picture("xy", 1, (0, 0, 3)).astype(int) - downsample.mean(ramp[3:4], (1, 2, 2))[0])
    assert error.max() <= (4 if format == "jpg" else 0)


def test_a_job_that_broke_off_goes_on(repo, image, monkeypatch):
    monkeypatch.setattr(module, "_TASK_BYTES", 1)
    tiles = repo.new_instance("imagetile", "tiles", {"Source": "image"})
    scales = levels(16, (2, 2, 2))
    made = module._Squares._tiles
    calls = []

    def flaky(self, *arguments):
        calls.append(self.phase)
        if len(calls) == 7:
            raise OSError("the machine went away")
        return made(self, *arguments)

    monkeypatch.setattr(module._Squares, "_tiles", flaky)
    with pytest.raises(OSError, match="went away"):
        ops.generate_tiles(tiles, levels=scales, progress=False)
    assert ops.unfinished_jobs(tiles)
    calls[:] = [""] * 10
    ops.generate_tiles(tiles, levels=scales, progress=False)
    squares = len(calls) - 10
    assert check(repo["master"]["tiles"], image, scales, ("xy", "xz", "yz"))
    # six squares were there already
    calls[:] = [""] * 10
    ops.generate_tiles(tiles, levels=scales, progress=False)
    assert len(calls) - 10 == squares + 6


def test_refusals(repo, image):
    tiles = repo.new_instance("imagetile", "tiles", {"Source": "image"})
    empty = repo.new_instance("uint8blk", "empty")
    of_empty = repo.new_instance("imagetile", "of-empty", {"Source": "empty"})
    uneven = Levels((Level((8, 8, 8), (16,) * 3), Level((16, 16, 16), (32,) * 3)))
    for target, options, words in (
        (image, {}, "kept in an imagetile"),
        (of_empty, {}, "no extents"),
        (tiles, {"planes": ["zz"]}, "planes are of"),
        (tiles, {"planes": []}, "planes are of"),
        (tiles, {"levels": uneven}, "same size"),
        (tiles, {"levels": levels(16, (3, 3, 3))}, "whole factors"),
        (repo.new_instance("imagetile", "none"), {}, "without a Source"),
    ):
        with pytest.raises(BadRequest, match=words):
            ops.generate_tiles(target, progress=False, **options)
    assert tiles.levels is None
    assert empty.extents is None
    repo["master"].commit()
    with pytest.raises(LockedVersion):
        ops.generate_tiles(tiles, progress=False)


# ------------------------------------------------------------------ regions


def test_foreground(repo, monkeypatch):
    from dvid_dask.ops import foreground

    monkeypatch.setattr(foreground, "_BLOCKS", 3)
    rng = np.random.default_rng(5)
    image = repo.new_instance("uint8blk", "image", {"BlockSize": "8,8,8", "Background": "3"})
    tissue = repo.new_instance("roi", "tissue", {"BlockSize": "8,8,8"})
    voxels = rng.integers(0, 3, (32, 24, 80), dtype=np.uint8)
    blocks = voxels.reshape(4, 8, 3, 8, 10, 8).swapaxes(1, 2).swapaxes(2, 4).swapaxes(3, 4)
    full = rng.random((4, 3, 10)) < 0.5
    blocks = voxels.reshape(4, 8, 3, 8, 10, 8)
    spot = rng.integers(0, 8, 3)
    blocks[:, spot[0], :, spot[1], :, spot[2]] = np.where(full, 9, 0)
    image.write(voxels, (-16, 0, 8))
    assert ops.foreground_roi(image, tissue, background=(0, 1, 2)) == full.sum()
    grid = np.indices((4, 3, 10)).reshape(3, -1).T
    np.testing.assert_array_equal(tissue.contains_blocks(grid + [-2, 0, 1]), full.reshape(-1))
    assert tissue.spans.shape[0] < full.sum()
    image.write(np.zeros_like(voxels), (-16, 0, 8))
    assert ops.foreground_roi(image, tissue) == 0
    assert not len(tissue.spans)


def test_foreground_refusals(repo):
    image = repo.new_instance("uint8blk", "image")
    tissue = repo.new_instance("roi", "tissue", {"BlockSize": "8,8,8"})
    colour = repo.new_instance("rgba8blk", "colour")
    same = repo.new_instance("roi", "same")
    for arguments, words in (
        ((image, tissue), "BlockSize"),
        ((colour, same), "one integer"),
        ((image, image), "not a roi"),
    ):
        with pytest.raises(BadRequest, match=words):
            ops.foreground_roi(*arguments)
    with pytest.raises(BadRequest, match="background"):
        ops.foreground_roi(image, same, background=(256,))
