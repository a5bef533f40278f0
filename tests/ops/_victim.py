"""A client with a cluster of its own that ingests until it is done or killed: _victim.py STORE VOLUME UUID SECONDS."""

from __future__ import annotations

import sys
import time

from distributed import Client, LocalCluster

import dvid_dask
from dvid_dask import ops
from dvid_dask.ops import label_bricks


class Slow:
    """Tasks that take a moment, so that there is something to kill."""

    def __init__(self, seconds):
        self.seconds = seconds

    def setup(self, worker):
        seconds, compute = self.seconds, label_bricks._Brick.compute

        def slowly(brick, space):
            compute(brick, space)
            time.sleep(seconds)

        label_bricks._Brick.compute = slowly


def main():
    store, volume, uuid, seconds = sys.argv[1:]
    seg = dvid_dask.open(store, compact="never")[uuid]["seg"]
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster) as client:
        client.run(Slow(float(seconds)).setup, None)
        report = ops.ingest(volume, seg, brick_edge=32, client=client, progress=False)
    print("resumed", report.resumed, flush=True)


if __name__ == "__main__":
    main()
