"""Repositories, versions, branches, locks, merges, mutations: everything that knows trees, and nothing of volumes.

===============  =====================================================================================
`datastore`      `Datastore`: repositories in one store, selectors, blobs, care
`finding`        versions by what people type: selectors, aliases of repositories, branches
`repo`           `Repo`: versions, instances, merge, DVID's repo JSON
`contained`      its versions and instances by name
`version`        `Version`: commit, branch, tag, data at a version
`mutation`       `Mutation`: one change, one commit; forced writes on committed versions
`feed`           who is told of mutations
`space`          an instance's keys inside a tree
`merging`        three-way merge of trees
`diffing`        what differs between two versions
`meta`, `state`  the metadata tree, and what it says
`counters`       durable counters and mutation ids
`sealing`        making a committed version immutable and compact
`check`          contradictions, repairs, sweeping
===============  =====================================================================================
"""

from dvid_dask.versions.counters import Counter
from dvid_dask.versions.datastore import Datastore
from dvid_dask.versions.feed import Message, Watcher
from dvid_dask.versions.mutation import Mutation
from dvid_dask.versions.records import InstanceInfo
from dvid_dask.versions.repo import Repo
from dvid_dask.versions.space import Space, TxSpace
from dvid_dask.versions.version import Version

__all__ = [
    "Counter",
    "Datastore",
    "InstanceInfo",
    "Message",
    "Mutation",
    "Repo",
    "Space",
    "TxSpace",
    "Version",
    "Watcher",
]
