"""Volumes of any kind, by what they are given as."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.boxes import Box
from dvid_dask.errors import BadRequest, NotFound

from .arrays import DaskVolume, arranged, of_numpy, open_npy
from .hdf5 import Hdf5Volume
from .images import IMAGES, open_images
from .naming import split_hdf5
from .tensorstores import TensorstoreVolume, open_path
from .volume import Volume

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

__all__ = ["open_volume"]


def open_volume(
    source: Any,
    *,
    axes: str | Sequence[str] | None = None,
    select: Mapping[str, int] | None = None,
    dataset: str | None = None,
    crop: Box | tuple[Sequence[int], Sequence[int]] | None = None,
    dtype: DTypeLike | None = None,
) -> Volume:
    """Open a volume that is no instance; no voxel is read yet.

    Arguments, result and errors are those of `dvid_dask.ops.open_volume`, the door for everybody.
    """
    volume = _open(source, None if axes is None else [a.lower() for a in axes], dict(select or {}), dataset)
    if crop is not None:
        volume = volume.crop(crop)
    return volume if dtype is None else volume.astype(dtype)


def _open(source: Any, axes: list[str] | None, select: dict[str, int], dataset: str | None) -> Volume:
    if isinstance(source, Volume):
        return source
    if isinstance(source, np.ndarray):
        return of_numpy(arranged(source, axes, select), "numpy array")
    if isinstance(source, os.PathLike):
        source = os.fspath(source)
    if isinstance(source, str):
        return _open_text(source, axes, select, dataset)
    if isinstance(source, Mapping):
        return TensorstoreVolume(source, str(source.get("driver", "tensorstore")), axes, select)
    if isinstance(source, (list, tuple)) and all(isinstance(p, (str, os.PathLike)) for p in source):
        return open_images([os.fspath(p) for p in source])
    kind = f"{type(source).__module__}.{type(source).__qualname__}"
    if kind.startswith("dask.array."):
        return DaskVolume(arranged(source, axes, select))
    if kind.startswith("tensorstore.") and hasattr(source, "spec"):
        return TensorstoreVolume(source.spec().to_json(), "tensorstore", axes, select)
    if kind.startswith("zarr."):
        return _of_zarr(source, axes, select)
    raise BadRequest(
        f"can't read a volume from {kind}: give a numpy or dask array, a path or URL, a list of image files, "
        "or a tensorstore spec"
    )


def _open_text(text: str, axes: list[str] | None, select: dict[str, int], dataset: str | None) -> Volume:
    lower = text.lower()
    if (found := split_hdf5(text, dataset)) is not None:
        _must_exist(found[0])
        return Hdf5Volume(*found, axes)
    if lower.endswith(".npy"):
        _must_exist(text)
        return open_npy(text) if axes is None else _open(np.load(text, mmap_mode="r"), axes, select, None)
    if lower.endswith(IMAGES):
        return open_images(text)
    try:
        return open_path(text, axes, select)
    except ValueError as e:
        if isinstance(e, BadRequest):
            raise
        raise BadRequest(f"{text}: tensorstore can't open it: {e}") from e


def _must_exist(path: str) -> None:
    if not os.path.exists(path):
        raise NotFound(f"{path}: no such file")


def _of_zarr(array: Any, axes: list[str] | None, select: dict[str, int]) -> Volume:
    """An array opened by zarr-python: read through tensorstore where its store is a directory."""
    root = getattr(array.store, "root", None)
    if root is None or not hasattr(array, "metadata"):
        raise BadRequest("of zarr-python, arrays in local directories can be read; for others give their URL")
    driver = "zarr3" if array.metadata.zarr_format == 3 else "zarr"
    path = Path(root) / array.path
    return open_path(f"{driver}://{path}", axes, select)
