"""Neuroglancer's multi-resolution meshes: levels of detail, each cut into fragments along an octree.

A mesh is two byte strings. The *manifest* says where the fragments of each level lie; the *fragments* are Draco meshes
one after the other. Level 0 is the finest; fragments of level n are boxes of ``chunk_shape * 2^n``. Triangles are cut
where they cross from one fragment to the next and, but for level 0, where they cross the middle of a fragment, so that
a viewer may draw an eighth of it. Both sides of a cut get the same points.

The stored model's coordinates are nanometres, so ``transform`` is the identity.

Source: ``src/datasource/precomputed/meshes.md`` of google/neuroglancer, "Multi-resolution mesh format".
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.formats.distinct import numbered_rows
from dvid_dask.formats.errors import FormatError
from dvid_dask.formats.meshes._libraries import library
from dvid_dask.formats.meshes.mesh import Mesh

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BITS", "Manifest", "decode_fragments", "decode_manifest", "encode_multires", "multires_info"]

BITS = 16
"""Of a position within its fragment."""

_TOP = (1 << BITS) - 1
_MIDDLE = (_TOP // 2 + 1) / _TOP  # where neuroglancer's decoder cuts a fragment into eighths
_LEVEL = 7  # of Draco's 0 to 10


def multires_info(sharding: dict[str, Any] | None = None) -> dict[str, Any]:
    """The ``info`` of a folder of such meshes."""
    return {
        "@type": "neuroglancer_multilod_draco",
        "vertex_quantization_bits": BITS,
        "transform": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0],
        "lod_scale_multiplier": 1,
        **({} if sharding is None else {"sharding": sharding}),
    }


@dataclass(frozen=True)
class Manifest:
    """Where the fragments of a mesh lie.

    Attributes
    ----------
    chunk_shape, grid_origin
        float32 (3,) x, y, z in nanometres: a fragment of level 0, and where the octree begins.
    scales
        float32 (levels,): size in nanometres of what each level shows.
    positions
        For each level uint32 (n, 3): x, y, z of its fragments, in Z-curve order.
    sizes
        For each level uint32 (n,): bytes of its fragments.
    """

    chunk_shape: NDArray[np.float32]
    grid_origin: NDArray[np.float32]
    scales: NDArray[np.float32]
    positions: list[NDArray[np.uint32]]
    sizes: list[NDArray[np.uint32]]

    def encode(self) -> bytes:
        """As bytes."""
        levels = len(self.positions)
        parts = [
            self.chunk_shape.astype("<f4").tobytes(),
            self.grid_origin.astype("<f4").tobytes(),
            struct.pack("<I", levels),
            self.scales.astype("<f4").tobytes(),
            bytes(12 * levels),  # no level is shifted
            np.array([len(p) for p in self.positions], "<u4").tobytes(),
        ]
        for positions, sizes in zip(self.positions, self.sizes, strict=True):
            parts += [positions.T.astype("<u4").tobytes(), sizes.astype("<u4").tobytes()]
        return b"".join(parts)


def encode_multires(levels: Sequence[Mesh], chunk_nm: Sequence[float], voxel_nm: float) -> tuple[bytes, bytes]:
    """A mesh at several levels of detail.

    Parameters
    ----------
    levels
        The mesh, finest first; none of them empty.
    chunk_nm
        Size of a fragment of level 0 in nanometres, x, y, z.
    voxel_nm
        What level 0 shows: the size of a voxel. Each further level shows twice that.

    Returns
    -------
    manifest, fragments

    Raises
    ------
    ImportError
        DracoPy or trimesh isn't there.
    """
    chunk = np.asarray(chunk_nm, np.float32).astype(np.float64)
    low = np.min([mesh.vertices.min(axis=0) for mesh in levels], axis=0).astype(np.float64)
    origin = (np.floor(low / chunk) * chunk).astype(np.float32).astype(np.float64)
    positions: list[NDArray[np.uint32]] = []
    sizes: list[NDArray[np.uint32]] = []
    data: list[bytes] = []
    for level, mesh in enumerate(levels):
        side = chunk * 2**level
        cells = _cut(mesh, origin, side, halved=level > 0)
        order = sorted(cells, key=_z_curve)
        made = [_fragment(cells[cell], origin + np.array(cell) * side, side) for cell in order]
        kept = [(cell, piece) for cell, piece in zip(order, made, strict=True) if piece]
        positions.append(np.array([cell for cell, _ in kept], np.uint32).reshape(-1, 3))
        sizes.append(np.array([len(piece) for _, piece in kept], np.uint32))
        data += [piece for _, piece in kept]
    scales = np.array([voxel_nm * 2**level for level in range(len(levels))], np.float32)
    manifest = Manifest(chunk.astype(np.float32), origin.astype(np.float32), scales, positions, sizes)
    return manifest.encode(), b"".join(data)


def _z_curve(cell: tuple[int, int, int]) -> int:
    """Where a cell comes: bits of z, y and x interleaved, x lowest."""
    x, y, z = cell
    out = 0
    for bit in range(max(x, y, z).bit_length()):
        out |= (x >> bit & 1) << 3 * bit | (y >> bit & 1) << 3 * bit + 1 | (z >> bit & 1) << 3 * bit + 2
    return out


def _cut(
    mesh: Mesh, origin: NDArray[np.float64], side: NDArray[np.float64], *, halved: bool
) -> dict[tuple[int, int, int], tuple[NDArray[np.float64], NDArray[np.int64]]]:
    """A mesh cut into the cells of a grid; halved, into their eighths, which stay in one mesh."""
    parts: list[tuple[tuple[int, ...], NDArray[np.float64], NDArray[np.int64]]]
    parts = [((), mesh.vertices.astype(np.float64), mesh.faces.astype(np.int64))]
    for axis in range(3):
        parts = [
            ((*at, n), vertices, faces)
            for at, held, triangles in parts
            for n, vertices, faces in _slabs(held, triangles, axis, origin[axis], side[axis], halved)
        ]
    cells: dict[tuple[int, int, int], list[tuple[NDArray[np.float64], NDArray[np.int64]]]] = {}
    for at, vertices, faces in parts:
        x, y, z = at
        cell = (x // 2, y // 2, z // 2) if halved else (x, y, z)
        cells.setdefault(cell, []).append((vertices, faces))
    return {cell: _together(held) for cell, held in cells.items()}


def _slabs(
    vertices: NDArray[np.float64], faces: NDArray[np.int64], axis: int, origin: float, side: float, halved: bool
) -> list[tuple[int, NDArray[np.float64], NDArray[np.int64]]]:
    """The parts of triangles between planes across an axis, with the number of the slab."""
    low, high = vertices[:, axis].min() - origin, vertices[:, axis].max() - origin
    first, last = int(np.floor(low / side)), max(int(np.ceil(high / side)), int(np.floor(low / side)) + 1)
    planes = [origin + n * side for n in range(first + 1, last)]
    if halved:
        middles = [origin + (n + _MIDDLE) * side for n in range(first, last)]
        planes = [middles[0], *(p for pair in zip(planes, middles[1:], strict=True) for p in pair)]
        first *= 2
    out = []
    for n, plane in enumerate(planes, first):
        below, vertices, faces = _split(vertices, faces, axis, plane)
        if len(below[1]):
            out.append((n, *below))
        if not len(faces):
            return out
    return [*out, (first + len(planes), *_compact(vertices, faces))]


def _split(
    vertices: NDArray[np.float64], faces: NDArray[np.int64], axis: int, at: float
) -> tuple[tuple[NDArray[np.float64], NDArray[np.int64]], NDArray[np.float64], NDArray[np.int64]]:
    """Triangles below a plane, and those above it; the ones that cross it are cut."""
    height = vertices[faces][:, :, axis] - at
    up, down = (height > 0).any(axis=1), (height < 0).any(axis=1)
    lower, upper, crossing = faces[~up], faces[up & ~down], faces[up & down]
    if len(crossing):
        # one corner on its own side; turn it to the front
        sign = np.sign(vertices[crossing][:, :, axis] - at)
        flat = (sign == 0).any(axis=1)
        below, above, vertices = _cut_through(vertices, crossing[~flat], sign[~flat], axis, at)
        more_below, more_above, vertices = _cut_corner(vertices, crossing[flat], sign[flat], axis, at)
        lower = np.concatenate([lower, below, more_below])
        upper = np.concatenate([upper, above, more_above])
    return _compact(vertices, lower), vertices, upper


def _turned(faces: NDArray[np.int64], sign: NDArray[np.float64], first: NDArray[np.int64]) -> Any:
    """Triangles with another corner in front, and the signs of their corners."""
    index = (first[:, None] + np.arange(3)) % 3
    return np.take_along_axis(faces, index, 1), np.take_along_axis(sign, index, 1)


def _cut_through(
    vertices: NDArray[np.float64], faces: NDArray[np.int64], sign: NDArray[np.float64], axis: int, at: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Cut triangles with corners on both sides of a plane and none on it."""
    alone = np.argmax(sign == -np.sign(sign.sum(axis=1))[:, None], axis=1)
    (a, b, c), sign = (lambda t: (t[0].T, t[1]))(_turned(faces, sign, alone))
    ab, vertices = _points(vertices, a, b, axis, at)
    ac, vertices = _points(vertices, a, c, axis, at)
    tip = np.stack([a, ab, ac], axis=1)
    rest = np.concatenate([np.stack([ab, b, c], axis=1), np.stack([ab, c, ac], axis=1)])
    above = sign[:, 0] > 0
    both = np.concatenate([above, above])
    return np.concatenate([tip[~above], rest[both]]), np.concatenate([tip[above], rest[~both]]), vertices


