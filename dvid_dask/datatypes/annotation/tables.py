"""Elements from dataframes and JSON-like rows, and to dataframes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from dvid_dask.datatypes.annotation.elements import NULL, Elements, Texts
from dvid_dask.datatypes.annotation.kinds import KIND_NUMBER, KINDS, RELATION_NUMBER, RELATIONS
from dvid_dask.datatypes.annotation.parsing import MAX_TAG, element_of, elements_of
from dvid_dask.errors import BadRequest

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["frame", "from_rows"]

_dumps = msgspec.json.Encoder(order="sorted").encode
_loads = msgspec.json.Decoder().decode


def frame(elements: Elements, *, rels: bool = False) -> pd.DataFrame:
    """Elements as a dataframe; with `rels` their relationships too."""
    import pandas as pd

    tags = [_loads(t) or [] for t in elements.tags.text]
    props = [_loads(t) or {} for t in elements.prop.text]
    table = pd.DataFrame(
        {
            "z": elements.zyx[:, 0],
            "y": elements.zyx[:, 1],
            "x": elements.zyx[:, 2],
            "kind": pd.Categorical.from_codes(elements.kind.astype(np.int8), categories=list(KINDS)),
        }
    )
    table["tags"] = pd.Series([list(tags[n]) for n in elements.tags.number.tolist()], dtype=object)
    table["prop"] = pd.Series([dict(props[n]) for n in elements.prop.number.tolist()], dtype=object)
    if rels:
        each = zip((RELATIONS[k] for k in elements.rel_kind.tolist()), elements.rel_to.tolist(), strict=True)
        counts = np.maximum(elements.rel_count, 0).tolist()
        lists = [[(kind, *to) for kind, to in itertools.islice(each, n)] for n in counts]
        table["rels"] = pd.Series(lists, dtype=object)
    return table


def from_rows(given: Any) -> Elements:
    """Elements as `Annotation.add` takes them.

    Raises
    ------
    BadRequest
        If they can't be used.
    """
    if isinstance(given, Elements):
        return given
    if hasattr(given, "columns") and hasattr(given, "to_dict"):
        return _of_frame(given)
    if isinstance(given, Sequence) and all(isinstance(row, Mapping) for row in given):
        return elements_of([element_of(row, place) for place, row in enumerate(given)])
    raise BadRequest(f"elements come as columns, a dataframe or a list of dicts, not as {type(given).__name__}")


def _of_frame(table: pd.DataFrame) -> Elements:
    missing = {"z", "y", "x"} - set(table.columns)
    if missing:
        raise BadRequest(f"the table of elements has no column {', '.join(sorted(missing))}")
    zyx = np.stack([_integers(table[axis], axis) for axis in "zyx"], axis=1).reshape(-1, 3)
    n = len(zyx)
    kind = np.zeros(n, np.uint8)
    if "kind" in table:
        names = [str(name) for name in table["kind"]]
        unknown = set(names) - KIND_NUMBER.keys()
        if unknown:
            raise BadRequest(f"kinds are {', '.join(KINDS)}, not {', '.join(sorted(unknown)[:5])}")
        kind = np.array([KIND_NUMBER[name] for name in names], np.uint8)
    tags = _texts(table, "tags", list) if "tags" in table else None
    prop = _texts(table, "prop", dict) if "prop" in table else None
    if "rels" not in table:
        return Elements.of(zyx, kind, tags, prop)
    rels = [list(r) if r is not None else [] for r in table["rels"]]
    flat = list(itertools.chain.from_iterable(rels))
    if any(len(r) != 4 or r[0] not in RELATION_NUMBER for r in flat):
        raise BadRequest(f"relationships are (kind, z, y, x), kinds {', '.join(RELATIONS)}")
    to = np.array([r[1:] for r in flat], np.int64).reshape(-1, 3)
    _check_int32(to, "rels")
    return Elements.of(
        zyx,
        kind,
        tags,
        prop,
        rel_count=[len(r) for r in rels],
        rel_kind=[RELATION_NUMBER[r[0]] for r in flat],
        rel_to=to,
    )


def _integers(column: Any, name: str) -> Any:
    values = np.asarray(column)
    if values.dtype.kind not in "iu":
        raise BadRequest(f"column {name} holds integers, not {values.dtype}")
    _check_int32(values, name)
    return values.astype(np.int32)


def _check_int32(values: Any, name: str) -> None:
    if values.size and (int(values.min()) < -(2**31) or int(values.max()) >= 2**31):
        raise BadRequest(f"column {name} leaves signed 32-bit coordinates")


def _texts(table: pd.DataFrame, name: str, kind: type) -> Texts:
    texts: list[bytes] = []
    for value in table[name]:
        if value is None:
            texts.append(NULL)
            continue
        plain = kind(value) if not isinstance(value, str) else value
        inside = plain.items() if isinstance(plain, dict) else ((t, t) for t in plain)
        if isinstance(plain, str) or not all(isinstance(a, str) and isinstance(b, str) for a, b in inside):
            raise BadRequest(f"column {name} holds {'dicts' if kind is dict else 'lists'} of texts")
        if kind is list and any(not t or len(t.encode()) > MAX_TAG for t in plain):
            raise BadRequest(f"a tag is a text of 1 to {MAX_TAG} bytes")
        texts.append(_dumps(plain))
    return Texts.of(texts)
