"""The picture of the tour: one slice and the edited neurons, before and after proofreading."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Side", "draw"]

U64 = npt.NDArray[np.uint64]
RGB = tuple[float, float, float]

BACKGROUND = "#0b0f14"
INK = "#e8edf2"
FAINT = "#8a96a3"
EDITED: tuple[RGB, ...] = ((1.00, 0.62, 0.16), (0.20, 0.72, 0.95), (0.98, 0.32, 0.52), (0.45, 0.86, 0.48))


class Side(NamedTuple):
    """One half of the picture: a version, and what it holds."""

    title: str
    subtitle: str
    slice: U64
    """Bodies of the slice, y x."""
    volume: U64
    """Bodies of the whole volume, z y x."""
    colours: Mapping[int, int]
    """Which of the strong colours an edited body bears."""
    marks: Sequence[tuple[str, float, float]] = ()
    """Words at places (y, x) of the slice."""


def draw(gray: npt.NDArray[np.uint8], sides: Sequence[Side], z: int, path: str | os.PathLike[str]) -> None:
    """Draw both versions side by side: the slice above, the edited neurons in space below."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(12.8, 12.2), dpi=90, facecolor=BACKGROUND)
    for column, side in enumerate(sides):
        left = 0.012 + 0.494 * column
        top: Any = figure.add_axes((left, 0.408, 0.482, 0.506))
        _draw_slice(top, gray, side)
        low: Any = figure.add_axes((left, 0.008, 0.482, 0.392))
        _draw_neurons(low, side, z)
        figure.text(left + 0.004, 0.968, side.title, color=INK, fontsize=19, weight="bold", va="center")
        figure.text(left + 0.004, 0.937, side.subtitle, color=FAINT, fontsize=13, va="center")
    caption = f"slice z = {z}"
    figure.text(0.988, 0.937, caption, color=FAINT, fontsize=11, ha="right", va="center")
    figure.savefig(path, facecolor=BACKGROUND, pil_kwargs={"optimize": True}, metadata={"Software": None})
    plt.close(figure)


def _draw_slice(axes: Axes, gray: npt.NDArray[np.uint8], side: Side) -> None:
    from scipy.ndimage import gaussian_filter, zoom

    times = 3
    em = np.clip(zoom(gray.astype(np.float32), times, order=3) / 255 * 1.08 - 0.02, 0, 1)
    tint = np.zeros((*side.slice.shape, 3), np.float32)
    strength = np.zeros(side.slice.shape, np.float32)
    for body in np.unique(side.slice).tolist():
        where = side.slice == body
        if body in side.colours:
            tint[where], strength[where] = EDITED[side.colours[body]], 0.58
        else:
            tint[where], strength[where] = _quiet(body), 0.30
    edge = np.zeros(side.slice.shape, bool)
    edge[1:] |= side.slice[1:] != side.slice[:-1]
    edge[:, 1:] |= side.slice[:, 1:] != side.slice[:, :-1]
    soft = [zoom(channel, times, order=1) for channel in (*np.moveaxis(tint, -1, 0), strength)]
    colour, weight = np.stack(soft[:3], axis=-1), soft[3][..., None]
    # colour by multiplication keeps the membranes and organelles under it dark
    shade = em[..., None]
    picture = shade * (1 - weight) + (0.18 + 0.95 * shade) * shade * colour * 1.45 * weight
    axes.imshow(np.clip(picture, 0, 1), interpolation="bilinear", extent=(0, gray.shape[1], gray.shape[0], 0))
    for body, number in side.colours.items():
        mask = gaussian_filter((side.slice == body).astype(np.float32), 0.8)
        if mask.max() > 0.5:
            rows, columns = (np.arange(n) + 0.5 for n in mask.shape)
            axes.contour(columns, rows, mask, levels=[0.5], colors=[EDITED[number]], linewidths=2.2)
    taken = np.isin(side.slice, list(side.colours))
    for words, y, x in side.marks:
        at = _free_place(taken, words, y, x)
        axes.annotate(
            words,
            (x, y),
            at[::-1],
            color=INK,
            fontsize=13,
            weight="bold",
            ha="center",
            va="center",
            bbox={"boxstyle": "round,pad=0.35", "facecolor": BACKGROUND, "edgecolor": "none", "alpha": 0.86},
            arrowprops={"arrowstyle": "-|>", "color": INK, "linewidth": 1.6, "shrinkA": 0, "shrinkB": 1},
        )
    _bare(axes)


