"""The labelblk: labels in blocks, without an index and without scales of its own."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from dvid_dask.datatypes.base import InstanceInfo, register
from dvid_dask.datatypes.labelmap import events, halving, relabelling
from dvid_dask.datatypes.labelmap.blocks import read_blocks
from dvid_dask.datatypes.labelmap.settings import labelblk_settings
from dvid_dask.datatypes.labelmap.verify import stored_blocks
from dvid_dask.datatypes.labelmap.volume import LabelVolume
from dvid_dask.errors import BadRequest
from dvid_dask.formats import label_blocks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.datatypes.base import Datatype, Mutation, TxSpace
    from dvid_dask.datatypes.labelmap.spaces import AnySpace

__all__ = ["LabelBlk"]

Point = tuple[int, int, int]


@register
class LabelBlk(LabelVolume):
    """Labels at one version. Arrays are (z, y, x) uint64, coordinates voxels, signed 32-bit.

    Where things are and their edits belong to a labelvol. Each of the two follows the other (`set_syncs`): what is
    written here changes its sparse volumes, its merges and splits change the voxels here, in one commit. A labelblk
    that follows another labelblk is that one at half the resolution. For new data take a labelmap.

    Examples
    --------
    >>> import dvid_dask
    >>> v = dvid_dask.create("memory://").new_repo("fly")["master"]
    >>> voxels, volumes = v.repo.new_instance("labelblk", "lb"), v.repo.new_instance("labelvol", "lv")
    >>> voxels.set_syncs(["lv"])
    >>> volumes.set_syncs(["lb"])
    >>> labels = np.full((32, 32, 32), 7, np.uint64)
    >>> labels[:, :, 10:] = 9
    >>> voxels.write(labels, (0, 0, 0))
    >>> _ = volumes.merge(7, [9])
    >>> voxels[0, 0, 8:12], volumes.all_runs(7)[0]
    (array([7, 7, 7, 7], dtype=uint64), array([ 0,  0,  0, 32], dtype=int32))
    """

    typename: ClassVar[str] = "labelblk"
    typeurl: ClassVar[str] = "github.com/janelia-flyem/dvid/datatype/labelblk"
    typeversion: ClassVar[str] = "0.1"
    default_compression: ClassVar[str] = "lz4"
    sync_partners: ClassVar[frozenset[str] | None] = frozenset({"labelvol", "labelblk"})

    @classmethod
    def parse_settings(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """See `dvid_dask.datatypes.labelmap.settings`."""
        return labelblk_settings(config)

    @classmethod
    def refuses_sync(cls, me: InstanceInfo, partner: InstanceInfo) -> str | None:
        """Both are versioned or neither is: what follows is part of the same commit."""
        refusal = super().refuses_sync(me, partner)
        if refusal is None and me.versioned != partner.versioned:
            return f"{me.name!r} and {partner.name!r} can't follow each other: only one of them is versioned"
        return refusal

    def extended(self) -> dict[str, Any]:
        """The labelblk's part of ``info``. It tells extents in voxels alone, as in DVID."""
        return {**self._properties(), "MinIndex": None, "MaxIndex": None}

    def describe(self) -> dict[str, Any]:
        """DVID's ``info`` of the instance."""
        return {"Base": self.base(), "Extended": self.extended()}

    def blocks_in(self, space: AnySpace, body: int) -> Iterator[NDArray[np.int32]]:
        """The blocks that hold a label, int32 (n, 3) (z, y, x) in batches: all stored blocks are looked through."""
        for coords in stored_blocks(space):
            for found, blocks in read_blocks(space, self.layout, 0, coords):
                inside = np.array([bool((label_blocks.labels(b) == np.uint64(body)).any()) for b in blocks], np.bool_)
                if inside.any():
                    yield found[inside]

    # ------------------------------------------------------------------ what a labelvol asks for

    def dense_blocks(self, space: AnySpace, block_zyx: NDArray[np.int32]) -> Iterator[tuple[Point, NDArray[np.uint64]]]:
        """Coordinate (z, y, x) and voxels of each of these blocks that is stored."""
        for coords, blocks in read_blocks(space, self.layout, 0, block_zyx):
            for (z, y, x), block in zip(coords.tolist(), blocks, strict=True):
                yield (z, y, x), label_blocks.decode_block(block)

    def block_labels(self, space: AnySpace, block_zyx: NDArray[np.int32]) -> Iterator[tuple[Point, NDArray[np.uint64]]]:
        """Coordinate (z, y, x) of each of these blocks that is stored, and its labels."""
        for coords, blocks in read_blocks(space, self.layout, 0, block_zyx):
            for (z, y, x), block in zip(coords.tolist(), blocks, strict=True):
                yield (z, y, x), label_blocks.labels(block)

    def stored_blocks(self, space: AnySpace) -> Iterator[NDArray[np.int32]]:
        """Coordinates (z, y, x) of all stored blocks, in batches."""
        return stored_blocks(space)

    # ------------------------------------------------------------------ following

    def rebuild(self, *, user: str = "", app: str = "", force: bool = False) -> None:
        """Make the half resolution anew of the labelblk that it follows: after a sync with one that has voxels, say.

        It is done in commits of some blocks each, so readers see it half done; one that was killed can be called again.

        Raises
        ------
        BadRequest
            If it follows no labelblk.
        """
        self.check_open(force)
        held = self.repo.state().by_data_uuid
        partners = [self.version.instance(held[data_uuid]) for data_uuid in self.info.syncs if data_uuid in held]
        source = next((partner for partner in partners if isinstance(partner, LabelBlk)), None)
        if source is None:
            raise BadRequest(f"{self.name!r} follows no labelblk of the double resolution")
        for blocks in stored_blocks(source.view()):
            self.mutate(functools.partial(self._halve, source, blocks), user=user, app=app, force=force)

    def _halve(self, source: LabelBlk, block_zyx: NDArray[np.int32], m: Mutation, space: TxSpace) -> None:
        done = halving.follow(space, self.layout, m.reading(source), source.layout, block_zyx)
        m.publish(self, events.BlocksWritten(m.id, done))

    def on_event(self, m: Mutation, event: object) -> None:
        """Follow the edits of a labelvol, or the voxels of a labelblk at half the resolution."""
        teller = m.teller
        if teller is None:
            return
        space, layout = m.space(self), self.layout
        match event:
            case events.LabelsMerged():
                done = relabelling.rename(space, layout, event.block_zyx, event.merged, event.target).block_zyx
            case events.LabelSplit():
                blocks, change = relabelling.cut_off(layout, None, event.new, event.runs)
                done = relabelling.relabel(space, layout, blocks, change).block_zyx
            case events.LabelSplitCoarse():
                done = relabelling.rename(space, layout, event.block_zyx, (event.old,), event.new).block_zyx
            case events.BlocksWritten() if isinstance(teller, LabelBlk):
                done = halving.follow(space, layout, m.reading(teller), teller.layout, event.block_zyx)
            case _:
                return
        if len(done):
            m.publish(self, events.BlocksWritten(m.id, done), to=lambda follower: not _same(follower, teller))


def _same(one: Datatype, other: Datatype) -> bool:
    return one.info.data_uuid == other.info.data_uuid
