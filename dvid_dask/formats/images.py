"""Two-dimensional images as DVID serves them: containers by pixel type, encodings, pseudocolour, resizing.

How a slice of voxels becomes an image:

======================  ================================================================================
uint8                   8-bit grey
uint16                  16-bit grey
uint32, float32         8-bit RGBA: the four little-endian bytes of the value
uint64                  16-bit RGBA: the eight little-endian bytes, two per channel, high byte first
uint8 (y, x, 3 or 4)    8-bit RGB or RGBA
uint16 (y, x, 4)        16-bit RGBA
======================  ================================================================================

Signed types are taken by their bytes. Alpha is not premultiplied. As in Go's encoders, whose images clients know,
a PNG or BMP whose alpha is maximal everywhere is written without alpha.
"""

from __future__ import annotations

import io
import re
import struct
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import tifffile

from dvid_dask.formats import _image_kernels as kernels
from dvid_dask.formats._bytes import Buffer
from dvid_dask.formats.errors import FormatError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "container",
    "converted",
    "decode_image",
    "encode_image",
    "image_type",
    "labels_of_rgba",
    "parse_format",
    "pseudocolor",
    "resize_area",
    "resize_nearest",
]

_CONTENT_TYPES = {"png": "image/png", "jpg": "image/jpeg", "tif": "image/tiff", "bmp": "image/bmp"}
_ALIASES = {"": "png", "jpeg": "jpg", "tiff": "tif"}
_JPEG_QUALITY = 80
_TAIL = 1024  # what some programs append may follow an image's end

Pixels = Any  # arrays of any of the types above

_QUALITY = re.compile(r"[+-]?[0-9]{1,9}")


def parse_format(text: str) -> tuple[str, int | None]:
    """Name and quality of a format as in URLs: ``png``, ``jpg:80``.

    Returns
    -------
    name, quality
        ``png``, ``jpg``, ``tif`` or ``bmp``; None if there is no quality.

    Raises
    ------
    FormatError
        If the name is unknown or the quality no integer.

    Examples
    --------
    >>> parse_format("jpeg:95"), parse_format("")
    (('jpg', 95), ('png', None))
    """
    name, colon, quality = text.partition(":")
    name = _ALIASES.get(name.lower(), name.lower())
    if name not in _CONTENT_TYPES:
        raise FormatError(f"unknown image format {text!r}; png, jpg[:quality], tif and bmp are known")
    if colon and not _QUALITY.fullmatch(quality):
        raise FormatError(f"image format {text!r}: the quality must be an integer")
    return name, int(quality) if colon else None


def encode_image(pixels: Pixels, format: str = "png") -> tuple[bytes, str]:
    """Encode a slice.

    Parameters
    ----------
    pixels
        (y, x) of any 1-, 2-, 4- or 8-byte type, or (y, x, channels) of uint8 or uint16.
    format
        ``png`` (or empty), ``jpg[:quality]``, ``tif`` or ``bmp``. JPEG and BMP keep 8 bits.

    Returns
    -------
    bytes, content_type

    Raises
    ------
    FormatError
        If the format is unknown.
    ValueError
        If no image has such pixels.

    Examples
    --------
    >>> data, content_type = encode_image(np.array([[1, 2]], np.uint64))
    >>> content_type, decode_image(data)[0, 0].tolist()
    ('image/png', [256, 0, 0, 0])
    """
    name, quality = parse_format(format)
    image = container(pixels)
    if name == "png":
        data = imagecodecs.png_encode(_without_opaque_alpha(image))
    elif name == "jpg":
        quality = _JPEG_QUALITY if quality is None else min(max(quality, 1), 100)
        data = imagecodecs.jpeg8_encode(
            image if image.ndim == 2 and image.dtype == np.uint8 else _premultiplied_rgb(image), level=quality
        )
    elif name == "tif":
        data = _tiff(image)
    else:
        keep = image.dtype == np.uint8 and (image.ndim == 2 or image.shape[2] == 4)
        data = imagecodecs.bmp_encode(_without_opaque_alpha(image) if keep else _premultiplied_rgb(image))
    return bytes(data), _CONTENT_TYPES[name]


