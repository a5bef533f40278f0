"""A synthetic piece of neuropil: EM grayscale, supervoxels, the neuron each belongs to, and synapses.

Every voxel goes to the neurite whose surface is nearest (an additively weighted Voronoi diagram of the skeletons'
sites, bent by smooth noise), so that neurites tile the volume as they do in tissue. The same distances say how far the
next neurite is: that is where membranes go. Mitochondria, microtubules, endoplasmic reticulum, vesicles and
synaptic densities are drawn inside; blur, grain and uneven lighting finish the picture.
"""

from __future__ import annotations

import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from dvid_dask.demo.skeletons import STEP, Skeletons, grow
from dvid_dask.formats._jit import kernel

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["SYNAPSE", "Volume", "make_volume"]

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]

TILE = 8  # edge of a tile that shares one list of candidate sites
REGION = 32  # edge of a region whose tiles share a longer list
WARP_CELL = 8  # edge of a cell of the smooth noise that bends boundaries

SYNAPSE = np.dtype([("pre", "<i4", 3), ("post", "<i4", 3), ("pre_body", "<u8"), ("post_body", "<u8")])
"""One row a connection: places (z, y, x) and neurons on both sides. A presynaptic site has a row for each partner."""


class Volume(NamedTuple):
    """What `make_volume` returns."""

    gray: npt.NDArray[np.uint8]
    """EM grayscale, z y x."""
    supervoxels: npt.NDArray[np.uint64]
    """Supervoxel of every voxel, z y x; ids from 1, none is 0."""
    body_of: dict[int, int]
    """Neuron of each supervoxel; a neuron bears the id of its smallest supervoxel."""
    synapses: npt.NDArray[np.void]
    """Connections, rows of `SYNAPSE`."""


# ------------------------------------------------------------------ who owns a voxel


@kernel
def _smooth(grid: F32, channel: int, z: float, y: float, x: float, cell: float) -> float:
    """Trilinear value of a noise grid."""
    fz, fy, fx = z / cell, y / cell, x / cell
    i, j, k = int(fz), int(fy), int(fx)
    fz -= i
    fy -= j
    fx -= k
    g = grid[channel]
    a = g[i, j, k] * (1 - fx) + g[i, j, k + 1] * fx
    b = g[i, j + 1, k] * (1 - fx) + g[i, j + 1, k + 1] * fx
    c = g[i + 1, j, k] * (1 - fx) + g[i + 1, j, k + 1] * fx
    d = g[i + 1, j + 1, k] * (1 - fx) + g[i + 1, j + 1, k + 1] * fx
    return float((a * (1 - fy) + b * fy) * (1 - fz) + (c * (1 - fy) + d * fy) * fz)


@kernel
def _candidates(position: F32, radius: F32, neuron: I32, among: I32, centre: F32, half: float) -> I32:
    """Sites of `among` that may be nearest, or nearest of another neuron, somewhere in a ball around `centre`."""
    n = among.shape[0]
    d = np.empty(n, np.float32)
    first = np.float32(1e9)
    second = np.float32(1e9)
    first_neuron = -1
    for c in range(n):
        s = among[c]
        dz = position[s, 0] - centre[0]
        dy = position[s, 1] - centre[1]
        dx = position[s, 2] - centre[2]
        d[c] = np.sqrt(dz * dz + dy * dy + dx * dx) - radius[s]
        if neuron[s] == first_neuron:
            first = min(first, d[c])
        elif d[c] < first:
            second = first
            first = d[c]
            first_neuron = neuron[s]
        elif d[c] < second:
            second = d[c]
    bound = second + 2 * half
    kept = np.empty(n, np.int32)
    m = 0
    for c in range(n):
        if d[c] <= bound:
            kept[m] = among[c]
            m += 1
    return kept[:m]