def _free_place(taken: npt.NDArray[np.bool_], words: str, y: float, x: float) -> tuple[float, float]:
    """A place (y, x) for words near a point, where they hide least of what matters; marks it as taken."""
    height, width = taken.shape
    half_y, half_x = 0.035 * height, (0.03 + 0.0095 * len(words)) * width
    best, hidden = (y, x), np.inf
    for distance in (0.16, 0.21, 0.27, 0.34):
        for angle in np.linspace(0, 2 * np.pi, 24, endpoint=False):
            cy, cx = y + distance * height * np.sin(angle), x + distance * width * np.cos(angle)
            low, left, high, right = cy - half_y, cx - half_x, cy + half_y, cx + half_x
            if low < 2 or left < 2 or high > height - 2 or right > width - 2:
                continue
            cost = float(taken[int(low) : int(high), int(left) : int(right)].sum()) + 300 * distance
            if cost < hidden:
                best, hidden = (cy, cx), cost
    cy, cx = best
    taken[int(max(0, cy - half_y)) : int(cy + half_y), int(max(0, cx - half_x)) : int(cx + half_x)] = True
    return best


def _draw_neurons(axes: Axes, side: Side, z: int) -> None:
    surfaces = [(_surface(side.volume == body), EDITED[number]) for body, number in side.colours.items()]
    picture = _render([s for s, _ in surfaces], [c for _, c in surfaces], side.volume.shape, z)
    axes.imshow(picture, interpolation="bilinear")
    _bare(axes)


class _Surface(NamedTuple):
    points: npt.NDArray[np.float32]
    normals: npt.NDArray[np.float32]


def _surface(mask: npt.NDArray[np.bool_]) -> _Surface:
    """Voxels on the outside of a body, with the direction that is out."""
    from scipy.ndimage import gaussian_filter

    soft = gaussian_filter(mask.astype(np.float32), 1.6, mode="constant")
    inner = mask.copy()
    for axis in range(3):
        for step in (1, -1):
            inner &= np.roll(mask, step, axis)
    inner[[0, -1]] = inner[:, [0, -1]] = inner[:, :, [0, -1]] = False
    points = np.argwhere(mask & ~inner)
    slopes = np.stack(np.gradient(soft), axis=-1)[tuple(points.T)]
    normals = -slopes / np.maximum(np.linalg.norm(slopes, axis=1, keepdims=True), 1e-6)
    return _Surface(points.astype(np.float32), normals.astype(np.float32))


