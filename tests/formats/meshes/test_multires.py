"""Multi-resolution meshes, held against the rules of their specification."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvid_dask.formats.errors import FormatError
from dvid_dask.formats.meshes.mesh import Mesh, placed, simplified
from dvid_dask.formats.meshes.multires import (
    BITS,
    decode_fragments,
    decode_manifest,
    encode_multires,
    multires_info,
)
from tests.formats.meshes.test_surfaces import ball, surface_of, torus

trimesh = pytest.importorskip("trimesh")
DracoPy = pytest.importorskip("DracoPy")

CHUNK = (100, 160, 130)


def made(mask, origin=(0, 0, 0), levels=3, size=(10, 8, 8)):
    piece = surface_of(mask)
    piece = type(piece)(piece.vertices + origin, piece.faces, piece.made)
    return [placed(simplified(piece, 0.3 / 4**n), size) for n in range(levels)]


@pytest.fixture(scope="module", params=["ball", "torus, far and negative"])
def levels(request):
    if request.param == "ball":
        return made(ball(18, 40))
    return made(torus(18, 7, 56), origin=(-30, 1000, -7))


def pieces(manifest, data):
    """Level, position and Draco bytes of each fragment."""
    at = 0
    for level, (positions, sizes) in enumerate(zip(manifest.positions, manifest.sizes, strict=True)):
        for position, size in zip(positions.tolist(), sizes.tolist(), strict=True):
            yield level, position, data[at : at + size]
            at += size
    assert at == len(data)


def test_fragments_are_the_mesh(levels):
    encoded, data = encode_multires(levels, CHUNK, 8)
    manifest = decode_manifest(encoded)
    assert manifest.scales.tolist() == [8, 16, 32]
    np.testing.assert_array_equal(manifest.chunk_shape, np.array(CHUNK, np.float32))
    for level, mesh in enumerate(levels):
        found = decode_fragments(manifest, data, level)
        whole = trimesh.util.concatenate([trimesh.Trimesh(m.vertices, m.faces, process=False) for m in found])
        assert whole.area == pytest.approx(mesh.area, rel=1e-4)
        assert whole.volume == pytest.approx(mesh.volume, rel=1e-3)
        assert len(found) < len(decode_fragments(manifest, data, 0)) or level == 0


def test_positions_are_whole_numbers_of_the_type_that_neuroglancer_takes(levels):
    manifest, data = encode_multires(levels, CHUNK, 8)
    for level, _, piece in pieces(decode_manifest(manifest), data):
        held = DracoPy.decode(piece)
        (position,) = [a for a in held.attributes if a["attribute_type"] == 0]
        assert position["data_type"] == 5  # DT_INT32
        points = np.asarray(held.points)
        assert points.min() >= 0
        assert points.max() < 2**BITS
        if level:  # no triangle crosses the middle, where the decoder cuts it into eighths
            corners = points[held.faces].astype(int) - 2 ** (BITS - 1)
            assert not ((corners > 0).any(axis=1) & (corners < 0).any(axis=1)).any()


def test_fragments_are_in_z_order_and_within_their_boxes(levels):
    encoded, data = encode_multires(levels, CHUNK, 8)
    manifest = decode_manifest(encoded)
    for level, positions in enumerate(manifest.positions):
        codes = [
            int("".join(f"{z:08b}"[i] + f"{y:08b}"[i] + f"{x:08b}"[i] for i in range(8)), 2) for x, y, z in positions
        ]
        assert codes == sorted(set(codes))
        side = manifest.chunk_shape * 2**level
        for mesh, position in zip(decode_fragments(manifest, data, level), positions, strict=True):
            low = manifest.grid_origin + position * side
            assert (mesh.vertices >= low - 0.01).all()
            assert (mesh.vertices <= low + side + 0.01).all()
        # a coarse fragment covers the fine ones below it
        if level:
            finer = {tuple(p // 2) for p in manifest.positions[level - 1].tolist() for p in [np.array(p)]}
            assert finer & {tuple(p) for p in positions.tolist()}


def test_both_sides_of_a_cut_share_its_points(levels):
    """Fragments of a level, welded where they are equal up to rounding, are closed again."""
    encoded, data = encode_multires(levels[:1], (64, 64, 64), 8)
    found = decode_fragments(decode_manifest(encoded), data, 0)
    whole = trimesh.util.concatenate([trimesh.Trimesh(m.vertices, m.faces, process=False) for m in found])
    rounded = np.rint(whole.vertices / 0.02).astype(np.int64)
    _, which = np.unique(rounded, axis=0, return_inverse=True)
    faces = which.reshape(-1)[whole.faces]
    faces = faces[(faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])]
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    there, back = ({tuple(e) for e in side.tolist()} for side in (edges, edges[:, ::-1]))
    assert len(there - back) < 0.02 * len(there)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(*[st.integers(-8, 8)] * 9), min_size=1, max_size=6), st.integers(1, 5))
def test_any_triangles_keep_their_area(corners, side):
    """Corners on the planes, edges along them, flat triangles."""
    points = np.array(corners, np.float32).reshape(-1, 3)
    mesh = Mesh(points, np.arange(len(points), dtype=np.uint32).reshape(-1, 3))
    if mesh.area < 1e-3:
        return
    encoded, data = encode_multires([mesh, mesh], (side,) * 3, 1)
    manifest = decode_manifest(encoded)
    for level in (0, 1):
        assert sum(m.area for m in decode_fragments(manifest, data, level)) == pytest.approx(
            mesh.area, rel=1e-2, abs=0.02
        )


def test_bad_manifests(levels):
    encoded, data = encode_multires(levels, CHUNK, 8)
    for bad in (b"", encoded[:30], encoded[:-1], encoded + b"x", b"\xff" * 64):
        with pytest.raises(FormatError):
            decode_manifest(bad)
    with pytest.raises(FormatError):
        decode_fragments(decode_manifest(encoded), data[:-1], 2)


def test_info():
    info = multires_info()
    assert info["@type"] == "neuroglancer_multilod_draco"
    assert info["vertex_quantization_bits"] in (10, 16)
    assert len(info["transform"]) == 12