def container(pixels: Pixels) -> NDArray[Any]:
    """The image that a slice of voxels becomes: grey (y, x) or colour (y, x, 3 or 4), uint8 or uint16.

    Examples
    --------
    >>> container(np.array([[1]], np.uint32)).tolist()
    [[[1, 0, 0, 0]]]
    """
    a = np.asarray(pixels)
    if 0 in a.shape or a.ndim not in (2, 3) or (a.ndim == 3 and (a.shape[2] not in (3, 4) or a.itemsize > 2)):
        raise ValueError(f"no image has pixels of {a.dtype} in shape {a.shape}")
    little = np.ascontiguousarray(a, a.dtype.newbyteorder("<"))
    if a.itemsize == 1:
        return little.view(np.uint8)
    if a.itemsize == 2:
        return little.view("<u2").astype(np.uint16)
    if a.itemsize == 4:
        return little.view(np.uint8).reshape(*a.shape, 4)
    if a.itemsize == 8:
        return little.view(">u2").astype(np.uint16).reshape(*a.shape, 4)
    raise ValueError(f"no image has pixels of {a.dtype}")


def converted(image: NDArray[Any], like: NDArray[Any]) -> NDArray[Any]:
    """An image with the pixels of another kind of container, as Go's image package converts them.

    Grey of a colour is its luminance times alpha; colour of a grey is opaque.

    Parameters
    ----------
    image, like
        Of uint8 or uint16, (y, x) or (y, x, 3 or 4); of `like` only type and channels count.

    Examples
    --------
    >>> grey = np.array([[7]], np.uint8)
    >>> converted(grey, np.empty((1, 1, 4), np.uint16)).tolist()
    [[[1799, 1799, 1799, 65535]]]
    >>> converted(np.array([[[255, 0, 0, 255]]], np.uint8), grey).tolist()
    [[76]]
    """
    channels = like.shape[2] if like.ndim == 3 else 0
    if image.dtype == like.dtype and (image.shape[2] if image.ndim == 3 else 0) == channels:
        return image
    wide: NDArray[Any] = image.astype(np.uint32) * (1 if image.dtype == np.uint16 else 0x101)  # 16 bits
    if not channels:
        if wide.ndim == 3:
            alpha = wide[..., 3].astype(np.uint64) if wide.shape[2] == 4 else np.uint64(0xFFFF)
            weights = np.array([19595, 38470, 7471], np.uint64)
            rgb = wide[..., :3].astype(np.uint64) * np.expand_dims(alpha, -1) // np.uint64(0xFFFF)
            wide = ((rgb * weights).sum(axis=2) + np.uint64(1 << 15)) >> np.uint64(16)
    else:
        colour = wide[..., :3] if wide.ndim == 3 else np.repeat(wide[..., None], 3, axis=2)
        opaque = np.full((*wide.shape[:2], 1), 0xFFFF, np.uint32)
        wide = np.concatenate([colour, wide[..., 3:] if wide.ndim == 3 and wide.shape[2] == 4 else opaque], axis=2)
        wide = wide[..., :channels]
    return np.ascontiguousarray(wide if like.dtype == np.uint16 else wide >> 8, like.dtype)


def _without_opaque_alpha(image: NDArray[Any]) -> NDArray[Any]:
    if image.ndim == 3 and image.shape[2] == 4 and bool((image[..., 3] == np.iinfo(image.dtype).max).all()):
        return np.ascontiguousarray(image[..., :3])
    return image


