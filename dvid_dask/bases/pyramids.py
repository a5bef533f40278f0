"""What the metadata of a directory of chunks say: its format, its axes, its scales, the size of its voxels.

==========================  ==========================================================================================
precomputed                 https://github.com/google/neuroglancer/blob/master/src/datasource/precomputed/volume.md
OME-Zarr 0.4 and 0.5        https://ngff.openmicroscopy.org/0.5
N5, with scales s0, s1 ...  https://github.com/saalfeldlab/n5-viewer#readme, https://github.com/saalfeldlab/n5
==========================  ==========================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from dvid_dask.errors import BadRequest, NotFound

from .urls import shown

if TYPE_CHECKING:
    from .files import Files

__all__ = ["FORMATS", "MARKS", "Pyramid", "Step", "find_pyramid", "scale_of"]

#: Formats, as URLs and settings name them.
FORMATS = ("zarr2", "zarr3", "n5", "precomputed")

#: Files by which a directory shows its format.
MARKS = {
    "zarr.json": "zarr3",
    ".zarray": "zarr2",
    ".zgroup": "zarr2",
    ".zattrs": "zarr2",
    "attributes.json": "n5",
    "info": "precomputed",
}

_METRES = {
    "nm": 1e-9, "nanometer": 1e-9, "um": 1e-6, "µm": 1e-6, "micrometer": 1e-6, "micron": 1e-6, "mm": 1e-3,
    "millimeter": 1e-3, "m": 1.0, "meter": 1.0, "angstrom": 1e-10,
}  # fmt: skip


class Step(NamedTuple):
    """One scale of a pyramid.

    Attributes
    ----------
    path
        Of its array below the directory; empty for the directory itself.
    which
        Its number among a precomputed volume's scales.
    ratio
        Voxels of the finest scale along one of its voxels, by the names of axes.
    """

    path: str
    which: int
    ratio: dict[str, float]


class Pyramid(NamedTuple):
    """A volume as its metadata have it.

    Attributes
    ----------
    format
        One of `FORMATS`.
    axes
        Names of the dimensions, in the array's order; None where the data don't say.
    steps
        Its scales, the finest first.
    nanometres
        Sizes of a voxel of the finest scale, by the names of axes; None where nobody says.
    offset
        Of its first voxel, in voxels, by the names of axes; empty where it is 0, or stands in the array's own domain.
    labels
        Whether the metadata call it a segmentation.
    """

    format: str
    axes: list[str] | None
    steps: list[Step]
    nanometres: dict[str, float] | None = None
    offset: dict[str, int] = {}
    labels: bool = False


def find_pyramid(files: Files, format: str = "") -> Pyramid:
    """Read the metadata of a directory.

    Parameters
    ----------
    files
        The directory.
    format
        One of `FORMATS`; found out where it is not given.

    Raises
    ------
    NotFound
        There is no volume.
    BadRequest
        There is something, but no volume.
    """
    for mark, of in MARKS.items():
        if format and of != format:
            continue
        held = files.read_json(mark)
        if held:
            try:
                return _READERS[mark](files, held)
            except (KeyError, TypeError, IndexError, ValueError) as e:
                if isinstance(e, BadRequest):
                    raise
                raise BadRequest(f"{shown(files.url)}{mark} can't be understood: {type(e).__name__}: {e}") from e
    raise NotFound(
        f"{shown(files.url)}: no volume found there: looked for "
        + ", ".join(mark for mark, of in MARKS.items() if format in ("", of))
    )


def scale_of(ratio: dict[str, float]) -> int | None:
    """The scale that a ratio to the finest one means here; None where it is not the same power of 2 along z, y, x.

    Examples
    --------
    >>> scale_of({"z": 4.0, "y": 4.0, "x": 4.0, "c": 1.0}), scale_of({"z": 1.0, "y": 2.0, "x": 2.0})
    (2, None)
    """
    z, y, x = (ratio.get(axis, 1.0) for axis in "zyx")
    if not 0.5 < x < 2.0**32:
        return None
    scale = round(math.log2(x))
    return scale if all(abs(r / 2.0**scale - 1) < 0.01 for r in (z, y, x)) else None


def _one(format: str, axes: Sequence[Any] | None) -> Pyramid:
    return Pyramid(format, [str(a).lower() for a in axes] if axes else None, [Step("", 0, {})])


def _precomputed(files: Files, held: dict[str, Any]) -> Pyramid:
    scales = held.get("scales")
    if not scales:
        raise BadRequest(f"{shown(files.url)}info is not of a volume: it lists no scales")
    finest = [float(v) for v in scales[0]["resolution"]]
    steps = [
        Step("", i, {a: float(v) / f for a, v, f in zip("xyz", scale["resolution"], finest, strict=True)})
        for i, scale in enumerate(scales)
    ]
    for scale in scales:
        if ".." in str(scale["key"]).split("/") or str(scale["key"]).startswith("/"):
            raise BadRequest(f"{shown(files.url)}info: the scale {scale['key']!r} leads out of the volume")
    labels = held.get("type") == "segmentation"
    return Pyramid("precomputed", list("xyzc"), steps, dict(zip("xyz", finest, strict=True)), labels=labels)


def _zarr3(files: Files, held: dict[str, Any]) -> Pyramid:
    if held.get("node_type") == "array":
        names = held.get("dimension_names")
        return _one("zarr3", names if names and all(names) else None)
    attributes = held.get("attributes") or {}
    return _ome(files, "zarr3", attributes.get("ome") or attributes)


def _zarr2_array(files: Files, held: dict[str, Any]) -> Pyramid:
    return _one("zarr2", files.read_json(".zattrs").get("_ARRAY_DIMENSIONS"))


def _zarr2_group(files: Files, held: dict[str, Any]) -> Pyramid:
    return _ome(files, "zarr2", files.read_json(".zattrs"))


def _ome(files: Files, format: str, attributes: dict[str, Any]) -> Pyramid:
    listed = attributes.get("multiscales")
    if not listed:
        raise BadRequest(f"{shown(files.url)} is a group of zarr without multiscales: give the path of an array in it")
    scales = listed[0]
    axes = [str(a["name"] if isinstance(a, dict) else a).lower() for a in scales.get("axes", [])] or None
    units = {str(a["name"]).lower(): a.get("unit") for a in scales.get("axes", []) if isinstance(a, dict)}
    paths = [str(d["path"]) for d in scales["datasets"]]
    if axes is None:  # of before 0.4: the custom of its time, and halves
        return Pyramid(format, None, [Step(p, 0, dict.fromkeys("zyx", 2.0**i)) for i, p in enumerate(paths)])
    placed = [_placed(d.get("coordinateTransformations"), len(axes)) for d in scales["datasets"]]
    common, moved = _placed(scales.get("coordinateTransformations"), len(axes))
    finest, start = placed[0]
    steps = [
        Step(p, 0, {a: s / f for a, s, f in zip(axes, size, finest, strict=True)})
        for p, (size, _) in zip(paths, placed, strict=True)
    ]
    metres = [_METRES.get(str(units.get(a) or "")) for a in "zyx"]
    known = None
    if all(metres):
        size = {a: f * c for a, f, c in zip(axes, finest, common, strict=True)}
        known = {a: round(size[a] * (m or 0) * 1e9, 9) for a, m in zip("zyx", metres, strict=True)}
    where = {
        a: (t * c + m) / (f * c) for a, t, c, m, f in zip(axes, start, common, moved, finest, strict=True) if a in "zyx"
    }
    labels = attributes.get("image-label") is not None
    return Pyramid(format, axes, steps, known, {a: round(v) for a, v in where.items()}, labels)


def _placed(transformations: Any, ndim: int) -> tuple[list[float], list[float]]:
    """Scale and translation of coordinate transformations."""
    size, moved = [1.0] * ndim, [0.0] * ndim
    for one in transformations or []:
        if one.get("type") == "scale":
            size = [float(v) for v in one["scale"]]
        elif one.get("type") == "translation":
            moved = [float(v) for v in one["translation"]]
    if len(size) != ndim or len(moved) != ndim or not all(v > 0 and math.isfinite(v) for v in size):
        raise BadRequest(f"coordinate transformations {transformations} don't fit {ndim} axes")
    return size, moved


def _n5(files: Files, held: dict[str, Any]) -> Pyramid:
    if "dimensions" in held:
        return _one("n5", held.get("axes"))._replace(nanometres=_n5_size(held))
    steps: list[Step] = []
    sizes = _n5_size(held)
    factors = held.get("scales") or held.get("downsamplingFactors")
    for i in range(32):
        one = files.read_json(f"s{i}/attributes.json")
        if "dimensions" not in one:
            break
        given = one.get("downsamplingFactors") or (factors[i] if factors and i < len(factors) else None)
        ratio = [float(v) for v in given] if given else [1.0 if i == 0 else 2.0**i] * 3
        steps.append(Step(f"s{i}", 0, dict(zip("xyz", ratio, strict=True))))
        sizes = sizes or _n5_size(one)
    if not steps:
        raise BadRequest(f"{shown(files.url)} is a group of N5 without s0: give the path of an array in it")
    return Pyramid("n5", held.get("axes"), steps, sizes)


def _n5_size(held: dict[str, Any]) -> dict[str, float] | None:
    found = held.get("pixelResolution") or held.get("resolution")
    unit, size = (found.get("unit", "nm"), found.get("dimensions")) if isinstance(found, dict) else ("nm", found)
    metres = _METRES.get(str(unit))
    if not isinstance(size, list) or len(size) < 3 or metres is None:
        return None
    return {a: round(float(v) * metres * 1e9, 9) for a, v in zip("xyz", size, strict=False)}


_READERS = {
    "zarr.json": _zarr3,
    ".zarray": _zarr2_array,
    ".zgroup": _zarr2_group,
    ".zattrs": _zarr2_group,
    "attributes.json": _n5,
    "info": _precomputed,
}
