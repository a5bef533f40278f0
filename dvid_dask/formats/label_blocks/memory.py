"""Arrays of voxels as kernels want them: their memory, their limits, scratch to work in."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.formats._bytes import Buffer
from dvid_dask.formats.errors import FormatError
from dvid_dask.formats.label_blocks.layout import block_shape

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "MAX_VOXELS",
    "allocate",
    "check_out",
    "check_size",
    "check_uint64",
    "flat_labels",
    "flatten",
    "in_place",
    "scratch",
    "scratch_for",
]

MAX_VOXELS = 1 << 24
"""Largest block that is expanded without an output array given: a 24-byte solid block may claim 1024^3 voxels."""

_KEEP = 1 << 21  # voxels (16 MiB) of scratch a thread keeps

_local = threading.local()


def allocate(shape: Sequence[int], dtype: Any, max_voxels: int) -> NDArray[Any]:
    """A new array, unless it would be larger than the limit."""
    check_size(shape, max_voxels)
    return np.empty(shape, dtype)


def check_size(shape: Sequence[int], max_voxels: int) -> None:
    """Refuse to expand more than so many voxels."""
    if shape[0] * shape[1] * shape[2] > max_voxels:
        raise FormatError(f"label block of {tuple(shape)} voxels (z, y, x): the limit is {max_voxels} voxels in all")


def check_uint64(volume: NDArray[np.uint64]) -> None:
    """Refuse what is no 3-d array of uint64."""
    if not isinstance(volume, np.ndarray) or volume.ndim != 3 or volume.dtype.kind != "u" or volume.itemsize != 8:
        got = f"{volume.dtype} of {volume.ndim} dimensions" if isinstance(volume, np.ndarray) else type(volume).__name__
        raise TypeError(f"labels are a uint64 array (z, y, x), got {got}")


def check_out(out: NDArray[Any], shape: Sequence[int], dtype: type) -> None:
    """Refuse an output of another type or shape."""
    if out.dtype.newbyteorder("=") != np.dtype(dtype):
        raise TypeError(f"the output must be {np.dtype(dtype)}, got {out.dtype}")
    if out.shape != tuple(shape):
        raise FormatError(f"label block: {tuple(shape)} voxels (z, y, x) for an output of {out.shape}")


def in_place(volume: NDArray[Any]) -> bool:
    """Whether kernels can work on this array itself: native, aligned, x contiguous, other strides not negative."""
    size = volume.itemsize
    return bool(
        volume.flags.aligned
        and volume.dtype.isnative
        and (volume.strides[2] == size or volume.shape[2] == 1)
        and volume.strides[0] >= 0
        and volume.strides[1] >= 0
        and volume.strides[0] % size == 0
        and volume.strides[1] % size == 0
    )


def flatten(volume: NDArray[Any], writeable: bool) -> tuple[NDArray[Any], int, int]:
    """The memory of a 3-d array that is `in_place`, as one flat array, and its z and y strides in elements."""
    sz, sy = volume.strides[0] // volume.itemsize, volume.strides[1] // volume.itemsize
    if volume.flags.c_contiguous:
        flat = volume.reshape(-1)
    else:
        nz, ny, nx = volume.shape
        extent = (nz - 1) * sz + (ny - 1) * sy + nx
        flat = np.lib.stride_tricks.as_strided(volume, (extent,), (volume.itemsize,))
    if not writeable:
        flat = flat.view()
        flat.flags.writeable = False
    return flat, sz, sy


def flat_labels(volume: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], int, int]:
    """Labels (z, y, x) as kernels read them: flat memory and the z and y strides in elements; copied only if need be.

    Raises
    ------
    TypeError
        If it is no 3-d array of uint64.
    """
    check_uint64(volume)
    if not in_place(volume):
        volume = np.ascontiguousarray(volume, np.uint64)
    return flatten(volume, writeable=False)


@contextlib.contextmanager
def scratch(shape: Sequence[int]) -> Iterator[NDArray[np.uint64]]:
    """A dense array for a moment: fresh memory costs more in page faults than the work on it, so a thread keeps one.

    Taken out while in use, so that a nested use gets its own.
    """
    size = shape[0] * shape[1] * shape[2]
    held: NDArray[np.uint64] | None = getattr(_local, "dense", None)
    _local.dense = None
    if held is None or held.size < size:
        held = np.empty(size, np.uint64)
    try:
        yield held[:size].reshape(shape)
    finally:
        if held.size <= _KEEP:
            _local.dense = held


@contextlib.contextmanager
def scratch_for(block: Buffer, *, max_voxels: int = MAX_VOXELS) -> Iterator[NDArray[np.uint64]]:
    """A uint64 array of the block's shape to decode into, lent until the end of the ``with``.

    Raises
    ------
    FormatError
        If the block claims more than `max_voxels`.

    Examples
    --------
    >>> from dvid_dask.formats.label_blocks import decode_block, solid_block
    >>> block = solid_block(1, (16, 16, 16))
    >>> with scratch_for(block) as voxels:
    ...     int(decode_block(block, voxels).sum())
    4096
    """
    shape = block_shape(block)
    check_size(shape, max_voxels)
    with scratch(shape) as voxels:
        yield voxels
