"""A synthetic volume that looks like electron microscopy of neuropil, and the tour that `make demo` gives of it.

`make_volume` is what tests, benchmarks and notebooks take; ``python -m dvid_dask.demo`` runs the tour.
Needs the extra ``dvid-dask[demo]``.
"""

from dvid_dask.demo.volume import SYNAPSE, Volume, make_volume

__all__ = ["SYNAPSE", "Volume", "make_volume"]
