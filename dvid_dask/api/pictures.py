"""What endpoints that answer with images share: limits, encoding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dvid_dask.errors import BadRequest
from dvid_dask.formats.images import encode_image, parse_format

from .responses import Response, image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["MAX_IMAGE", "MAX_SIDE", "check_image", "encoded"]

MAX_IMAGE = 1 << 29
"""Bytes of voxels that an image may be made of: unlike a volume it is in memory as a whole."""

MAX_SIDE = 65500
"""What the JPEG library takes."""


def check_image(size: Sequence[int], voxel_bytes: int, format: str) -> None:
    """Refuse an image that would not fit memory, or its format; width and height."""
    width, height = size
    nbytes = width * height * voxel_bytes
    if nbytes > MAX_IMAGE:
        raise BadRequest(
            f"an image of {width} x {height} voxels has {nbytes} bytes; at most {MAX_IMAGE}: "
            "ask for it in parts, or as a volume"
        )
    name, _ = parse_format(format)
    if name == "jpg" and max(width, height) > MAX_SIDE:
        raise BadRequest(f"a JPEG image has sides of at most {MAX_SIDE}, not {width} x {height}: ask for png")


def encoded(pixels: NDArray[Any], format: str) -> Response:
    """Voxels as an image."""
    body, media_type = encode_image(pixels, format)
    return image(body, media_type)
