"""The HTTP side of labelsz: counts and rankings of labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dvid_dask.datatypes.labelsz import INDEX_TYPES
from dvid_dask.errors import BadRequest

from .face import Call, Face
from .geometry import parse_int
from .responses import Response, empty, encode_json, json, stream

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dvid_dask.datatypes.labelsz import LabelSize, Ranked

__all__ = ["face"]

face = Face(
    "labelsz",
    about="""Counts of annotation elements by label and kind, in order of size.

    Types are PostSyn, PreSyn, Gap, Note, AllSyn (the first three together) and Voxels, which is always 0. Counts are
    part of the commit of the annotations that the instance follows, so no answer is behind.
    """,
    common=("sync",),
)

_UINT32 = 2**32 - 1
_UINT64 = 2**64 - 1
_PAGE = 10_000
"""Labels that ``threshold`` gives unless told otherwise."""

_TOGETHER = 1 << 13


def _index_type(call: Call, at: int) -> str:
    name = call.arg(at, f"a type ({', '.join(INDEX_TYPES)})")
    if name not in INDEX_TYPES:
        raise BadRequest(f"unknown index type {name[:40]!r}: expected {', '.join(INDEX_TYPES)}")
    return name


@face.get("count", args="/<label>/<type>", head=False)
def get_count(call: Call) -> Response:
    """Elements of one label: JSON ``{"Label": 21847, "PreSyn": 81}``; 0 for a label that has none."""
    ranks: LabelSize = call.instance
    label = parse_int(call.arg(0, "a label"), "label", 0, _UINT64)
    name = _index_type(call, 1)
    return json({"Label": label, name: ranks.count(label, name)})


@face.get("counts", args="/<type>", head=False)
def get_counts(call: Call) -> Response:
    """Elements of the labels in the body, a JSON list: ``[{"Label": 188, "PreSyn": 81}, ...]`` in its order."""
    ranks: LabelSize = call.instance
    name = _index_type(call, 0)
    labels: list[int] = call.json(list[int] | None) or []  # type: ignore[arg-type]
    if labels and not 0 <= min(labels) <= max(labels) <= _UINT64:
        raise BadRequest(f"labels are integers from 0 to {_UINT64}")
    found = ranks.counts(labels, name).tolist()

    def rows() -> Iterator[list[dict[str, int]]]:
        for at in range(0, len(labels), _TOGETHER):
            pairs = zip(labels[at : at + _TOGETHER], found[at : at + _TOGETHER], strict=True)
            yield [{"Label": label, name: n} for label, n in pairs]

    return stream(_json_list(rows()), "application/json")


@face.get("top", args="/<N>/<type>", head=False)
def get_top(call: Call) -> Response:
    """The N labels with most elements: JSON ``[{"Label": 188, "Size": 81}, ...]``, the largest first.

    Labels of equal size come by ascending label. N is from 0 to 4294967295.
    """
    n = parse_int(call.arg(0, "how many labels"), "number of labels", 0, _UINT32)
    return _ranking(call.instance.ranked(_index_type(call, 1), n=n))


@face.get("threshold", args="/<T>/<type>", head=False)
def get_threshold(call: Call) -> Response:
    """The labels with at least T elements, as ``top`` gives them.

    ``?offset=`` skips so many labels, ``?n=`` is how many come at most, by default (and for 0) 10000.
    """
    least = parse_int(call.arg(0, "a smallest size"), "smallest size", 0, _UINT32)
    name = _index_type(call, 1)
    offset, n = call.int("offset"), call.int("n")
    if n < 0:
        raise BadRequest(f"n={n} labels: expected 0 or more")
    # in DVID a negative offset shortens the page
    last = max(0, offset + (n or _PAGE))
    first = max(0, offset)
    return _ranking(call.instance.ranked(name, least=least, offset=first, n=max(0, last - first)))


def _ranking(parts: Iterable[Ranked]) -> Response:
    rows = (
        [{"Label": label, "Size": size} for label, size in zip(part.label.tolist(), part.size.tolist(), strict=True)]
        for part in parts
    )
    return stream(_json_list(rows), "application/json")


def _json_list(parts: Iterable[list[dict[str, int]]]) -> Iterator[bytes]:
    lead = b"["
    for part in parts:
        yield lead + encode_json(part)[1:-1]
        lead = b","
    yield b"[]" if lead == b"[" else b"]"


@face.post("reload")
def post_reload(call: Call) -> Response:
    """Count anew the elements of the annotations that the instance follows, at this version.

    Counts are right without it wherever the sync was set. It changes one thing, as in DVID: ``AllSyn`` counts elements
    of all kinds from then on. Queries go on meanwhile. An instance that follows no annotation stays as it is.
    """
    ranks: LabelSize = call.instance
    ranks.check_open(call.force)
    if ranks.follows:
        ranks.recount(everything=True, user=call.user, app=call.app, force=call.force)
    return empty()
