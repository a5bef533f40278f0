"""The label index and the mapping."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import filesize

from dvid_dask.errors import BadRequest
from dvid_dask.formats import dvid_pb2, label_index

from ..face import Call
from ..geometry import (
    parse_label,
)
from ..responses import empty, json, not_found, octets, stream, text
from .request import (
    absent_is_404,
    face,
    json_body,
    label_arg,
    labels_of,
    of,
)

if TYPE_CHECKING:
    from starlette.responses import Response


MAX_INDICES = 50_000


@face.get("index", args="/<body>", head=False, quick=True)
@absent_is_404
def get_index(call: Call) -> Response:
    """The label index of a body as protobuf LabelIndex; ``metadata-only=true``: sums and last change as JSON."""
    body = label_arg(call)
    if call.query.get("mutid"):
        parse_label(call.query["mutid"], "mutid")
        return not_found()  # indices before a mutation are kept by DVID's mutation cache, which is not here
    call.throttled()
    if call.flag("metadata-only"):
        header = of(call).header(body)
        return json(
            {
                "num_voxels": header.voxels,
                "last_mutid": header.stamp.mutation,
                "last_mod_time": header.stamp.time,
                "last_mod_user": header.stamp.user,
                "last_mod_app": header.stamp.app,
            }
        )
    message = of(call).index_message(body)
    if message is None:
        call.needs_thread()
        message = label_index.encode_index(of(call).index(body))
    return octets(message)


@face.post("index", args="/<body>")
def post_index(call: Call) -> Response:
    """Replace the label index of a body by a protobuf LabelIndex; one without blocks deletes it. Nothing is checked
    against the voxels.
    """
    body = label_arg(call)
    call.throttled()
    given = label_index.decode_index(call.body.all())
    if given.label != body:
        raise BadRequest(f"the index is of label {given.label}, the path says {body}")
    of(call).set_indices([given], force=call.force)
    return empty()


def listed_bodies(call: Call) -> list[int]:
    labels = labels_of(call.body.all())
    if len(labels) > MAX_INDICES:
        raise BadRequest(f"{len(labels)} indices were asked for; at most {MAX_INDICES} at once")
    call.throttled()
    return labels


@face.get("indices", head=False)
def get_indices(call: Call) -> Response:
    """The label indices of a JSON list of up to 50,000 bodies, as protobuf LabelIndices in their order."""
    labels = listed_bodies(call)
    found = zip(labels, of(call).indices(labels), strict=True)
    return stream(label_index.encode_indices([label_index.LabelIndex(label) if i is None else i]) for label, i in found)


@face.post("indices")
def post_indices(call: Call) -> Response:
    """Replace label indices by those of a protobuf LabelIndices, all or none; those without blocks are deleted."""
    call.throttled()
    of(call).set_indices(list(label_index.decode_indices(call.body.all())), force=call.force)
    return empty()


@face.get("indices-compressed", head=False)
def get_indices_compressed(call: Call) -> Response:
    """As ``indices``, each as uint64 nbytes, uint64 label, and the LZ4 LabelIndex behind DVID's 5-byte header."""
    labels = listed_bodies(call)
    found = zip(labels, of(call).indices(labels), strict=True)
    return stream(label_index.encode_record(label, index) for label, index in found)


@face.get("index-version", args="/<body>", head=False)
def get_index_version(call: Call) -> Response:
    """UUID of the version at which the index of a body was last written or deleted."""
    call.throttled()
    return text(of(call).index_version(label_arg(call)).uuid)


# ------------------------------------------------------------------ mapping


@face.get("mapping", head=False)
def get_mapping(call: Call) -> Response:
    """The bodies of a JSON list of supervoxels: a list, 0 for ids that are retired or don't exist.

    ``nolookup=true``: ids without entry in the mapping are not looked up in the label index. ``hash``: MD5 of the body.
    """
    ids = np.array(labels_of(json_body(call)), np.uint64)
    return json(of(call).mapping(ids, lookup=not call.flag("nolookup")).tolist())


@face.get("mappings", head=False)
def get_mappings(call: Call) -> Response:
    """All supervoxels that belong to a body of another id: lines ``supervoxel body``, or uint64 pairs with
    ``format=binary``. Body 0: the id is retired.
    """
    call.throttled()
    pages = of(call).mappings()
    first = next(pages, None)
    if first is None:
        return empty()

    def every() -> Iterator[Any]:
        yield first
        yield from pages

    if call.query.get("format") == "binary":
        return stream(np.stack(page, axis=1).tobytes() for page in every())
    return stream(
        ("".join(f"{a} {b}\n" for a, b in zip(*(c.tolist() for c in page), strict=True)).encode() for page in every()),
        "text/plain; charset=utf-8",
    )


@face.post("mappings")
def post_mappings(call: Call) -> Response:
    """Set the bodies of supervoxels by a protobuf MappingOps, all or none. The label index is not touched."""
    call.throttled()
    ops = dvid_pb2.MappingOps()
    try:
        ops.ParseFromString(call.body.all())
    except Exception as e:  # DecodeError, which no stub names
        raise BadRequest(f"the body is no MappingOps message: {e}") from None
    ids = [np.array(op.original, np.uint64) for op in ops.mappings]
    bodies = [np.full(len(op.original), op.mapped, np.uint64) for op in ops.mappings]
    if ids:
        of(call).set_mappings(np.concatenate(ids), np.concatenate(bodies), force=call.force)
    return empty()


@face.get("supervoxel-splits", head=False)
def get_supervoxel_splits(call: Call) -> Response:
    """Splits of supervoxels up to this version, nearest version first: JSON ``[uuid, [[mutation id, supervoxel, rest,
    cut off], ...], uuid, ...]``.
    """
    told: list[Any] = []
    for version, rows in of(call).supervoxel_splits():
        told += [version.uuid, rows.tolist()]
    return json(told)


@face.get("map-stats", head=False)
def get_map_stats(call: Call) -> Response:
    """How large the mapping is: JSON ``{name: {MapEntries, MapSize, NumVersions, MaxVersion}}`` of this instance."""
    entries, size = of(call).mapping_size()
    path = list(call.version.path_to_root())
    stats = {
        "MapEntries": entries,
        "MapSize": filesize.decimal(size),
        "NumVersions": len(path),
        "MaxVersion": max(v.id for v in path),
    }
    return json({call.instance.name: stats})
