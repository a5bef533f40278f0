"""The attributes that make a zarr 3 group of arrays an OME-Zarr: where each scale lies, and how channels look.

Source: OME-NGFF 0.5, https://ngff.openmicroscopy.org/0.5; ``omero`` as its section "omero" has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["attributes"]

#: Name and colour of the channels of a colour image.
_RGBA = (("red", "FF0000"), ("green", "00FF00"), ("blue", "0000FF"), ("alpha", "FFFFFF"))
_COLOURS = ("00FFFF", "FF00FF", "FFFF00", "FF0000", "00FF00", "0000FF")


def attributes(
    name: str,
    levels: Sequence[tuple[int, Sequence[int]]],
    voxel_size: Sequence[float],
    units: Sequence[str],
    *,
    labels: bool,
    ours: bool = True,
    channels: int = 1,
    dtype: str = "uint8",
) -> dict[str, Any]:
    """What stands under ``ome`` in the group's attributes; scale k is the array ``s<k>``.

    Parameters
    ----------
    name
        Of the image.
    levels
        Scale and first voxel (z, y, x) of each array.
    voxel_size, units
        Of scale 0, z, y, x; units in the singular.
    labels
        Whether voxels are labels.
    ours
        Whether coarser scales were made by the rule of this package. Of others nobody knows the rule, so none is named.
    channels, dtype
        Values per voxel, which make a first axis ``c`` where they are more than one, and their type.

    Examples
    --------
    >>> made = attributes("gray", [(1, (0, 0, 10))], (8, 8, 8), ["nanometer"] * 3, labels=False)
    >>> made["multiscales"][0]["datasets"][0]["coordinateTransformations"][1]["translation"]  # centre of a voxel
    [8.0, 8.0, 168.0]
    """
    several = channels > 1
    size = [float(v) for v in voxel_size]
    datasets = []
    for scale, start in levels:
        step = 2**scale
        # OME-Zarr places centres of voxels. The origin is the outer corner of voxel 0, as it is for neuroglancer in
        # all other formats: one volume lies in one place, however it is read
        first = [(a + 0.5) * step * s for a, s in zip(start, size, strict=True)]
        datasets.append(
            {
                "path": f"s{scale}",
                "coordinateTransformations": [
                    {"type": "scale", "scale": [1.0] * several + [s * step for s in size]},
                    {"type": "translation", "translation": [0.0] * several + first},
                ],
            }
        )
    axes = [{"name": n, "type": "space", "unit": u} for n, u in zip("zyx", units, strict=True)]
    multiscale: dict[str, Any] = {
        "name": name,
        "axes": [{"name": "c", "type": "channel"}] * several + axes,
        "datasets": datasets,
    }
    if ours:
        multiscale["type"] = "majority" if labels else "mean"
    made: dict[str, Any] = {"version": "0.5", "multiscales": [multiscale] if datasets else []}
    if labels:
        made["image-label"] = {}
    elif several:
        made["omero"] = {"channels": _channels(channels, np.dtype(dtype))}
    return made


def _channels(count: int, dtype: np.dtype[Any]) -> list[dict[str, Any]]:
    largest = float(np.iinfo(dtype).max) if dtype.kind in "iu" else 1.0
    colour = _RGBA if count == len(_RGBA) and dtype == np.uint8 else None
    made = []
    for i in range(count):
        label, shown = colour[i] if colour else (f"channel {i}", _COLOURS[i % len(_COLOURS)])
        window = {"min": 0.0, "max": largest, "start": 0.0, "end": largest}
        # opaqueness is no light that could be added
        made.append({"label": label, "color": shown, "active": label != "alpha", "window": window})
    return made
