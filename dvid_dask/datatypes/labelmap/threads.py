"""The pool of threads for kernels, by the name under which labelmaps and jobs on them know it."""

from dvid_dask.datatypes.threads import WORKERS, batches, parallel, stream_parallel

__all__ = ["WORKERS", "batches", "parallel", "stream_parallel"]
