"""Volumes that tensorstore reads: zarr 2 and 3, OME-Zarr, N5, precomputed, and whatever has a JSON spec."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import tensorstore as ts

from dvid_dask.boxes import Box
from dvid_dask.errors import BadRequest, NotFound

from .axes import arrange, names_by_custom
from .urls import directory_url, kvstore_spec
from .volume import Volume, shape3

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MARKS", "SCHEMES", "TensorstoreVolume", "axis_names", "find_driver", "open_path", "ome_array", "read_json"]

_CHUNK_CACHE = 128 << 20

#: Formats as URLs name them, and tensorstore's drivers for them.
SCHEMES = {
    "precomputed": "neuroglancer_precomputed",
    "zarr": "zarr",
    "zarr2": "zarr",
    "zarr3": "zarr3",
    "n5": "n5",
}

#: Files by which a directory shows its format.
MARKS = {
    "zarr.json": "zarr3",
    ".zarray": "zarr",
    ".zgroup": "zarr",
    "attributes.json": "n5",
    "info": "neuroglancer_precomputed",
}


class TensorstoreVolume(Volume):
    """Anything tensorstore reads, by its JSON spec."""

    def __init__(
        self, spec: Mapping[str, Any], name: str, axes: Sequence[str] | None, select: Mapping[str, int]
    ) -> None:
        self._spec = json.dumps(spec, sort_keys=True)
        self.name = name
        store = _open.__wrapped__(self._spec, "")
        self._domain = str(store.domain)
        names = axis_names(store, str(spec.get("driver"))) if axes is None else list(axes)
        self._arrangement = arrange(names, store.domain.origin, store.domain.shape, select, name)
        view = self._view()
        self._origin = tuple(int(i) for i in view.domain.origin)
        self.shape = shape3(view.domain.shape, name)
        self.dtype = np.dtype(view.dtype.numpy_dtype)
        read = view.chunk_layout.read_chunk.shape or (1, 1, 1)
        nz, ny, nx = (int(c) if c else 1 for c in read)
        self.chunks = (nz, ny, nx)
        fixed, order = list(self._arrangement.fixed), self._arrangement.order
        self.identity = f"tensorstore:{self._spec}{order}{fixed}{self.shape}{self.dtype}"

    def _view(self) -> Any:
        store = _open(self._spec, self._domain)
        for dim, index in self._arrangement.fixed:
            store = store[(slice(None),) * dim + (index,)]
        return store.transpose(list(self._arrangement.order))

    def _read(self, box: Box) -> NDArray[Any]:
        part = self._view()[box.shift(self._origin).slices()]
        return np.asarray(part.read(order="C").result())


@functools.lru_cache(maxsize=8)
def _open(spec: str, domain: str) -> Any:
    """Open handles by spec and the domain they had: an array that was written anew is opened anew."""
    try:
        # bricks may cut the source's chunks: those at their edges are decoded once
        context = ts.Context({"cache_pool": {"total_bytes_limit": _CHUNK_CACHE}})
        return ts.open(json.loads(spec), read=True, open=True, context=context, recheck_cached_data="open").result()
    except ValueError as e:
        raise BadRequest(f"tensorstore can't open {spec}: {e}") from e


def axis_names(store: Any, driver: str) -> list[str]:
    """Names of dimensions that the data carries, or what its format lists by custom."""
    labels = ["c" if label.lower() == "channel" else label.lower() for label in store.domain.labels]
    if {"z", "y", "x"} <= set(labels):
        return labels
    if driver == "n5":  # lists the fastest dimension first
        return list("xyzct"[: store.rank])
    return names_by_custom(store.rank)


def open_path(text: str, axes: Sequence[str] | None, select: Mapping[str, int]) -> Volume:
    """A directory or bucket of chunks, in whatever format it is.

    Raises
    ------
    NotFound
        There is none.
    """
    scheme, _, rest = text.partition("://")
    driver = SCHEMES.get(scheme, "") if rest else ""
    if not driver:
        rest = text
    if "|" in rest:
        return TensorstoreVolume(ts.Spec(rest).to_json(), text, axes, select)
    kvstore = ts.KvStore.open(kvstore_spec(directory_url(rest))).result()
    driver = driver or find_driver(kvstore, text)
    spec: dict[str, Any] = {"driver": driver, "kvstore": kvstore.spec().to_json()}
    if driver in ("zarr", "zarr3"):
        path, named = ome_array(kvstore)
        spec["kvstore"] = (kvstore / path).spec().to_json()
        axes = axes or named
    return TensorstoreVolume(spec, text, axes, select)


def find_driver(kvstore: Any, text: str) -> str:
    """Tensorstore's driver for what lies in a directory.

    Raises
    ------
    NotFound
        If there is nothing that shows it.
    """
    for mark, driver in MARKS.items():
        if kvstore.read(mark).result().state == "value":
            return driver
    raise NotFound(
        f"{text}: no volume found there: looked for {', '.join(MARKS)}. Files of images need a glob like "
        "'slices/*.tif'; a format that shows in no file can be named: zarr://, zarr3://, n5://, precomputed://"
    )


def ome_array(kvstore: Any) -> tuple[str, list[str] | None]:
    """Path of the finest scale of an OME-Zarr group and the names of its axes; of an array, itself."""
    node = read_json(kvstore, "zarr.json")
    attributes = node.get("attributes", {})
    attributes = attributes.get("ome", attributes) if node else read_json(kvstore, ".zattrs")
    named = attributes.get("_ARRAY_DIMENSIONS") if not node else None
    scales = attributes.get("multiscales")
    if node.get("node_type") == "array" or not scales:
        return "", [str(a).lower() for a in named] if named else None
    axes = [a["name"] if isinstance(a, dict) else a for a in scales[0].get("axes", [])]
    return str(scales[0]["datasets"][0]["path"]) + "/", [str(a).lower() for a in axes] or None


def read_json(kvstore: Any, key: str) -> dict[str, Any]:
    """A JSON file of a directory; empty where there is none."""
    found = kvstore.read(key).result()
    if found.state != "value":
        return {}
    return cast("dict[str, Any]", json.loads(found.value))
