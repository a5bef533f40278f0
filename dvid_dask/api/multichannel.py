"""The HTTP side of multichan16."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.errors import BadRequest

from .face import Call, Face
from .geometry import check_box, parse_point, parse_shape, parse_size, zyx
from .imageblk import image_scale, pieces, volume_bytes
from .pictures import check_image, encoded
from .responses import Response, stream

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.datatypes.imageblk import Multichan16

__all__ = ["face"]

_SHAPES = ("xy", "xz", "yz", "vol", "0_1", "0_2", "1_2", "0_1_2", "0,1", "0,2", "1,2", "0,1,2")

face = Face(
    "multichan16",
    about="""Fluorescence images: 8- or 16-bit values in several channels, and their composite in colour.

    They are filled with ``dvid-dask images load-v3draw`` or from Python. DVID's own can no longer be filled, and names
    channels in a way that its router can't reach; here ``?channel=N`` says which, the first being 1.
    """,
    methods=("GET", "POST"),
)


@face.get(*_SHAPES, args="/<size>/<offset>[/<format>]")
def get_voxels(call: Call) -> Response:
    """A slice as an image, or with three axes a box as bytes.

    A slice is the composite: the first three channels in red, green and blue, each stretched over its range; of an
    instance with one channel it is that channel. ``?channel=N`` asks for one channel, in its own values. A box comes as
    ``application/octet-stream``, values little-endian, channels next to each other. ``?scale=K`` reads a coarser scale.
    """
    instance: Multichan16 = call.instance
    axes = parse_shape(call.keyword)
    size = parse_size(call.arg(0, "a size"), len(axes))
    offset = parse_point(call.arg(1, "an offset"), what="offset")
    channel = call.int("channel", 0, 0, 1 << 16)
    channels = len(instance.layout.tail and instance.labels) or 1
    if channel:
        instance.channel_index(channel)
    scale = image_scale(call)
    if len(axes) == 3:
        check_box(offset, size)
        nbytes = volume_bytes(instance, size) // (channels if channel else 1)
        call.throttled()
        slabs = instance.read_slabs(zyx(offset), zyx(size), scale)
        if channel and channels > 1:
            slabs = _of_channel(slabs, channel - 1)
        return stream(pieces(slabs), headers={"Content-Length": str(nbytes)})
    plane = (axes[0], axes[1])
    format = call.args[2] if len(call.args) > 2 else ""
    check_image(size, instance.voxel_bytes, format)
    box = [1, 1, 1]
    for axis, length in zip(plane, size, strict=True):
        box[axis] = length
    check_box(offset, box)
    if channel or channels == 1:
        return encoded(instance.read_channel(plane, size, zyx(offset), channel or 1, scale), format)
    return encoded(instance.composite(plane, size, zyx(offset), scale), format)


def _of_channel(slabs: Iterator[NDArray[Any]], index: int) -> Iterator[NDArray[Any]]:
    for slab in slabs:
        yield np.ascontiguousarray(slab[..., index])


@face.post(*_SHAPES, args="/<size>/<offset>")
def post_voxels(call: Call) -> Response:
    """Refused, as in DVID: voxels come from files or from Python."""
    raise BadRequest("voxels of several channels can't be posted; load a file with dvid-dask images load-v3draw")