@kernel
def _nearest_sites(
    position: F32, radius: F32, neuron: I32, warp: F32, site: I32, gap: F32, oz: int, oy: int, ox: int
) -> None:
    """Fill `site` (the nearest) and `gap` (how much further the nearest of another neuron is) in one region."""
    nz, ny, nx = site.shape
    everything = np.arange(position.shape[0]).astype(np.int32)
    bend = np.float32(np.abs(warp).max() * 1.7321)
    centre = np.empty(3, np.float32)
    centre[0], centre[1], centre[2] = oz + REGION / 2, oy + REGION / 2, ox + REGION / 2
    regional = _candidates(position, radius, neuron, everything, centre, float(REGION * 0.8661 + bend))
    for tz in range(oz, min(oz + REGION, nz), TILE):
        for ty in range(oy, min(oy + REGION, ny), TILE):
            for tx in range(ox, min(ox + REGION, nx), TILE):
                mid_z, mid_y, mid_x = tz + TILE / 2.0, ty + TILE / 2.0, tx + TILE / 2.0
                wz = _smooth(warp, 0, mid_z, mid_y, mid_x, WARP_CELL)
                wy = _smooth(warp, 1, mid_z, mid_y, mid_x, WARP_CELL)
                wx = _smooth(warp, 2, mid_z, mid_y, mid_x, WARP_CELL)
                centre[0], centre[1], centre[2] = mid_z + wz, mid_y + wy, mid_x + wx
                # noise changes slowly: within a tile the bend differs by a few voxels at most
                near = _candidates(position, radius, neuron, regional, centre, TILE * 0.8661 + 5.0)
                for z in range(tz, min(tz + TILE, nz)):
                    for y in range(ty, min(ty + TILE, ny)):
                        for x in range(tx, min(tx + TILE, nx)):
                            uz = z + _smooth(warp, 0, z, y, x, WARP_CELL)
                            uy = y + _smooth(warp, 1, z, y, x, WARP_CELL)
                            ux = x + _smooth(warp, 2, z, y, x, WARP_CELL)
                            first = np.float32(1e9)
                            second = np.float32(1e9)
                            owner = -1
                            winner = -1
                            for c in range(near.shape[0]):
                                s = near[c]
                                dz = position[s, 0] - uz
                                dy = position[s, 1] - uy
                                dx = position[s, 2] - ux
                                d = np.float32(np.sqrt(dz * dz + dy * dy + dx * dx)) - radius[s]
                                if neuron[s] == owner:
                                    if d < first:
                                        first = d
                                        winner = s
                                elif d < first:
                                    second = first
                                    first = d
                                    winner = s
                                    owner = neuron[s]
                                elif d < second:
                                    second = d
                            site[z, y, x] = winner
                            gap[z, y, x] = min(second - first, np.float32(200.0))


# ------------------------------------------------------------------ what is drawn inside


@kernel
def _draw_tubes(gray: F32, gap: F32, points: F32, dark: float, sigma: float, wall: float) -> None:
    """Darken thin lines, points of which are given a voxel apart, where no membrane is near."""
    nz, ny, nx = gray.shape
    for p in range(points.shape[0]):
        z, y, x = int(np.floor(points[p, 0])), int(np.floor(points[p, 1])), int(np.floor(points[p, 2]))
        if z < 1 or y < 1 or x < 1 or z > nz - 3 or y > ny - 3 or x > nx - 3:
            continue
        if gap[z, y, x] < wall:
            continue
        for i in range(z - 1, z + 3):
            for j in range(y - 1, y + 3):
                for k in range(x - 1, x + 3):
                    d = (i - points[p, 0]) ** 2 + (j - points[p, 1]) ** 2 + (k - points[p, 2]) ** 2
                    gray[i, j, k] -= dark * np.exp(-d / (2 * sigma * sigma))


