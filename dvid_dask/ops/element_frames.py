"""Annotation elements as a dask dataframe, and as Parquet files: what `load_elements` takes back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from dvid_dask.bases import directory_url
from dvid_dask.datatypes.annotation import Annotation, Elements, keys
from dvid_dask.datatypes.annotation.elements import decode_many
from dvid_dask.errors import NotSupported
from dvid_dask.ops import job
from dvid_dask.ops.dump import LEDGER, begin_folder, part_url
from dvid_dask.ops.element_tables import SCHEMA, to_arrow
from dvid_dask.ops.elements import BLOCKS_PER_TASK, block_runs
from dvid_dask.ops.folders import end_job, ledger_at, plain_url, write_whole
from dvid_dask.ops.job import LedgerPhase, Result, ScratchLedger
from dvid_dask.ops.progress import Progress

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from dvid_dask.datatypes.base import Datatype, Space

__all__ = ["ElementsExportReport", "elements_dataframe", "export_elements"]

_BLOCKS_TOGETHER = 1024


@dataclass(frozen=True)
class _Runs:
    """The elements of an annotation in one state, in runs of blocks; it pickles.

    With a segmentation, each element comes with its body and supervoxel.
    """

    space: Space
    starts: tuple[bytes, ...]
    segmentation: Any
    labels: Space | None

    @property
    def schema(self) -> pa.Schema:
        if self.labels is None:
            return SCHEMA
        return SCHEMA.append(pa.field("body", pa.uint64())).append(pa.field("supervoxel", pa.uint64()))

    def parts(self, run: int) -> Iterator[pa.Table]:
        """The elements of a run, some blocks at a time."""
        stop = self.starts[run + 1] if run + 1 < len(self.starts) else None
        values: list[bytes] = []
        for _, value in self.space.scan(keys.BLOCK, self.starts[run], stop):
            values.append(value)
            if len(values) == _BLOCKS_TOGETHER:
                yield self._table(decode_many(values)[0])
                values = []
        if values:
            yield self._table(decode_many(values)[0])

    def _table(self, elements: Elements) -> pa.Table:
        table = to_arrow(elements)
        if self.labels is None:
            return table
        bodies, supervoxels = self._located(elements.zyx)
        return table.append_column("body", pa.array(bodies)).append_column("supervoxel", pa.array(supervoxels))

    def _located(self, zyx: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        return self.segmentation.labels_in(self.labels, zyx)  # type: ignore[no-any-return]

    def __call__(self, run: int) -> pd.DataFrame:
        return _frame(pa.concat_tables([self.schema.empty_table(), *self.parts(run)]))


def _frame(table: pa.Table) -> pd.DataFrame:
    import pandas as pd

    return table.to_pandas(types_mapper=pd.ArrowDtype)


def _runs(instance: Datatype, *, bodies: bool) -> _Runs:
    if not isinstance(instance, Annotation):
        raise NotSupported(f"{instance.name!r} is a {instance.info.typename}: elements belong to an annotation")
    source: Any = instance.source if bodies else None
    if bodies and source is None:
        raise NotSupported(f"{instance.name!r} follows no segmentation, so its elements are in no body")
    space = instance.view(0)
    labels = source.view(0) if bodies else None
    return _Runs(space, tuple(block_runs(space)), source, labels)


def elements_dataframe(instance: Datatype, *, bodies: bool = False) -> Any:
    """All elements of an annotation, as a dask dataframe: nothing but keys is read until it is computed.

    Parameters
    ----------
    instance
        An annotation, at any version; what is read is its state at the time of this call.
    bodies
        Whether to look up what each element lies in.

    Returns
    -------
    dask.dataframe.DataFrame
        Columns ``x``, ``y``, ``z`` (int32), ``kind`` (text), ``tags`` (list of texts), ``prop`` (map of texts),
        ``rels`` (list of ``rel``, ``x``, ``y``, ``z``), all of Arrow's types, in the order of blocks z, y, x; with
        `bodies` also ``body`` and ``supervoxel`` (uint64), 0 for background. Some thousand blocks are a partition.

    Raises
    ------
    NotSupported
        If it is no annotation, or `bodies` is asked of one that follows no segmentation.

    Examples
    --------
    >>> import dvid_dask
    >>> repo = dvid_dask.create("memory://").new_repo("fly")
    >>> synapses = repo.new_instance("annotation", "synapses")
    >>> synapses.add([{"Pos": [5, 5, 0], "Kind": "PreSyn"}, {"Pos": [5, 5, 3], "Kind": "PostSyn"}])
    2
    >>> frame = elements_dataframe(synapses)
    >>> frame.kind.value_counts().compute().to_dict()
    {'PostSyn': 1, 'PreSyn': 1}
    """
    import dask.dataframe as dd

    runs = _runs(instance, bodies=bodies)
    meta = _frame(runs.schema.empty_table())
    if not runs.starts:
        return dd.from_pandas(meta, npartitions=1)
    return dd.from_map(runs, range(len(runs.starts)), meta=meta)


@dataclass(frozen=True)
class ElementsExportReport:
    """What an export of elements did.

    Attributes
    ----------
    destination
        Where they were written.
    elements
        How many.
    seconds
        Time of this run.
    """

    destination: str
    elements: int
    seconds: float

    def __str__(self) -> str:
        return f"wrote {self.elements:,} elements to {self.destination} in {self.seconds:.1f} s"


@dataclass(frozen=True)
class _WriteRun:
    ledger: ScratchLedger
    runs: _Runs
    url: str

    def __call__(self, run: int) -> Result:
        from pyarrow import parquet

        rows = 0
        with (
            write_whole(part_url(plain_url(self.url), run, "parquet"), f"{plain_url(self.url)}{LEDGER}drafts/") as file,
            parquet.ParquetWriter(file, self.runs.schema, compression="zstd") as writer,
        ):
            for table in self.runs.parts(run):
                writer.write_table(table)
                rows += len(table)
        return self.ledger.commit("parts", run, lambda _, __: {"rows": rows})


def export_elements(
    instance: Datatype, destination: str, *, bodies: bool = False, client: Any = None, progress: bool = True
) -> ElementsExportReport:
    """Write all elements of an annotation to a folder of Parquet files; killed and started again it goes on.

    All is read from one state of the version. What an earlier export wrote there is replaced, file by file.
    `load_elements` takes such a folder.

    Parameters
    ----------
    instance
        An annotation, at any version.
    destination
        Path or URL of a folder.
    bodies
        Whether to add the columns ``body`` and ``supervoxel``.
    client, progress
        As for `ingest`.

    Raises
    ------
    Conflict
        If the folder holds something else.
    NotSupported
        As `elements_dataframe`.
    """
    began = time.monotonic()
    runs = _runs(instance, bodies=bodies)
    client = job.find_client(client)
    job.check_reach(client, instance)
    folder = directory_url(destination)
    states = [runs.space.token, None if runs.labels is None else runs.labels.token]
    name = job.job_name(op="export-elements", instance=instance.info.data_uuid, states=states)
    ledger = ledger_at(folder + LEDGER, name, lambda: begin_folder(folder, "parquet"), replace=True)
    show = Progress(progress, unit="Melement")
    count = len(runs.starts)
    show.say(f"export elements of {instance.name!r} at version {instance.version.uuid[:12]}: {count:,} parts")
    if not count:  # a table without rows is one too
        runs = _Runs(runs.space, (keys.BLOCK,), runs.segmentation, runs.labels)
    task = _WriteRun(ledger, runs, folder)
    job.execute(LedgerPhase(ledger, "parts", "export", [BLOCKS_PER_TASK] * len(runs.starts), task), client, show)
    rows = sum(r["rows"] for r in ledger.done("parts").values())
    end_job(ledger, folder + LEDGER)
    return ElementsExportReport(destination, rows, time.monotonic() - began)