def _cut_corner(
    vertices: NDArray[np.float64], faces: NDArray[np.int64], sign: NDArray[np.float64], axis: int, at: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Cut triangles with one corner on a plane and one on each side of it."""
    (a, b, c), sign = (lambda t: (t[0].T, t[1]))(_turned(faces, sign, np.argmax(sign == 0, axis=1)))
    bc, vertices = _points(vertices, b, c, axis, at)
    near, far = np.stack([a, b, bc], axis=1), np.stack([a, bc, c], axis=1)
    above = sign[:, 1] > 0
    return np.concatenate([near[~above], far[above]]), np.concatenate([near[above], far[~above]]), vertices


def _points(
    vertices: NDArray[np.float64], a: NDArray[np.int64], b: NDArray[np.int64], axis: int, at: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Where edges meet a plane, one new vertex for each edge, the same from both of its triangles."""
    edges = np.sort(np.stack([a, b], axis=1), axis=1)
    unique, which = numbered_rows(edges)
    p, q = vertices[unique[:, 0]], vertices[unique[:, 1]]
    share = (at - p[:, axis]) / (q[:, axis] - p[:, axis])
    made = p + share[:, None] * (q - p)
    made[:, axis] = at
    return which.reshape(-1) + len(vertices), np.concatenate([vertices, made])


def _compact(vertices: NDArray[np.float64], faces: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    used, which = np.unique(faces, return_inverse=True)
    return vertices[used], which.reshape(-1, 3)


def _together(
    parts: list[tuple[NDArray[np.float64], NDArray[np.int64]]],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    starts = np.cumsum([0, *(len(v) for v, _ in parts)])[:-1]
    return (
        np.concatenate([v for v, _ in parts]),
        np.concatenate([f + s for (_, f), s in zip(parts, starts, strict=True)]),
    )


def _fragment(
    piece: tuple[NDArray[np.float64], NDArray[np.int64]], origin: NDArray[np.float64], side: NDArray[np.float64]
) -> bytes:
    """The Draco mesh of a fragment, its positions whole numbers; nothing where rounding leaves no triangle."""
    rounded = np.clip(np.rint((piece[0] - origin) / side * _TOP), 0, _TOP)
    # neuroglancer's decoder takes no other type
    points, which = numbered_rows(rounded.astype(np.int32))
    faces = which.reshape(-1)[piece[1]]
    faces = faces[(faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])]
    if not len(faces):
        return b""
    used, which = np.unique(faces, return_inverse=True)
    data: bytes = library("DracoPy").encode(
        points[used], which.reshape(-1, 3).astype(np.uint32), compression_level=_LEVEL
    )
    return data


# ---------------------------------------------------------------------- reading


def decode_manifest(data: bytes) -> Manifest:
    """A manifest.

    Raises
    ------
    FormatError
        The bytes are none, or shift a level, which nothing here does.
    """
    try:
        chunk, origin = np.frombuffer(data, "<f4", 6).reshape(2, 3)
        (levels,) = struct.unpack_from("<I", data, 24)
        scales = np.frombuffer(data, "<f4", levels, 28)
        offsets = np.frombuffer(data, "<f4", 3 * levels, 28 + 4 * levels)
        counts = np.frombuffer(data, "<u4", levels, 28 + 16 * levels).tolist()
        at = 28 + 20 * levels
        positions: list[NDArray[np.uint32]] = []
        sizes: list[NDArray[np.uint32]] = []
        for count in counts:
            positions.append(np.frombuffer(data, "<u4", 3 * count, at).reshape(3, count).T)
            sizes.append(np.frombuffer(data, "<u4", count, at + 12 * count))
            at += 16 * count
    except (ValueError, struct.error) as error:
        raise FormatError(f"{len(data)} bytes are no manifest of a multi-resolution mesh: {error}") from None
    if at != len(data) or offsets.any():
        raise FormatError(f"a manifest of {at} bytes in {len(data)}, or with shifted levels")
    return Manifest(chunk, origin, scales, positions, sizes)


def decode_fragments(manifest: Manifest, data: bytes, level: int) -> list[Mesh]:
    """The fragments of a level, in nanometres.

    Raises
    ------
    FormatError
        There are fewer bytes than the manifest says.
    """
    at = sum(int(s.sum()) for s in manifest.sizes[:level])
    side = manifest.chunk_shape.astype(np.float64) * 2**level
    out = []
    for position, size in zip(manifest.positions[level], manifest.sizes[level].tolist(), strict=True):
        if at + size > len(data):
            raise FormatError(f"{len(data)} bytes of fragments end before one of level {level}")
        held = library("DracoPy").decode(data[at : at + size])
        corner = manifest.grid_origin + position * side
        vertices = corner + side * np.asarray(held.points, np.float64) / _TOP
        out.append(Mesh(vertices.astype(np.float32), np.asarray(held.faces, np.uint32)))
        at += size
    return out
