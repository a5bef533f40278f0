"""A process that adopts a volume until it is done or killed: _adopt_victim.py STORE VOLUME UUID. A line per commit."""

from __future__ import annotations

import sys

import dask

import dvid_dask
from dvid_dask.bases.base import Base
from dvid_dask.errors import Conflict
from dvid_dask.ops.adopt_labels import adopt_labels
from dvid_dask.ops.drafts import DraftLedger


def main():
    store, where, uuid = sys.argv[1:]
    seg = dvid_dask.open(store, compact="never")[uuid]["seg"]
    mutate = DraftLedger.mutate

    def told(self, fn):
        result = mutate(self, fn)
        print("commit", flush=True)
        return result

    DraftLedger.mutate = told
    try:
        with dask.config.set(scheduler="synchronous"):
            report = adopt_labels(Base.find(where), seg, brick_edge=32, progress=False)
    except Conflict as e:
        print(e, flush=True)
    else:
        print("resumed", report.resumed, flush=True)


if __name__ == "__main__":
    main()
