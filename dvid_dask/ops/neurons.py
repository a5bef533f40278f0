"""Annotations of neurons in bulk: as a dask dataframe, from files and other instances, and what versions changed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from dvid_dask.datatypes.neuronjson import NeuronJSON, Selection
from dvid_dask.datatypes.neuronjson.frames import part_of_frame, to_pandas
from dvid_dask.errors import BadRequest

if TYPE_CHECKING:
    from dvid_dask.datatypes.base import Datatype

__all__ = ["import_keyvalue", "ingest_annotations", "neuron_table", "version_changes"]

#: Annotations in one commit.
_BATCH = 5_000
_BODY = re.compile(r"[0-9]{1,20}", re.ASCII)


def neuron_table(
    neurons: NeuronJSON, fields: Sequence[str] | None = None, *, show: str = "", partition: int = 20_000
) -> Any:
    """Annotations at one state of a version, as a dask dataframe whose parts are read where they are computed.

    Parameters
    ----------
    neurons : NeuronJSON
    fields, show
        As `NeuronJSON.arrow`, which tells of the types as well.
    partition : int
        Annotations in one part.

    Returns
    -------
    dask.dataframe.DataFrame
        Sorted by its index ``bodyid``, with known divisions. It stays as it is, whatever is written meanwhile.

    Examples
    --------
    >>> import dvid_dask
    >>> neurons = dvid_dask.create("memory://").new_repo().new_instance("neuronjson", "neurons")
    >>> neurons.put_many({body: {"type": f"T{body % 3}", "size": body} for body in range(1, 100)}, user="ann")
    >>> table = neuron_table(neurons, ["type", "size"], partition=40)
    >>> table.npartitions, int(table[table.type == "T1"]["size"].sum().compute())
    (3, 1617)
    """
    import dask.dataframe as dd

    if partition < 1:
        raise BadRequest(f"partition={partition}: a part holds at least one annotation")
    space = neurons.view()
    selection = Selection(show, fields)
    frame = neurons.arrow_at(space, selection)
    bodies = frame["bodyid"].to_numpy()
    schema = frame.schema
    if not len(bodies):
        return dd.from_pandas(to_pandas(frame), npartitions=1)
    starts = np.arange(0, len(bodies), partition)
    ends = np.minimum(starts + partition, len(bodies)) - 1
    spans = list(zip(bodies[starts].tolist(), bodies[ends].tolist(), strict=True))
    divisions = (*bodies[starts].tolist(), int(bodies[-1]))
    meta = to_pandas(schema.empty_table())
    return dd.from_map(part_of_frame, spans, space=space, schema=schema, meta=meta, divisions=divisions)


# ---------------------------------------------------------------------- in


def ingest_annotations(
    neurons: NeuronJSON,
    source: str | os.PathLike[str] | Iterable[dict[str, Any]],
    *,
    user: str,
    app: str = "",
    replace: bool = False,
    conditional: Sequence[str] = (),
    tell: Callable[[int], None] | None = None,
) -> int:
    """Update annotations from a file, or from dictionaries, in commits of 5,000.

    Parameters
    ----------
    neurons : NeuronJSON
    source : path or iterable of dict
        ``.json``: a list of objects; ``.jsonl``: one on each line; ``.parquet``, ``.csv``: a row for each, of which
        empty cells are left out. Each has ``bodyid``.
    user, app, replace, conditional
        As `NeuronJSON.put_many`.
    tell : callable, optional
        Gets the number of annotations that are in, after each commit.

    Returns
    -------
    int
        How many there were. When one can't be taken, those of the commits before it stay.
    """
    count = 0
    rows = _read(Path(source)) if isinstance(source, (str, os.PathLike)) else iter(source)
    while part := list(islice(rows, _BATCH)):
        pairs = [(_body_of_row(row, count + n), row) for n, row in enumerate(part)]
        neurons.put_many(pairs, user=user, app=app, replace=replace, conditional=conditional)
        count += len(part)
        if tell is not None:
            tell(count)
    return count


def _body_of_row(row: Any, number: int) -> int:
    body = row.get("bodyid") if isinstance(row, dict) else None
    if isinstance(body, bool) or not isinstance(body, int):
        raise BadRequest(f"annotation {number} (from 0) has no integer 'bodyid': {row!r:.200}")
    return body


def _read(path: Path) -> Iterator[dict[str, Any]]:
    kind = path.suffix.lower()
    if kind == ".json":
        return iter(_decoded(path.read_bytes(), str(path), list[dict[str, Any]]))
    if kind in (".jsonl", ".ndjson"):
        return _lines(path)
    if kind in (".parquet", ".csv"):
        return _rows(path, kind)
    raise BadRequest(f"{path}: expected a .json, .jsonl, .parquet or .csv file")


def _decoded(data: bytes, where: str, kind: Any) -> Any:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"{where}: {error}") from None


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _decoded(line, f"{path}, line {number}", dict[str, Any])


def _rows(path: Path, kind: str) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    from pyarrow import csv, parquet

    try:
        batches = csv.open_csv(path) if kind == ".csv" else parquet.ParquetFile(path).iter_batches(_BATCH)
        for batch in batches:
            for row in batch.to_pylist():
                yield {name: value for name, value in row.items() if value is not None}
    except pa.ArrowException as error:
        raise BadRequest(f"{path}: {error}") from None


def import_keyvalue(neurons: NeuronJSON, source: Datatype, *, user: str = "", app: str = "") -> tuple[int, list[str]]:
    """Copy the annotations that a keyvalue instance holds at its version, with the stamps that they have.

    The keys ``json_schema``, ``schema`` and ``schema_batch`` become the documents of these names. What is there is
    replaced.

    Returns
    -------
    int
        How many annotations were copied.
    list of str
        Keys that weren't: they are no body ids.

    Raises
    ------
    BadRequest
        A value is no annotation of its key. Those of earlier commits (of 5,000 each) stay.
    """
    if source.typename != "keyvalue":
        raise BadRequest(f"{source.name!r} is a {source.typename}, not a keyvalue")
    skipped: list[str] = []
    count = 0
    pending: list[tuple[int, bytes]] = []
    pairs: Iterator[tuple[str, bytes]] = source.get_range()  # type: ignore[attr-defined]
    for key, value in pairs:
        if key in ("json_schema", "schema", "schema_batch"):
            neurons.set_document(key, value, user=user, app=app)
        elif not _BODY.fullmatch(key) or not 0 < int(key) < 2**64:
            skipped.append(key)
        else:
            pending.append((int(key), value))
        if len(pending) == _BATCH:
            neurons.load(pending, user=user, app=app)
            count, pending = count + len(pending), []
    if pending:
        neurons.load(pending, user=user, app=app)
    return count + len(pending), skipped


# ---------------------------------------------------------------------- out


def version_changes(neurons: NeuronJSON, folder: str | os.PathLike[str]) -> dict[str, int]:
    """Write what each version up to this one changed: a file ``<uuid>.json`` for each that changed something.

    A file is a JSON list with the annotations that the version set, stamps and all, in order of their body ids, and
    ``{"bodyid": n, "tombstone": true}`` for those that it removed. Files of these names are replaced.

    Parameters
    ----------
    neurons : NeuronJSON
        At the last version; those before it are its first parents.
    folder : path
        Made if it isn't there.

    Returns
    -------
    dict
        Number of changes by UUID, oldest version first.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    counts: dict[str, int] = {}
    path = neurons.version.path_to_root()
    for older, version in zip([None, *path[::-1]], path[::-1], strict=False):
        changes = version.instance(neurons.info).changed_texts(older)  # type: ignore[attr-defined]
        partial = target / f".{version.uuid}.json.part"
        count = 0
        with partial.open("wb") as file:
            for body, text in changes:
                file.write(b"[\n" if not count else b",\n")
                file.write(text if text is not None else json.dumps({"bodyid": body, "tombstone": True}).encode())
                count += 1
            file.write(b"\n]\n")
        if count:
            partial.replace(target / f"{version.uuid}.json")
            counts[version.uuid] = count
        else:
            partial.unlink()
    return counts