def _render(
    surfaces: Sequence[_Surface], colours: Sequence[RGB], shape: tuple[int, ...], z: int
) -> npt.NDArray[np.float32]:
    """Splat lit points, far ones first, seen from a corner above; with the outline of the volume."""
    from scipy.ndimage import gaussian_filter, zoom

    width, height, sample = 620, 504, 2
    turn = _view(0.62, 0.42)
    corner = np.concatenate([s.points @ turn.T for s in surfaces])
    low, high = corner.min(axis=0), corner.max(axis=0)
    centre = (low + high) / 2
    scale = 0.93 * sample * float(min(np.asarray([height, width]) / (high - low)[1:]))

    def project(points: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        seen = points @ turn.T - centre  # depth, down, right
        at = seen[:, 1:] * scale + np.asarray([height, width]) * sample / 2
        return at, seen[:, 0]

    canvas = np.zeros((height * sample, width * sample, 3), np.float32)
    canvas[:] = _rgb(BACKGROUND)
    depth = np.full(canvas.shape[:2], np.inf, np.float32)
    _draw_box(canvas, project, shape, z)
    light = np.asarray([-0.62, -0.60, -0.50], np.float32)
    light /= np.linalg.norm(light)
    halfway = light - np.asarray([1, 0, 0], np.float32)
    halfway /= np.linalg.norm(halfway)
    for surface, colour in zip(surfaces, colours, strict=True):
        at, far = project(surface.points)
        normal = surface.normals @ turn.T
        lit = np.clip(normal @ light, 0, 1)
        rim = np.clip(1 - np.abs(normal[:, 0]), 0, 1) ** 3
        fog = np.interp(far, [-max(shape) * 0.7, max(shape) * 0.7], [1.0, 0.42])
        shine = np.clip(normal @ halfway, 0, 1) ** 24
        shades = (0.22 + 0.86 * lit)[:, None] * np.asarray(colour) + 0.22 * shine[:, None] + 0.10 * rim[:, None]
        shades = shades * fog[:, None] + _rgb(BACKGROUND) * (1 - fog[:, None])
        order = np.argsort(-far)
        rows, columns = np.floor(at[order]).astype(int).T
        reach = int(np.ceil(scale))
        for i in range(-reach + 1, reach + 1):
            for j in range(-reach + 1, reach + 1):
                r, c = rows + i, columns + j
                inside = (r >= 0) & (r < canvas.shape[0]) & (c >= 0) & (c < canvas.shape[1])
                r, c, d, s = r[inside], c[inside], far[order][inside], shades[order][inside]
                nearest = np.full(depth.shape, np.inf, np.float32)
                nearest[r, c] = d  # of equal places the last, that is the nearest, stays
                wins = d <= np.minimum(nearest, depth)[r, c]
                canvas[r[wins], c[wins]] = s[wins]
                depth[r[wins], c[wins]] = d[wins]
    smooth = np.stack([gaussian_filter(channel, 0.9) for channel in np.moveaxis(canvas, -1, 0)], axis=-1)
    return np.asarray(np.clip(zoom(smooth, (1 / sample, 1 / sample, 1), order=1), 0, 1), np.float32)


def _draw_box(canvas: npt.NDArray[np.float32], project: Any, shape: tuple[int, ...], z: int) -> None:
    """The edges of the volume, and brighter the outline of the slice."""
    for depth, colour in (((0, shape[0]), "#25303b"), ((z,), "#8a96a3")):
        corners = np.array([[d, y, x] for d in depth for y in (0, shape[1]) for x in (0, shape[2])], np.float32)
        for a, b in itertools.combinations(corners, 2):
            if np.sum(a != b) == 1:
                at, _ = project(a + np.linspace(0, 1, 4000)[:, None] * (b - a))
                rows, columns = np.floor(at).astype(int).T
                inside = (rows >= 0) & (rows < canvas.shape[0] - 1) & (columns >= 0) & (columns < canvas.shape[1] - 1)
                for i, j in itertools.product((0, 1), repeat=2):
                    canvas[rows[inside] + i, columns[inside] + j] = _rgb(colour)


def _view(turn: float, tilt: float) -> npt.NDArray[np.float32]:
    """Rotation of z y x to depth, down, right."""
    c, s = np.cos(turn), np.sin(turn)
    about_y = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    c, s = np.cos(tilt), np.sin(tilt)
    about_x = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    return np.asarray(about_x @ about_y, np.float32)


def _quiet(body: int) -> RGB:
    """A muted colour for a body: the same in both versions, spread over the hues by the golden ratio."""
    import colorsys

    hue = (body * 0.6180339887) % 1
    return colorsys.hls_to_rgb(0.36 + 0.42 * hue, 0.56 + 0.12 * ((body * 0.381) % 1), 0.46)


def _rgb(text: str) -> npt.NDArray[np.float32]:
    return np.array([int(text[i : i + 2], 16) / 255 for i in (1, 3, 5)], np.float32)


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
