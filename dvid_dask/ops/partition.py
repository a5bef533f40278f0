"""A region, or what an instance holds, as a work list: boxes with about as many active blocks each, for Dask jobs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np

from dvid_dask.boxes import Box
from dvid_dask.datatypes.roi import PinnedRoi, Region, Roi
from dvid_dask.errors import BadRequest
from dvid_dask.ops import job
from dvid_dask.ops.stored import block_shape, stored_blocks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.datatypes.base import Datatype
    from dvid_dask.datatypes.roi import Partition

__all__ = ["Brick", "WorkList", "map_partition", "partition"]

T = TypeVar("T")

_MOST_TASKS = 20_000


@dataclass(frozen=True)
class Brick:
    """A box of a work list.

    Attributes
    ----------
    number
        Which one of the list.
    box
        Its voxels (z, y, x).
    active
        Blocks of the region in it.
    total
        Blocks in it, in the region or not.
    region
        The region within it.
    """

    number: int
    box: Box
    active: int
    total: int
    region: Region

    def mask(self) -> NDArray[np.bool_]:
        """Which voxels of the box are in the region."""
        return self.region.mask(self.box.start, self.box.shape)


class WorkList(Sequence[Brick]):
    """A region cut into boxes. Each of its blocks is in exactly one of them, and each box has at least one.

    Parameters
    ----------
    region
        What is to be worked on.
    boxes
        How it is cut.
    """

    def __init__(self, region: Region, boxes: Partition) -> None:
        self.region = region
        self.boxes = boxes

    def __len__(self) -> int:
        return len(self.boxes)

    @overload
    def __getitem__(self, index: int) -> Brick: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Brick]: ...
    def __getitem__(self, index: int | slice) -> Brick | Sequence[Brick]:
        """A brick; of a slice a list of them."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        start, stop = self.boxes.start[number], self.boxes.stop[number]
        box = Box.of(start.tolist(), stop.tolist())
        part = self.region.clipped(box.start, box.stop)
        return Brick(number, box.scaled(self.region.block_shape), len(part), box.size, part)

    def __iter__(self) -> Iterator[Brick]:
        return (self[i] for i in range(len(self)))

    @property
    def active(self) -> NDArray[np.int64]:
        """Blocks of the region in each brick."""
        return self.boxes.active

    def groups(self, count: int) -> list[range]:
        """The bricks' numbers in up to `count` runs, with about as many active blocks each: neighbours stay together.

        No run has more than its share and one brick.

        Raises
        ------
        BadRequest
            `count` is below 1.

        Examples
        --------
        >>> work = partition(Region([[0, 0, 0, 15], [0, 8, 0, 3], [0, 16, 0, 3]], (64, 64, 64)), 8)
        >>> work.active.tolist(), work.groups(2)
        ([8, 8, 4, 4], [range(0, 1), range(1, 4)])
        """
        if count < 1:
            raise BadRequest(f"work is shared out among 1 or more, not {count}")
        if not len(self):
            return []
        done = np.cumsum(self.active)
        # a brick belongs to the run in whose share its middle lies
        run = (2 * done - self.active) * count // (2 * int(done[-1]))
        cuts = [0, *(np.flatnonzero(np.diff(run)) + 1).tolist(), len(self)]
        return [range(a, b) for a, b in itertools.pairwise(cuts)]

    def __repr__(self) -> str:
        return f"<{len(self):,} bricks of {self.region!r}>"


def partition(source: Datatype | Region | PinnedRoi, batch: int = 8, *, optimized: bool = False) -> WorkList:
    """Cut a region, or the stored blocks of a labelmap or image, into boxes of about `batch` blocks a side.

    Parameters
    ----------
    source
        A `Region`, an roi, or an instance with voxels; its state now.
    batch
        Blocks.
    optimized
        Boxes that fit the region instead of cubes that may reach beyond it: DVID's two ways, see
        `dvid_dask.datatypes.roi.partition`.

    Raises
    ------
    BadRequest
        `batch` is not from 1 to 2^20, or there would be more than 2^22 boxes.
    NotSupported
        The instance has no blocks.

    Examples
    --------
    >>> import numpy as np
    >>> import dvid_dask
    >>> repo = dvid_dask.create("memory://").new_repo("fly")
    >>> neuropil = repo.new_instance("roi", "neuropil", {"blocksize": "64,64,64"})
    >>> neuropil.replace([[0, 0, 0, 9], [1, 0, 0, 3]])
    >>> work = partition(neuropil, 4)
    >>> work[0].box, work.active.tolist()
    (Box(start=(-64, 0, -64), stop=(192, 256, 192)), [6, 5, 3])
    """
    region = source if isinstance(source, Region) else _region_of(source)
    return WorkList(region, region.partition(batch, optimized=optimized))


def _region_of(source: Datatype | PinnedRoi) -> Region:
    if isinstance(source, (Roi, PinnedRoi)):
        return source.region
    shape = block_shape(source)
    return Region.of_blocks(stored_blocks(source, source.view(0), 0), shape)


def map_partition(
    function: Callable[[Brick], T], work: WorkList, *, tasks: int | None = None, client: Any = None
) -> list[T]:
    """Call a function with each brick of a work list, on Dask's workers; returns what it returned, in their order.

    The region travels once, with the function, and not with each brick.

    Parameters
    ----------
    function
        Gets a `Brick`. Instances and their pinned states pickle, so it may hold some.
    work
        From `partition`.
    tasks
        Into how many tasks of about as many active blocks the bricks are put; by default one each, up to 20,000.
    client
        A `distributed.Client`; by default the current one, else Dask's own choice of scheduler.

    Examples
    --------
    >>> region = Region([[0, 0, 0, 9]], (64, 64, 64))
    >>> map_partition(lambda brick: int(brick.mask().sum()) // 64**3, partition(region, 4))
    [3, 4, 3]
    """
    import dask

    client = job.find_client(client)
    groups = work.groups(min(tasks or _MOST_TASKS, max(1, len(work)))) if tasks or len(work) > _MOST_TASKS else None
    shares = [range(i, i + 1) for i in range(len(work))] if groups is None else groups
    run = dask.delayed(_Share(function, work), pure=False, traverse=False)
    parts = [run(share) for share in shares]
    done = dask.compute(*parts) if client is None else client.gather(client.compute(parts))
    return [result for part in done for result in part]


@dataclass(frozen=True)
class _Share:
    """Works on some bricks, one after the other."""

    function: Callable[[Brick], Any]
    work: WorkList

    def __call__(self, numbers: range) -> list[Any]:
        return [self.function(self.work[i]) for i in numbers]
