"""Mesh files: written, read again, and refused where they are none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvid_dask.formats.errors import FormatError
from dvid_dask.formats.meshes import _libraries
from dvid_dask.formats.meshes.files import EXTENSIONS, decode, decode_ngmesh, encode
from dvid_dask.formats.meshes.mesh import placed, simplified
from tests.formats.meshes.test_surfaces import ball, surface_of

trimesh = pytest.importorskip("trimesh")
pytest.importorskip("DracoPy")


@pytest.fixture(scope="module")
def mesh():
    return placed(simplified(surface_of(ball(12, 30)), 0.2), (40, 8, 8))


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_what_is_written_is_read(mesh, extension):
    back = decode(encode(mesh, extension, 8), extension)
    assert len(back.faces) == len(mesh.faces)
    assert trimesh.Trimesh(back.vertices, back.faces, process=False).is_watertight
    assert back.volume == pytest.approx(mesh.volume, rel=0.005)
    for corner in ("min", "max"):
        ours, theirs = (getattr(m.vertices, corner)(axis=0) for m in (mesh, back))
        np.testing.assert_allclose(ours, theirs, atol=0 if extension in ("ngmesh", "ply") else 8 / 16)


def test_ngmesh_byte_for_byte(mesh):
    data = encode(mesh, "ngmesh", 8)
    assert int.from_bytes(data[:4], "little") == len(mesh.vertices)
    np.testing.assert_array_equal(np.frombuffer(data, "<f4", 3, 4), mesh.vertices[0])
    np.testing.assert_array_equal(np.frombuffer(data[-12:], "<u4"), mesh.faces[-1])
    assert len(data) == 4 + mesh.vertices.nbytes + mesh.faces.nbytes


def test_obj_is_text_that_counts_from_one(mesh):
    lines = encode(mesh, "obj", 8).decode().splitlines()
    kinds = [line.split()[0] for line in lines if line.strip()]
    assert (kinds.count("v"), kinds.count("f")) == (len(mesh.vertices), len(mesh.faces))
    corners = [int(c.split("/")[0]) for line in lines if line.startswith("f ") for c in line.split()[1:]]
    assert (min(corners), max(corners)) == (1, len(mesh.vertices))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_bytes_that_are_no_ngmesh(data):
    try:
        found = decode_ngmesh(data)
    except FormatError:
        return
    assert len(data) == 4 + 12 * len(found.vertices) + 12 * len(found.faces)


@pytest.mark.parametrize("extension", ["drc", "ngmesh", "ply"])
def test_what_is_no_such_file_is_refused(extension):
    for data in (b"", b"nonsense that is none", b"DRACO\x02\x02" + bytes(40)):
        with pytest.raises(FormatError):
            decode(data, extension)


def test_unknown_extensions(mesh):
    for call in (lambda: encode(mesh, "stl", 8), lambda: decode(b"", "stl")):
        with pytest.raises(ValueError, match="no format of meshes"):
            call()


def test_a_missing_library_is_named():
    with pytest.raises(ImportError, match=r"pip install 'dvid-dask\[mesh\]'"):
        _libraries.library("surely_not_installed.part")
