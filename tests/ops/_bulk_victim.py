"""A client with a cluster of its own that agglomerates until it is done or killed: _bulk_victim.py STORE TABLE UUID."""

from __future__ import annotations

import sys
import time

from distributed import Client, LocalCluster

import dvid_dask
from dvid_dask import ops
from dvid_dask.ops import moves

ROWS_PER_PARTITION = 8


def slow(seconds):
    """Many small tasks that take a moment, so that there is something to kill."""
    take = moves.Moves._take

    def slowly(self, partition):
        time.sleep(seconds)
        return take(self, partition)

    moves.Moves._take = slowly


def main():
    store, table, uuid = sys.argv[1:]
    seg = dvid_dask.open(store, compact="never")[uuid]["seg"]
    moves._ROWS_PER_PARTITION = ROWS_PER_PARTITION
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster) as client:
        client.run(slow, 0.2)
        ops.agglomerate(seg, table, client=client, progress=False)


if __name__ == "__main__":
    main()