@kernel
def _draw_mitochondrion(
    gray: F32,
    gap: F32,
    site: I32,
    neuron: I32,
    owner: int,
    warp: F32,
    spine: F32,
    tangent: F32,
    radii: F32,
    phase: float,
) -> None:
    """A body along `spine` with a dark double wall, a gray matrix and cristae across it."""
    reach = float(radii.max()) + 10.0
    lo = np.empty(3, np.int64)
    hi = np.empty(3, np.int64)
    for a in range(3):
        lo[a] = max(0, int(float(spine[:, a].min()) - reach))
        hi[a] = min(gray.shape[a], int(float(spine[:, a].max()) + reach) + 1)
    for z in range(lo[0], hi[0]):
        for y in range(lo[1], hi[1]):
            for x in range(lo[2], hi[2]):
                if gap[z, y, x] < 5.0 or neuron[site[z, y, x]] != owner:
                    continue
                uz = z + _smooth(warp, 0, z, y, x, WARP_CELL)
                uy = y + _smooth(warp, 1, z, y, x, WARP_CELL)
                ux = x + _smooth(warp, 2, z, y, x, WARP_CELL)
                nearest = np.float32(1e9)
                at = 0
                for s in range(spine.shape[0]):
                    d = np.sqrt((spine[s, 0] - uz) ** 2 + (spine[s, 1] - uy) ** 2 + (spine[s, 2] - ux) ** 2) - radii[s]
                    if d < nearest:
                        nearest = d
                        at = s
                if nearest > 1.5:
                    continue
                along = (
                    at * STEP
                    + (uz - spine[at, 0]) * tangent[at, 0]
                    + (uy - spine[at, 1]) * tangent[at, 1]
                    + (ux - spine[at, 2]) * tangent[at, 2]
                )
                wall = np.exp(-((nearest + 0.4) ** 2) / 1.6)
                inside = min(1.0, max(0.0, 1.0 - float(nearest) / 1.5))
                crista = np.sin(along * 1.15 + 0.5 * (uy - ux) * 0.6 + phase)
                matrix = 122.0 + 20.0 * crista * (1.0 if nearest < -1.8 else 0.3)
                value = gray[z, y, x] * (1 - inside) + matrix * inside
                gray[z, y, x] = value * (1 - 0.75 * wall) + 72.0 * 0.75 * wall


@kernel
def _draw_vesicles(gray: F32, gap: F32, centres: F32, radius: float) -> None:
    """Small rings, lighter inside."""
    nz, ny, nx = gray.shape
    for p in range(centres.shape[0]):
        z, y, x = int(centres[p, 0]), int(centres[p, 1]), int(centres[p, 2])
        for i in range(max(0, z - 5), min(nz, z + 6)):
            for j in range(max(0, y - 5), min(ny, y + 6)):
                for k in range(max(0, x - 5), min(nx, x + 6)):
                    d = np.sqrt((i - centres[p, 0]) ** 2 + (j - centres[p, 1]) ** 2 + (k - centres[p, 2]) ** 2) - radius
                    if d < 2.0 and gap[i, j, k] > 2.5:
                        gray[i, j, k] -= 46.0 * np.exp(-d * d / 1.1)
                        if d < -1.0:
                            gray[i, j, k] += 6.0


@kernel
def _draw_density(gray: F32, gap: F32, centre: F32, radius: float) -> None:
    """The dark thickening of both membranes at a synapse."""
    nz, ny, nx = gray.shape
    r = int(radius) + 4
    z, y, x = int(centre[0]), int(centre[1]), int(centre[2])
    for i in range(max(0, z - r), min(nz, z + r + 1)):
        for j in range(max(0, y - r), min(ny, y + r + 1)):
            for k in range(max(0, x - r), min(nx, x + r + 1)):
                d = np.sqrt((i - centre[0]) ** 2 + (j - centre[1]) ** 2 + (k - centre[2]) ** 2)
                strength = 1.0 / (1.0 + np.exp((d - radius) / 0.9)) * np.exp(-((gap[i, j, k] / 5.5) ** 2))
                gray[i, j, k] = gray[i, j, k] * (1 - 0.85 * strength) + 46.0 * 0.85 * strength


