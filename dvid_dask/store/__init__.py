"""Keys and values in versioned trees that share one pool of data.

A `Store` is a folder, a bucket or memory. It holds named trees; branching one copies a few hundred bytes, whatever it
holds. `Tree.update` changes a tree atomically, `Tree.view` pins a state of it for reading.
"""

from .diff import Change, diff
from .errors import (
    BadStore,
    Conflict,
    NewerFormat,
    ReadOnly,
    Sealed,
    StoreError,
    StoreExists,
    StoreFull,
    StoreNotFound,
    TreeExists,
    TreeNotFound,
)
from .fsck import FsckReport
from .gc import GcReport
from .keys import prefix_end
from .landing import land
from .listing import lengths
from .measure import Amount
from .seal import SealReport
from .store import Settings, Store
from .transaction import Transaction
from .tree import Tree
from .view import View

__all__ = [
    "Amount",
    "BadStore",
    "Change",
    "Conflict",
    "FsckReport",
    "GcReport",
    "NewerFormat",
    "ReadOnly",
    "SealReport",
    "Sealed",
    "Settings",
    "Store",
    "StoreError",
    "StoreExists",
    "StoreFull",
    "StoreNotFound",
    "Transaction",
    "Tree",
    "TreeExists",
    "TreeNotFound",
    "View",
    "diff",
    "land",
    "lengths",
    "prefix_end",
]
