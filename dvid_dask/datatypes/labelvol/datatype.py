"""The labelvol: the sparse volume of each label, and the edits of the labelblk that it belongs to."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from dvid_dask.datatypes.base import CONFLICT, Datatype, InstanceInfo, register
from dvid_dask.datatypes.events import BlocksWritten, LabelsMerged, LabelSplit, LabelSplitCoarse
from dvid_dask.datatypes.labelvol import keys, undoing, volumes
from dvid_dask.datatypes.labelvol.checking import disagreements
from dvid_dask.datatypes.labelvol.rebuilding import rebuild, write_blocks
from dvid_dask.datatypes.labelvol.settings import new_settings
from dvid_dask.datatypes.labelvol.source import VoxelSource
from dvid_dask.datatypes.labelvol.undoing import Move
from dvid_dask.datatypes.labelvol.volumes import OPEN, Bounds
from dvid_dask.datatypes.runs import prepare_runs
from dvid_dask.errors import BadRequest, NotFound
from dvid_dask.formats import coarse, rles
from dvid_dask.formats.distinct import distinct_rows
from dvid_dask.versions.records import go_time
from dvid_dask.versions.undo import UndoRecord, scan_undo

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from dvid_dask.datatypes.base import Mutation, TxSpace
    from dvid_dask.versions.counters import NumberSource
    from dvid_dask.versions.meaning import MergeStep
    from dvid_dask.versions.space import Space

    AnySpace = Space | TxSpace

__all__ = ["LabelSplitResult", "LabelVol"]

RESERVED = 2**64 - 1
"""A label that is never handed out."""


class LabelSplitResult(NamedTuple):
    """The label of the voxels that were split off, and the mutation id."""

    label: int
    mutation: int


@register
class LabelVol(Datatype):
    """Sparse volumes at one version. Runs are int32 (n, 4) x, y, z, length; blocks (z, y, x).

    It belongs to a labelblk; each follows the other (`set_syncs`). Voxels that are written there change the runs here,
    edits here change the voxels there, in one commit. For new data take a labelmap.

    Examples
    --------
    >>> import dvid_dask
    >>> v = dvid_dask.create("memory://").new_repo("fly")["master"]
    >>> voxels, volumes = v.repo.new_instance("labelblk", "lb"), v.repo.new_instance("labelvol", "lv")
    >>> voxels.set_syncs(["lv"])
    >>> volumes.set_syncs(["lb"])
    >>> voxels.write(np.full((32, 32, 32), 7, np.uint64), (0, 0, 0))
    >>> volumes.size(7), volumes.split(7, [[4, 0, 0, 2]]).label, volumes.size(7)
    (32768, 8, 32766)
    >>> voxels[0, 0, 3:7]
    array([7, 8, 8, 7], dtype=uint64)
    """

    typename: ClassVar[str] = "labelvol"
    typeurl: ClassVar[str] = "github.com/janelia-flyem/dvid/datatype/labelvol"
    sync_partners: ClassVar[frozenset[str] | None] = frozenset({"labelblk"})
    merges_by_meaning: ClassVar[bool] = True

    @classmethod
    def refuses_sync(cls, me: InstanceInfo, partner: InstanceInfo) -> str | None:
        """Only a labelblk of the same block size; both are versioned or neither is."""
        refusal = super().refuses_sync(me, partner)
        if refusal is not None:
            return refusal
        mine, theirs = me.settings["BlockSize"], partner.settings.get("BlockSize")
        if mine != theirs:
            return f"block sizes differ: {me.name!r} has {mine}, {partner.name!r} has {theirs}"
        if me.versioned != partner.versioned:
            return f"{me.name!r} and {partner.name!r} can't follow each other: only one of them is versioned"
        return None

    @classmethod
    def parse_settings(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """See `dvid_dask.datatypes.labelvol.settings`."""
        return new_settings(config)

    def extended(self) -> dict[str, Any]:
        """Voxel size, units, block size, and the largest label of this version and each of its ancestors."""
        view, uuids = self.view(), {node.id: node.uuid for node in [self.version, *self.version.ancestors()]}
        held = {keys.version_of(k): int.from_bytes(v, "big") for k, v in view.scan(keys.MAX_LABEL)}
        settings = self.info.settings
        return {
            "VoxelSize": settings["VoxelSize"],
            "VoxelUnits": settings["VoxelUnits"],
            "BlockSize": settings["BlockSize"],
            "MaxLabel": {uuids[vid]: label for vid, label in sorted(held.items()) if vid in uuids},
        }

    @property
    def block_shape(self) -> tuple[int, int, int]:
        """Voxels of a block (z, y, x)."""
        x, y, z = self.info.settings["BlockSize"]
        return z, y, x

    @property
    def voxels(self) -> VoxelSource | None:
        """The labelblk that it follows, at this version."""
        held = self.repo.state().by_data_uuid
        for data_uuid in self.info.syncs:
            if data_uuid in held:
                found: Any = self.version.instance(held[data_uuid])
                return found  # type: ignore[no-any-return]
        return None

    @property
    def locates(self) -> bool:
        """Whether `labels_in` can tell anything: it needs a labelblk."""
        return self.voxels is not None

    # ------------------------------------------------------------------ reading

    def labels(self, start: int = 1) -> Iterator[int]:
        """Labels from `start` on that have a voxel, ascending."""
        view = self.view()
        while start <= RESERVED:
            key = next(iter(view.keys(keys.RUNS, start=keys.label(start))), None)
            if key is None:
                return
            yield keys.label_of(key)
            start = keys.label_of(key) + 1

    def runs(self, label: int, bounds: Bounds = OPEN, *, exact: bool = True) -> Iterator[NDArray[np.int32]]:
        """The runs of a label, a block at a time in the order of z, y, x.

        Parameters
        ----------
        label
            Whose.
        bounds
            Start and stop (z, y, x) in voxels, stop exclusive, None where open.
        exact
            Clip runs at the bounds; else blocks that touch them are taken whole.
        """
        whole = not exact or all(v is None for side in bounds for v in side)
        for _, found in volumes.scan(self.view(), _label(label), self.block_shape, bounds):
            yield found if whole else rles.clip(found, bounds)

    def all_volumes(self) -> Iterator[tuple[int, tuple[int, int, int], NDArray[np.int32]]]:
        """Label, block (z, y, x) and runs of every label in every block: labels ascend, then z, y, x."""
        for key, value in self.view().scan(keys.RUNS):
            z, y, x = keys.blocks_of([key])[0].tolist()
            yield keys.label_of(key), (z, y, x), volumes.decode(value)

    def all_runs(self, label: int) -> NDArray[np.int32]:
        """The runs of a label as one array, joined across blocks and sorted by z, y, x."""
        return rles.normalize(np.concatenate([np.empty((0, 4), np.int32), *self.runs(label)]))

    def size(self, label: int) -> int:
        """Voxels of a label.

        Raises
        ------
        NotFound
            If it has none.
        """
        voxels = sum(rles.voxel_count(part) for part in self.runs(label))
        if not voxels:
            raise NotFound(f"there is no label {label}")
        return voxels

    def has_blocks(self, label: int, bounds: Bounds = OPEN) -> bool:
        """Whether a label has a block that touches bounds in voxels."""
        return volumes.has_blocks(self.view(), _label(label), self.block_shape, bounds)

    def blocks(self, label: int) -> Iterator[NDArray[np.int32]]:
        """The blocks of a label, int32 (n, 3) (z, y, x) in batches."""
        return volumes.scan_blocks(self.view(), _label(label), self.block_shape)

    def coarse(self, label: int) -> NDArray[np.int32]:
        """The blocks of a label as runs in block coordinates."""
        parts = [coarse.rles_from_block_coords(part) for part in self.blocks(label)]
        return rles.normalize(np.concatenate([np.empty((0, 4), np.int32), *parts]))

    def label_at(self, point_zyx: Sequence[int]) -> int:
        """The label of a voxel, from the labelblk.

        Raises
        ------
        BadRequest
            If it follows none.
        """
        point = np.array([point_zyx], np.int32)
        source = self._need_voxels()
        return int(source.labels_in(source.view(), point)[0][0])

    def labels_in(
        self, space: AnySpace, points_zyx: NDArray[np.int32]
    ) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """Labels at points int (n, 3) (z, y, x), twice, from the labelblk; for instances that follow this one."""
        source = self.voxels
        if source is None:
            return np.zeros(len(points_zyx), np.uint64), np.zeros(len(points_zyx), np.uint64)
        return source.labels_in(space.beside(source), points_zyx)

    def written_between(self, before: Space, after: Space) -> Iterator[NDArray[np.int32]]:
        """Blocks whose voxels differ between two states of one history, from the labelblk."""
        source = self.voxels
        if source is not None:
            yield from source.written_between(before.beside(source), after.beside(source))

    def moved_between(
        self, before: Space, after: Space
    ) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]]:
        """Nothing: a label is its own body."""
        return iter(())

    def blocks_in(self, space: AnySpace, body: int) -> Iterator[NDArray[np.int32]]:
        """The blocks of a label, int32 (n, 3) (z, y, x) in batches, read through a space."""
        return volumes.scan_blocks(space, body, self.block_shape)

    def max_label(self) -> int:
        """The largest label of this version itself, 0 if there is none; not inherited, as in DVID."""
        held = self.view().get(keys.max_label(self._vid()))
        return 0 if held is None else int.from_bytes(held, "big")

    def next_label(self) -> int:
        """The label that a split would make; it is not reserved."""
        return self._numbers.value

    @property
    def _numbers(self) -> NumberSource:
        return self.repo.numbers(f"label-{self.info.data_uuid}", start=1)

    def _vid(self) -> int:
        return self.version.id if self.info.versioned else self.repo[self.repo.root].id

    def _need_voxels(self) -> VoxelSource:
        source = self.voxels
        if source is None:
            raise BadRequest(f"{self.name!r} follows no labelblk, so it has no voxels to look at")
        return source

    # ------------------------------------------------------------------ edits

    def merge(self, target: int, others: Sequence[int], *, user: str = "", app: str = "", force: bool = False) -> int:
        """Give a label the voxels of others, here and in the labelblk; returns the mutation id.

        Parameters
        ----------
        target
            It may be new.
        others
            Labels; those without a voxel are passed over.

        Raises
        ------
        BadRequest
            If a label is 0 or the target is among the others; nothing is changed.
        """
        merged = [_label(other) for other in dict.fromkeys(others)]
        if not merged:
            raise BadRequest("a merge takes a target and at least one label to merge into it")
        if _label(target) in merged:
            raise BadRequest(f"label {target} can't be merged into itself")

        def change(m: Mutation, space: TxSpace) -> int:
            moves = []
            for label in merged:
                taken = volumes.take_all(space, label)
                volumes.give(space, target, taken)
                moves.append(Move.of(label, target, taken))
            undoing.keep(self, m, "merge", moves)
            self._log(m, "merge", Target=target, Labels=merged)
            blocks = distinct_rows(np.concatenate([move.blocks for move in moves]))
            if len(blocks):
                self._tell(m, [LabelsMerged(m.id, target, tuple(merged), blocks)], blocks)
            return m.id

        self._raise_to(target)
        return self.mutate(change, user=user, app=app, force=force)

    def split(
        self, label: int, runs: ArrayLike, *, to: int = 0, user: str = "", app: str = "", force: bool = False
    ) -> LabelSplitResult:
        """Give voxels of a label another one, here and in the labelblk.

        Parameters
        ----------
        label
            What to cut.
        runs
            int (n, 4) x, y, z, length: voxels of the label, some, all or none.
        to
            Their new label, which may be in use; 0 for a new one.

        Raises
        ------
        BadRequest
            If a voxel under the runs isn't the label's, or runs or labels can't be used; nothing is changed.
        """
        normal = self._within(label, prepare_runs(runs, empty=True))
        touched = rles.split_by_block(normal, self.block_shape)[0]

        return self._split(
            label,
            to,
            "split",
            rles.encode_srles(normal),
            lambda space: volumes.take(space, self.block_shape, label, normal),
            lambda m, new: self._tell(m, [LabelSplit(m.id, label, new, normal)], touched),
            user=user,
            app=app,
            force=force,
        )

    def split_coarse(
        self, label: int, block_zyx: ArrayLike, *, to: int = 0, user: str = "", app: str = "", force: bool = False
    ) -> LabelSplitResult:
        """Give all voxels of a label in some blocks another one, here and in the labelblk.

        Parameters
        ----------
        label
            What to cut.
        block_zyx
            int (n, 3): blocks (z, y, x) of the label.
        to
            Their new label, which may be in use; 0 for a new one.

        Raises
        ------
        BadRequest
            If the label doesn't have one of the blocks, or labels can't be used; nothing is changed.
        """
        blocks = _blocks(block_zyx)

        return self._split(
            label,
            to,
            "splitcoarse",
            blocks.tobytes(),
            lambda space: volumes.take_blocks(space, label, blocks),
            lambda m, new: self._tell(m, [LabelSplitCoarse(m.id, label, new, blocks)], blocks),
            user=user,
            app=app,
            force=force,
        )

    def _within(self, label: int, runs: NDArray[np.int32]) -> NDArray[np.int32]:
        """Runs that don't leave the box of a label's blocks: a few long ones may cross millions of others."""
        low, high = np.full(3, 1 << 40), np.full(3, -(1 << 40))
        for blocks in self.blocks(label):
            low, high = np.minimum(low, blocks.min(axis=0)), np.maximum(high, blocks.max(axis=0))
        shape = np.array(self.block_shape)
        first, last = runs[:, 2::-1], runs[:, 2::-1].astype(np.int64)
        last[:, 2] += runs[:, 3] - 1
        if len(runs) and ((first < low * shape).any() or (last >= (high + 1) * shape).any()):
            raise BadRequest(f"runs leave the blocks of label {label}")
        return runs

    def _split(
        self,
        label: int,
        to: int,
        action: str,
        blob: bytes,
        take: Callable[[TxSpace], volumes.Taken],
        tell: Callable[[Mutation, int], None],
        *,
        user: str,
        app: str,
        force: bool,
    ) -> LabelSplitResult:
        _label(label)
        if to and _label(to) == label:
            raise BadRequest(f"label {label} can't be split into itself")
        self.check_open(force)
        self._raise_to(to)
        ref = self.version.datastore.put_blob(blob)
        drawn: list[int] = []

        def change(m: Mutation, space: TxSpace) -> LabelSplitResult:
            taken = take(space)  # before an id is drawn: one that is refused takes none
            if not to and not drawn:
                drawn.append(self._numbers.allocate(1, limit=RESERVED))
            new = to or drawn[0]
            volumes.give(space, new, taken)
            self._note_largest(space, new)
            undoing.keep(self, m, action, [Move.of(label, new, taken)])
            self._log(m, action, Target=label, NewLabel=new, Split=ref)
            tell(m, new)
            return LabelSplitResult(new, m.id)

        return self.mutate(change, user=user, app=app, force=force)

    def undoable(self) -> Iterator[UndoRecord]:
        """The edits of this version that `undo` or `redo` know, oldest first."""
        if self.info.versioned:
            yield from scan_undo(self.view().view, self.info.id, self.version.id)

    def undo(self, mutation: int, *, user: str = "", app: str = "", force: bool = False) -> int:
        """Take a merge or split of this version back, here and in the labelblk; what others changed since stays.

        Parameters
        ----------
        mutation
            Its id.

        Returns
        -------
        int
            The mutation id of the undo.

        Raises
        ------
        NotFound
            If the version keeps nothing of such an edit: it moved more than 64 MiB of runs, or the version is
            committed.
        BadRequest
            If it is undone already.
        LaterMutations
            If voxels that it moved have another label by now; it names the edits that did it. Nothing is changed.
        """
        return self._carry_out(mutation, "undo", user=user, app=app, force=force)

    def redo(self, mutation: int, *, user: str = "", app: str = "", force: bool = False) -> int:
        """Do an edit again that `undo` took back; the id is that of the edit. Errors are those of `undo`."""
        return self._carry_out(mutation, "redo", user=user, app=app, force=force)

    def _carry_out(self, mutation: int, verb: str, *, user: str, app: str, force: bool) -> int:
        self.check_open()  # nothing is kept of a committed version, so force can't help

        def change(m: Mutation, space: TxSpace) -> int:
            action, moves = undoing.take_back(self, m, space, self.block_shape, mutation, verb)
            self._log(m, verb, Of=action, **{"Undoes" if verb == "undo" else "Redoes": mutation})
            moved = [move for move in moves if move.values]
            if moved:
                edits = [LabelSplit(m.id, move.source, move.target, move.runs) for move in moved]
                self._tell(m, edits, distinct_rows(np.concatenate([move.blocks for move in moved])))
            return m.id

        return self.mutate(change, user=user, app=app, force=force)

    def delete_area(
        self,
        label: int,
        offset_zyx: Sequence[int],
        shape_zyx: Sequence[int],
        *,
        user: str = "",
        app: str = "",
        force: bool = False,
    ) -> None:
        """Forget the runs of a label in a box of whole blocks; the labelblk stays as it is.

        Raises
        ------
        BadRequest
            If the box isn't made of whole blocks.
        """
        shape = self.block_shape
        if any(v % b for v, b in zip((*offset_zyx, *shape_zyx), shape * 2, strict=True)) or min(shape_zyx) <= 0:
            raise BadRequest(f"an area is made of whole blocks of {shape} voxels (z, y, x)")
        box: Bounds = (list(offset_zyx), [o + n for o, n in zip(offset_zyx, shape_zyx, strict=True)])
        _label(label)

        def change(m: Mutation, space: TxSpace) -> None:
            self._log(m, "delete-area", Label=label, Offset=list(offset_zyx[::-1]), Size=list(shape_zyx[::-1]))
            for blocks in list(volumes.scan_blocks(space, label, shape, box)):
                for key in keys.runs(label, blocks):
                    space.delete(key)

        self.mutate(change, user=user, app=app, force=force)

    def resync(self, label: int, block_zyx: ArrayLike, *, user: str = "", app: str = "", force: bool = False) -> None:
        """Make the runs of a label in some blocks (z, y, x) anew from the voxels of the labelblk.

        Raises
        ------
        BadRequest
            If it follows no labelblk.
        """
        blocks, source = _blocks(block_zyx), self._need_voxels()
        _label(label)

        def change(m: Mutation, space: TxSpace) -> None:
            self._log(m, "resync", Label=label)
            there = m.reading(source)  # type: ignore[arg-type]
            found: dict[tuple[int, int, int], bytes] = {}
            for block, dense in source.dense_blocks(there, blocks):
                runs = rles.rles_from_mask(dense == np.uint64(label), self._start(block))
                if len(runs):
                    found[block] = volumes.encode(runs)
            for key, (z, y, x) in zip(keys.runs(label, blocks), blocks.tolist(), strict=True):
                value = found.get((z, y, x))
                if value is None:
                    space.delete(key)
                else:
                    space.put(key, value)

        self.mutate(change, user=user, app=app, force=force)

    def rebuild(self, *, user: str = "", app: str = "", force: bool = False) -> None:
        """Make the runs of all labels anew from the labelblk: after a sync with one that has voxels already, say.

        It is done in commits of some blocks each, so readers see it half done; one that was killed can be called again.

        Raises
        ------
        BadRequest
            If it follows no labelblk.
        """
        self.check_open(force)
        source = self._need_voxels()
        rebuild(self, source, functools.partial(self.mutate, user=user, app=app, force=force))

    def _start(self, block: Sequence[int]) -> list[int]:
        return [c * n for c, n in zip(block, self.block_shape, strict=True)]

    def _tell(self, m: Mutation, edits: Sequence[object], blocks: NDArray[np.int32]) -> None:
        """Have the labelblk change its voxels, then tell the others which blocks changed."""
        for edit in edits:
            m.publish(self, edit)
        source = self.voxels
        mine = "" if source is None else source.info.data_uuid
        m.publish(self, BlocksWritten(m.id, blocks), to=lambda follower: follower.info.data_uuid != mine)

    def _log(self, m: Mutation, action: str, **fields: Any) -> None:
        record = {"Action": action, "MutationID": m.id, "Timestamp": go_time(m.time), "UUID": self.version.uuid}
        m.log(self, record | ({"User": m.user} if m.user else {}) | ({"App": m.app} if m.app else {}) | fields)

    def _raise_to(self, label: int) -> None:
        """No label up to this one will be handed out from now on."""
        if label:
            self._numbers.raise_to(min(label + 1, RESERVED))

    def note_labels(self, space: TxSpace, largest: int) -> None:
        """Note the largest of labels that came to this version, 0 for none, in the commit in which they come."""
        if largest:
            self._raise_to(largest)
            self._note_largest(space, largest)

    def _note_largest(self, space: TxSpace, label: int) -> None:
        key = keys.max_label(self._vid())
        held = space.get(key)
        if held is None or int.from_bytes(held, "big") < label:
            space.put(key, label.to_bytes(8, "big"))

    # ------------------------------------------------------------------ following

    def on_event(self, m: Mutation, event: object) -> None:
        """Keep runs in line with the voxels of the labelblk that tells, in its own commit."""
        teller: Any = m.teller
        if teller is None or not isinstance(event, BlocksWritten) or not hasattr(teller, "dense_blocks"):
            return
        source: VoxelSource = teller
        space, now, before = m.space(self), m.reading(teller), m.before(teller)
        gone: dict[tuple[int, int, int], NDArray[np.uint64]] = {}
        if before is not None:
            gone = dict(source.block_labels(before, event.block_zyx))
        found = write_blocks(space, source, now, event.block_zyx, self.block_shape)
        for block, names in gone.items():
            left = np.setdiff1d(names, found.get(block, ()))
            for label in left[left != 0].tolist():
                space.delete(keys.runs(label, [block])[0])
        self.note_labels(space, max((int(labels[-1]) for labels in found.values() if len(labels)), default=0))
        m.publish(self, event, to=lambda follower: follower.info.data_uuid != source.info.data_uuid)

    def disagreements(self) -> Iterator[str]:
        """Runs that aren't what the labelblk says, in words."""
        source = self.voxels
        if source is None:
            return iter(())
        return disagreements(self.view(), source, self.block_shape)

    # ------------------------------------------------------------------ versions against each other

    def describe_change(self, key: bytes) -> Any:
        """A changed key in words: a label's runs in a block; None for the rest."""
        if key[:1] != keys.RUNS:
            return None
        z, y, x = keys.blocks_of([key])[0].tolist()
        return {"label": keys.label_of(key), "block": (z, y, x)}

    def carried_together(self, key: bytes) -> bool:
        """Runs belong together; the largest label stands for itself."""
        return key[:1] == keys.RUNS

    def merge_value(self, key: bytes, base: bytes | None, values: Sequence[bytes | None]) -> Any:
        """Of largest labels the largest counts; all else is a conflict."""
        present = [v for v in values if v is not None]
        if present and key.startswith(keys.MAX_LABEL):
            return max(present)
        return CONFLICT

    def merge_versions(self, step: MergeStep) -> None:
        """With a labelblk, runs follow when its voxels merge; without one they are merged block by block."""
        if self.voxels is None:
            step.merge_keys(settle=self.merge_value)


def _label(label: int) -> int:
    if not 1 <= label <= RESERVED:
        raise BadRequest(f"label {label} is background or out of range: expected 1 to 2**64 - 1")
    return int(label)


def _blocks(block_zyx: ArrayLike) -> NDArray[np.int32]:
    """Blocks (z, y, x), each once."""
    return distinct_rows(np.asarray(block_zyx, np.int32).reshape(-1, 3))