@kernel
def _cytoplasm(gray: F32, site: I32, gap: F32, tone: F32, fine: F32, reticulum: F32) -> None:
    """Tone of each neurite, its grain, and the walls of the endoplasmic reticulum in its wider parts."""
    nz, ny, nx = gray.shape
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                value = tone[site[z, y, x]] + 10.0 * fine[z, y, x]
                er = reticulum[z // 2, y // 2, x // 2]
                if gap[z, y, x] > 8.0:
                    value -= 38.0 * np.exp(-((er / 0.13) ** 2)) * min(1.0, (gap[z, y, x] - 8.0) / 5.0)
                gray[z, y, x] = value


@kernel
def _membranes(gray: F32, gap: F32) -> None:
    """Dark where two neurites meet; the wider and paler the more the cut is along the membrane."""
    nz, ny, nx = gray.shape
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                wall = 0.95 * np.exp(-((gap[z, y, x] / 3.1) ** 2))
                gray[z, y, x] = gray[z, y, x] * (1 - wall) + 62.0 * wall


def _steepest(gap: F32, place: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Direction in which the distance to the membrane grows."""
    z, y, x = place
    near = gap[z - 2 : z + 3, y - 2 : y + 3, x - 2 : x + 3].astype(np.float64)
    slope = np.array([near[4, 2, 2] - near[0, 2, 2], near[2, 4, 2] - near[2, 0, 2], near[2, 2, 4] - near[2, 2, 0]])
    return np.asarray(slope / max(1e-6, float(np.linalg.norm(slope))))


# ------------------------------------------------------------------ the parts of the making


def _noise(rng: np.random.Generator, shape: Sequence[int], sigma: float) -> F32:
    """Smooth noise of mean 0 and standard deviation 1."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(rng.standard_normal(tuple(shape), np.float32), sigma, mode="wrap")
    return np.asarray(noise / noise.std(), np.float32)


def _cut_into_supervoxels(skeletons: Skeletons, rng: np.random.Generator) -> I32:
    """Chop every chain into stretches of uneven length, as an automatic segmentation leaves them."""
    stretch = np.zeros(len(skeletons.chain), np.int32)
    count = 0
    for rows in skeletons.chains():
        length = rows.stop - rows.start
        cuts = np.cumsum(rng.uniform(45, 150, 2 + int(length * STEP / 45)) / STEP).astype(int)
        inside = np.searchsorted(cuts[cuts < length - 8], np.arange(length), side="right")
        stretch[rows] = count + inside
        count += int(inside.max()) + 1
    return stretch


def _mitochondria(gray: F32, gap: F32, site: I32, warp: F32, sk: Skeletons, rng: np.random.Generator) -> None:
    shape = np.asarray(gray.shape)
    for rows in sk.chains():
        row = rows.start
        while row < rows.stop - 12:
            row += int(rng.integers(4, 40))
            length = int(rng.integers(12, 44))
            part = slice(row, min(row + length, rows.stop - 2))
            row += length + 10
            spine = sk.position[part]
            if len(spine) < 10 or (spine < -20).any() or (spine > shape + 20).any():
                continue
            here = np.clip(spine.astype(int), 0, shape - 1)
            room = np.median(gap[tuple(here.T)]) / 2
            if room < 6.5:
                continue
            radius = float(np.clip(0.52 * room, 3.6, 8.5))
            aside = np.cross(sk.tangent[part], rng.standard_normal(3))
            aside /= np.maximum(np.linalg.norm(aside, axis=1, keepdims=True), 1e-6)
            spine = (spine + aside * max(0.0, room - radius - 3.0) * rng.uniform(0, 0.9)).astype(np.float32)
            ends = np.minimum(np.arange(len(spine)), np.arange(len(spine))[::-1]) * STEP
            radii = radius * np.sqrt(np.clip(ends / (1.6 * radius) + 0.12, 0, 1)) * rng.uniform(0.92, 1.08, len(spine))
            _draw_mitochondrion(
                gray, gap, site, sk.neuron, int(sk.neuron[part.start]), warp, spine, sk.tangent[part],
                radii.astype(np.float32), float(rng.uniform(0, 6)),
            )  # fmt: skip


def _microtubules(gray: F32, gap: F32, sk: Skeletons, rng: np.random.Generator) -> None:
    """Run microtubules along the neurites, more of them in wider ones."""
    for rows in sk.chains():
        n = rows.stop - rows.start
        if n < 24:
            continue
        radius = float(np.median(sk.radius[rows]))
        for _ in range(int(rng.integers(1, 3) + (radius / 7) ** 2)):
            across = np.cross(sk.tangent[rows], rng.standard_normal(3))
            across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-6)
            drift = np.cumsum(rng.standard_normal(n)) * 0.12
            track = sk.position[rows] + across * (radius * np.sqrt(rng.uniform(0.02, 0.8)) + drift[:, None])
            fine = np.arange(0, n - 1, 0.8 / STEP)
            points = np.stack([np.interp(fine, np.arange(n), track[:, a]) for a in range(3)], axis=1)
            _draw_tubes(gray, gap, points.astype(np.float32), 17.0, 0.9, 4.5)


def _synapses(
    gray: F32,
    gap: F32,
    site: I32,
    sk: Skeletons,
    body: npt.NDArray[np.uint64],
    rng: np.random.Generator,
) -> npt.NDArray[np.void]:
    """Choose places on membranes, draw densities and vesicles there, and say who is connected to whom."""
    shape = np.asarray(gap.shape)
    wanted = max(1, round(150 * float(np.prod(shape)) / 256**3))
    tries = np.stack(
        [rng.integers(6, n - 6, 400 * wanted) if n > 12 else np.full(400 * wanted, n // 2) for n in shape], 1
    )
    tries = tries[gap[tries[:, 0], tries[:, 1], tries[:, 2]] < 0.7]
    chosen: list[npt.NDArray[np.int64]] = []
    rows: list[tuple[object, ...]] = []
    for place in tries:
        if len(chosen) == wanted:
            break
        if chosen and np.min(np.linalg.norm(np.asarray(chosen) - place, axis=1)) < 22:
            continue
        inward = _steepest(gap, place)
        pre = np.clip(np.rint(place + 5 * inward), 0, shape - 1).astype(int)
        deep = np.clip(np.rint(place + 12 * inward), 0, shape - 1).astype(int)
        mine = sk.neuron[site[tuple(pre)]]
        if sk.neuron[site[tuple(deep)]] != mine or gap[tuple(deep)] < 10:
            continue
        partners: dict[int, npt.NDArray[np.int64]] = {}
        for _ in range(24):
            post = np.clip(np.rint(place - 5 * inward + rng.normal(0, 4, 3)), 0, shape - 1).astype(int)
            other = int(sk.neuron[site[tuple(post)]])
            if other != mine and other not in partners and gap[tuple(post)] > 2.5:
                partners[other] = post
        if not partners:
            continue
        chosen.append(place)
        _draw_density(gray, gap, place.astype(np.float32), float(rng.uniform(5.0, 7.5)))
        cloud = place + inward * 11 + rng.normal(0, 7.5, (int(rng.integers(30, 90)), 3))
        cell = np.clip(cloud.astype(int), 0, shape - 1)
        inside = (sk.neuron[site[cell[:, 0], cell[:, 1], cell[:, 2]]] == mine) & (
            gap[cell[:, 0], cell[:, 1], cell[:, 2]] > 8
        )
        apart = cloud[inside]
        keep = [i for i, p in enumerate(apart) if i == 0 or np.min(np.linalg.norm(apart[:i] - p, axis=1)) > 4.5]
        _draw_vesicles(gray, gap, apart[keep].astype(np.float32), 2.3)
        rows += [(pre, post, body[mine], body[other]) for other, post in partners.items()]
    return np.array(rows, SYNAPSE)


def make_volume(shape_zyx: tuple[int, int, int] = (256, 256, 256), seed: int = 7) -> Volume:
    """Make a synthetic EM volume with its segmentation; the same shape and seed give the same bytes.

    Parameters
    ----------
    shape_zyx
        Size in voxels; think of 8 nm a voxel. At least 16 along each axis.
    seed
        Of the random numbers.

    Raises
    ------
    ValueError
        Where an axis is shorter than 16 voxels.
    ImportError
        Without scipy: install ``dvid-dask[demo]``.

    Examples
    --------
    >>> volume = make_volume((32, 48, 64), seed=1)
    >>> volume.gray.shape, volume.gray.dtype, volume.supervoxels.dtype
    ((32, 48, 64), dtype('uint8'), dtype('uint64'))
    >>> set(volume.body_of) >= {int(sv) for sv in np.unique(volume.supervoxels)}
    True
    """
    try:
        from scipy.ndimage import gaussian_filter
    except ImportError as e:
        raise ImportError("the synthetic volume needs scipy: pip install 'dvid-dask[demo]'") from e
    if len(shape_zyx) != 3 or min(shape_zyx) < 16:
        raise ValueError(f"shape_zyx is {shape_zyx}: three sizes of at least 16 voxels are needed")
    shape = (int(shape_zyx[0]), int(shape_zyx[1]), int(shape_zyx[2]))
    rng = np.random.default_rng(seed)
    sk = grow(shape, rng)

    cells = [-(-n // WARP_CELL) + 2 for n in shape]
    warp = np.stack([2.2 * _noise(rng, cells, 1.1) + 3.2 * _noise(rng, cells, 3.0) for _ in range(3)])
    site = np.empty(shape, np.int32)
    gap = np.empty(shape, np.float32)
    corners = itertools.product(*(range(0, n, REGION) for n in shape))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda at: _nearest_sites(sk.position, sk.radius, sk.neuron, warp, site, gap, *at), corners))

    # number only what is visible, from 1, in the order of the chains
    stretch = _cut_into_supervoxels(sk, rng)
    visible = np.zeros(int(stretch.max()) + 1, bool)
    visible[stretch[np.flatnonzero(np.bincount(site.ravel(), minlength=len(stretch)))]] = True
    number = np.cumsum(visible).astype(np.uint64)
    supervoxels = number[stretch][site]
    body_of: dict[int, int] = {}
    body = np.zeros(int(sk.neuron.max()) + 1, np.uint64)
    for sv, neuron in zip(number[stretch].tolist(), sk.neuron.tolist(), strict=True):
        if body[neuron] == 0:
            body[neuron] = sv
    seen = visible[stretch]
    for neuron in range(len(body)):
        mine = np.unique(number[stretch[(sk.neuron == neuron) & seen]])
        if len(mine):
            body[neuron] = mine[0]
            body_of.update((int(sv), int(mine[0])) for sv in mine)

    gray = np.empty(shape, np.float32)
    tone = (172 + 9 * rng.standard_normal(int(sk.neuron.max()) + 1)).astype(np.float32)[sk.neuron]
    fine = _noise(rng, shape, 0.9) + 0.7 * _noise(rng, shape, 2.0)
    half = [-(-n // 2) for n in shape]
    _cytoplasm(gray, site, gap, tone, fine, _noise(rng, half, 4.0))
    _microtubules(gray, gap, sk, rng)
    _mitochondria(gray, gap, site, warp, sk, rng)
    _membranes(gray, gap)
    synapses = _synapses(gray, gap, site, sk, body, rng)

    light = rng.normal(0, 2.0, (shape[0], 1, 1)).astype(np.float32) + 5 * _bright(rng, shape)
    gray = gaussian_filter(gray, 0.65) + light + rng.standard_normal(shape, np.float32) * 7.5
    return Volume(np.clip(gray, 0, 255).astype(np.uint8), supervoxels, body_of, synapses)


def _bright(rng: np.random.Generator, shape: tuple[int, int, int]) -> F32:
    """Uneven lighting over the width of a section, the same for all of them."""
    y, x = np.ogrid[0 : 1 : shape[1] * 1j, 0 : 1 : shape[2] * 1j]
    a, b, c = rng.uniform(-1, 1, 3)
    return np.asarray(a * np.sin(3 * y + c) + b * np.cos(2.6 * x - c), np.float32)[None]
