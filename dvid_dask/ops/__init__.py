"""Bulk operations as Dask graphs: ingest, coarser scales, label index, export."""

from __future__ import annotations

from dvid_dask.boxes import Box
from dvid_dask.ops.adopt import adopt, type_for
from dvid_dask.ops.adopt_labels import AdoptReport, adopt_labels
from dvid_dask.ops.agglomerate import AgglomerateReport, agglomerate
from dvid_dask.ops.composite import composite
from dvid_dask.ops.contacts import contacts
from dvid_dask.ops.downres import DownresReport, downres
from dvid_dask.ops.drafts import abandon
from dvid_dask.ops.dump import TABLES, DumpReport, dump
from dvid_dask.ops.dump_volumes import dump_volumes
from dvid_dask.ops.edit import EditReport, edit
from dvid_dask.ops.element_frames import ElementsExportReport, elements_dataframe, export_elements
from dvid_dask.ops.elements import ElementsReport, load_elements, reload_elements
from dvid_dask.ops.export import ExportReport, export
from dvid_dask.ops.foreground import foreground_roi
from dvid_dask.ops.index import IndexProblem, IndexReport, check_index
from dvid_dask.ops.ingest import IngestPlan, Report, ingest, ingest_plan
from dvid_dask.ops.job import JobFailedError, unfinished_jobs
from dvid_dask.ops.jobs import Job, drop_leftovers, list_jobs
from dvid_dask.ops.maxlabel import MaxLabelReport, repair_max_labels
from dvid_dask.ops.mesh import MeshReport, mesh
from dvid_dask.ops.move_base import move_base
from dvid_dask.ops.nanovdb import BodiesReport, export_bodies
from dvid_dask.ops.neurons import import_keyvalue, ingest_annotations, neuron_table, version_changes
from dvid_dask.ops.partition import Brick, WorkList, map_partition, partition
from dvid_dask.ops.publish import PublishReport, publish
from dvid_dask.ops.regions import label_array, region_of
from dvid_dask.ops.shards import ShardsReport, analyze_shards, export_shards
from dvid_dask.ops.sources import Volume, open_volume
from dvid_dask.ops.split_by import SplitReport, split_by
from dvid_dask.ops.statistics import body_statistics, sparse_volumes
from dvid_dask.ops.tiles import TilesReport, generate_tiles
from dvid_dask.ops.v3draw import V3drawReport, load_v3draw
from dvid_dask.ops.values_in import ImportReport, import_values
from dvid_dask.ops.values_out import ValuesReport, export_values

__all__ = [
    "adopt",
    "import_values",
    "ImportReport",
    "export_values",
    "ValuesReport",
    "region_of",
    "label_array",
    "partition",
    "map_partition",
    "WorkList",
    "Brick",
    "AdoptReport",
    "adopt_labels",
    "AgglomerateReport",
    "BodiesReport",
    "Box",
    "DownresReport",
    "DumpReport",
    "EditReport",
    "ElementsExportReport",
    "ElementsReport",
    "ExportReport",
    "IndexProblem",
    "IndexReport",
    "IngestPlan",
    "Job",
    "JobFailedError",
    "MaxLabelReport",
    "MeshReport",
    "PublishReport",
    "Report",
    "ShardsReport",
    "SplitReport",
    "TABLES",
    "TilesReport",
    "V3drawReport",
    "Volume",
    "abandon",
    "agglomerate",
    "analyze_shards",
    "body_statistics",
    "check_index",
    "composite",
    "contacts",
    "downres",
    "drop_leftovers",
    "dump",
    "dump_volumes",
    "edit",
    "elements_dataframe",
    "export",
    "export_bodies",
    "export_elements",
    "export_shards",
    "foreground_roi",
    "generate_tiles",
    "load_v3draw",
    "import_keyvalue",
    "ingest",
    "ingest_annotations",
    "ingest_plan",
    "list_jobs",
    "load_elements",
    "mesh",
    "move_base",
    "neuron_table",
    "open_volume",
    "publish",
    "reload_elements",
    "repair_max_labels",
    "sparse_volumes",
    "split_by",
    "type_for",
    "unfinished_jobs",
    "version_changes",
]
