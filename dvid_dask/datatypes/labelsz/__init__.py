"""Counts of annotation elements by label and kind, in order of size: the datatype labelsz."""

from dvid_dask.datatypes.labelsz.counts import INDEX_TYPES, Ranked
from dvid_dask.datatypes.labelsz.datatype import LabelSize

__all__ = ["INDEX_TYPES", "LabelSize", "Ranked"]
