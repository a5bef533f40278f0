"""Meshes in folders as CloudVolume reads them: a reader of neuroglancer's formats that is not ours."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest

from dvid_dask import ops
from tests.ops.test_mesh import OFFSET, SIZE, scene

if importlib.util.find_spec("cloudvolume") is None:
    pytest.skip("CloudVolume is not installed: pip install 'dvid-dask[clients]'", allow_module_level=True)
trimesh = pytest.importorskip("trimesh")
for _name in ("skimage.measure", "pyfqmr", "DracoPy"):
    pytest.importorskip(_name)

BODIES = (7, 9, 11)

READ = """
import sys
import numpy as np
from cloudvolume import CloudVolume

volume = CloudVolume(sys.argv[1], progress=False)
out = {}
for body in map(int, sys.argv[3:]):
    mesh = volume.mesh.get(body)
    mesh = mesh[body] if isinstance(mesh, dict) else mesh
    out[f"v{body}"], out[f"f{body}"] = mesh.vertices, mesh.faces
np.savez(sys.argv[2], **out)
"""


@pytest.mark.parametrize("format", ["precomputed", "sharded", "legacy"])
def test_cloudvolume_reads_them(repo, tmp_path, format):
    seg = repo.new_instance(
        "labelmap", "segmentation", {"BlockSize": "16,16,16", "VoxelSize": "4,8,40", "MaxDownresLevel": "0"}
    )
    volume = scene()
    volume[volume == 8] = 7
    seg.write(volume, OFFSET)
    folder = tmp_path / "seg"
    ops.export(seg, str(folder), format="precomputed", progress=False)
    ops.mesh(seg, str(folder / "mesh"), format=format, keep=0.5, edge=32, progress=False)
    out = tmp_path / "read.npz"
    # in a process of its own: it brings gevent, and a configuration in the home folder
    env = {**os.environ, "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", READ, folder.as_uri(), out, *map(str, BODIES)], check=True, env=env)
    with np.load(out) as read:
        for body in BODIES:
            found = trimesh.Trimesh(read[f"v{body}"], read[f"f{body}"])
            # Draco keeps positions to a sixteenth of a voxel
            low, high = np.argwhere(volume == body).min(axis=0), np.argwhere(volume == body).max(axis=0) + 1
            step = np.array(SIZE)[::-1]
            np.testing.assert_allclose(found.bounds[0], (low + OFFSET)[::-1] * step, atol=0.51 * step.max())
            np.testing.assert_allclose(found.bounds[1], (high + OFFSET)[::-1] * step, atol=0.51 * step.max())
            if body == 11:
                continue  # single voxels
            whole = np.count_nonzero(volume == body) * np.prod(SIZE)
            assert found.volume == pytest.approx(whole, rel=0.05)
