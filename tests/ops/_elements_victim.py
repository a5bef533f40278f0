"""A process that loads elements until it is done or killed: _elements_victim.py STORE TABLE UUID."""

from __future__ import annotations

import sys
import time

import dask

import dvid_dask
from dvid_dask import ops
from dvid_dask.ops import element_sources, elements

PER_PARTITION = 64


def smaller(set_attribute):
    """Many small tasks, so that there is something to kill."""
    set_attribute(elements, "_PER_PARTITION", PER_PARTITION)
    set_attribute(element_sources, "_PART", PER_PARTITION)


def main():
    store, table, uuid = sys.argv[1:]
    smaller(setattr)
    put = elements._Load._file

    def slowly(self, partition):
        time.sleep(0.2)
        return put(self, partition)

    elements._Load._file = slowly
    synapses = dvid_dask.open(store, compact="never")[uuid]["synapses"]
    with dask.config.set(scheduler="threads", num_workers=2):
        ops.load_elements(table, synapses, progress=False)


if __name__ == "__main__":
    main()