def _premultiplied_rgb(image: NDArray[Any]) -> NDArray[np.uint8]:
    """8-bit RGB as Go's encoders take any image they have no own form for: colour times alpha, high byte."""
    top = int(np.iinfo(image.dtype).max)
    wide = image.astype(np.uint32) * (0xFFFF // top)  # 16 bits
    if image.ndim == 2:
        wide = np.repeat(wide[..., None], 3, axis=2)
    elif image.shape[2] == 4:
        wide = (wide[..., :3].astype(np.uint64) * image[..., 3:] // top).astype(np.uint32)
    return np.ascontiguousarray(wide >> 8, np.uint8)


def _tiff(image: NDArray[Any]) -> bytes:
    out = io.BytesIO()
    colour = image.ndim == 3
    tifffile.imwrite(
        out,
        image,
        compression="adobe_deflate",
        photometric="rgb" if colour else "minisblack",
        extrasamples=("unassalpha",) if colour and image.shape[2] == 4 else None,
        metadata=None,
    )
    return out.getvalue()


def image_type(data: Buffer) -> str:
    """What an encoded image is by its first bytes: ``png``, ``jpg``, or nothing."""
    head = bytes(memoryview(data)[:8])
    if head == b"\x89PNG\r\n\x1a\n":
        return "png"
    return "jpg" if head[:2] == b"\xff\xd8" else ""


def decode_image(data: Buffer, *, max_pixels: int = 1 << 26) -> NDArray[Any]:
    """Pixels of a PNG or JPEG, as they are in the file.

    Parameters
    ----------
    data
        Bytes of unknown origin.
    max_pixels
        Largest image to expand.

    Returns
    -------
    NDArray
        uint8 or uint16, (y, x) or (y, x, channels).

    Raises
    ------
    FormatError
        If the data is no intact PNG or JPEG, or the image is larger.

    Examples
    --------
    >>> decode_image(encode_image(np.array([[1, 2]], np.uint8))[0])
    array([[1, 2]], dtype=uint8)
    """
    raw = bytes(data)
    kind = image_type(raw)
    if kind == "png":
        size, decode = _png_size(raw), imagecodecs.png_decode
    elif kind == "jpg":
        size, decode = _jpeg_size(raw), imagecodecs.jpeg8_decode
    else:
        raise FormatError("image: neither PNG nor JPEG")
    if not 0 < size[0] * size[1] <= max_pixels:
        raise FormatError(f"image of {size[0]} x {size[1]} pixels; the limit is {max_pixels} in all")
    if (b"IEND" if kind == "png" else b"\xff\xd9") not in raw[-_TAIL:]:
        # the JPEG library would fill the rest with grey
        raise FormatError("image: cut off before its end")
    try:
        return np.asarray(decode(raw))
    except (imagecodecs.PngError, imagecodecs.Jpeg8Error, ValueError, RuntimeError) as e:
        raise FormatError(f"image: {e}") from None


def labels_of_rgba(pixels: NDArray[np.uint16]) -> NDArray[np.uint64]:
    """The labels in a 16-bit RGBA image: the inverse of how `encode_image` puts them there.

    Parameters
    ----------
    pixels
        uint16 (y, x, 4).

    Raises
    ------
    ValueError
        If it is no 16-bit RGBA image.

    Examples
    --------
    >>> labels = np.array([[1, 2**40]], np.uint64)
    >>> labels_of_rgba(decode_image(encode_image(labels)[0]))
    array([[            1, 1099511627776]], dtype=uint64)
    """
    if pixels.ndim != 3 or pixels.shape[2] != 4 or pixels.dtype != np.uint16:
        raise ValueError(f"labels are in 16-bit RGBA, not in {pixels.dtype} of shape {pixels.shape}")
    return np.ascontiguousarray(pixels, ">u2").view("<u8")[..., 0].astype(np.uint64)


def _png_size(raw: bytes) -> tuple[int, int]:
    if len(raw) < 33 or raw[12:16] != b"IHDR":
        raise FormatError("image: PNG without header")
    width, height = struct.unpack_from(">2I", raw, 16)
    return width, height


def _jpeg_size(raw: bytes) -> tuple[int, int]:
    """Width and height from the first start-of-frame segment."""
    at = 2
    while at + 9 <= len(raw):
        if raw[at] != 0xFF:
            break
        marker = raw[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">2H", raw, at + 5)
            return width, height
        else:
            at += 2 + int.from_bytes(raw[at + 2 : at + 4], "big")
    raise FormatError("image: JPEG without frame header")


# ------------------------------------------------------------------ pseudocolour


def pseudocolor(labels_yx: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """A colour per label, the same in every DVID: bytes of its MurmurHash3_x86_32 (seed 0).

    Parameters
    ----------
    labels_yx
        uint64 of any shape.

    Returns
    -------
    NDArray[uint8]
        The shape with a last axis of R, G, B.

    Examples
    --------
    >>> pseudocolor(np.array([[0, 1]], np.uint64))[0].tobytes().hex(" ", 3)
    '63852a 53075d'
    """
    labels = np.ascontiguousarray(labels_yx, np.uint64)
    out = np.empty((labels.size, 3), np.uint8)
    kernels.murmur3_colors(labels.reshape(-1), out)
    return out.reshape(*labels.shape, 3)


# ------------------------------------------------------------------ resizing


def resize_area(pixels: Pixels, height: int, width: int) -> NDArray[Any]:
    """Resize by exact area weighting in integers, rounded down: what DVID does with grey images.

    Every source pixel is cut into width x height equal parts, so that result pixels cover whole parts.

    Parameters
    ----------
    pixels
        (y, x) or (y, x, channels) of unsigned integers or floats; of at most 2^31 pixels.
    height, width
        Size of the result.

    Examples
    --------
    >>> resize_area(np.array([[0, 3, 5]], np.uint8), 1, 2)
    array([[1, 4]], dtype=uint8)
    """
    a = _check_resize(pixels, height, width)
    if a.dtype.kind not in "uf":
        raise TypeError(f"area weighting needs unsigned integers or floats, got {a.dtype}")
    if a.shape[:2] == (height, width):
        return a.copy()
    if a.dtype.kind == "f":
        rows, columns = _weights(a.shape[0], height), _weights(a.shape[1], width)
        averaged: NDArray[Any] = np.einsum("Yy,yx...,Xx->YX...", rows, a, columns, optimize=True)
        return averaged.astype(a.dtype)
    if a.shape[0] * a.shape[1] > 1 << 31:
        raise ValueError(f"area weighting takes at most 2^31 pixels, not {a.shape[0]} x {a.shape[1]}")
    channels = a.reshape(*a.shape[:2], -1)
    out = np.empty((height, width, channels.shape[2]), a.dtype)
    divisor = np.uint64(a.shape[0] * a.shape[1])
    half = np.uint64(32)
    for c in range(channels.shape[2]):
        values = np.ascontiguousarray(channels[:, :, c], np.uint64)
        if a.itemsize < 8:
            out[:, :, c] = (_area_sums(values, height, width) // divisor).astype(a.dtype)
            continue
        # sums of 64-bit values need more than 64 bits: upper and lower halves apart, as in long division
        upper = _area_sums(values >> half, height, width)
        lower = _area_sums(values & np.uint64(0xFFFFFFFF), height, width)
        out[:, :, c] = (upper // divisor << half) + ((upper % divisor << half) + lower) // divisor
    resized: NDArray[Any] = out.reshape(height, width, *a.shape[2:])
    return resized


def _area_sums(values: NDArray[np.uint64], height: int, width: int) -> NDArray[np.uint64]:
    """Values times the parts of their pixels, summed over each pixel of the result."""
    wide = np.empty((values.shape[0], width), np.uint64)
    kernels.area_sums(values, wide)
    tall = np.empty((width, height), np.uint64)
    kernels.area_sums(np.ascontiguousarray(wide.T), tall)
    return tall.T


def _weights(old: int, new: int) -> NDArray[np.float64]:
    """Share of each old pixel in each new one."""
    edges = np.arange(old + 1) * new
    begin, end = np.arange(new) * old, np.arange(1, new + 1) * old
    overlap = np.minimum(edges[None, 1:], end[:, None]) - np.maximum(edges[None, :-1], begin[:, None])
    shares: NDArray[np.float64] = np.maximum(overlap, 0) / old
    return shares


def resize_nearest(pixels: Pixels, height: int, width: int) -> NDArray[Any]:
    """Resize by taking, for pixel (i, j), the source pixel at floor(i * w / width), floor(j * h / height).

    The only way to resize labels.

    Parameters
    ----------
    pixels
        (y, x) or (y, x, channels) of any type.
    height, width
        Size of the result.

    Examples
    --------
    >>> resize_nearest(np.array([[10, 20, 30]], np.uint64), 1, 2)
    array([[10, 20]], dtype=uint64)
    """
    a = _check_resize(pixels, height, width)
    rows = np.arange(height) * a.shape[0] // height
    columns = np.arange(width) * a.shape[1] // width
    result: NDArray[Any] = a[rows[:, None], columns[None, :]]
    return result


def _check_resize(pixels: Pixels, height: int, width: int) -> NDArray[Any]:
    a = np.asarray(pixels)
    if a.ndim not in (2, 3) or 0 in a.shape or height < 1 or width < 1:
        raise ValueError(f"can't resize pixels of shape {a.shape} to {height} x {width}")
    if a.shape[0] * a.shape[1] * height * width >= 1 << 62 or a.shape[0] * a.shape[1] >= 1 << 32:
        raise ValueError(f"an image of shape {a.shape} is too large to resize to {height} x {width}")
    return a
