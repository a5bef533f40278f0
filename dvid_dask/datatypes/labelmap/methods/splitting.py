"""Splits of supervoxels and bodies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dvid_dask.datatypes.labelmap import edits, events, splits
from dvid_dask.datatypes.labelmap.counters import RESERVED
from dvid_dask.datatypes.labelmap.index import Index
from dvid_dask.datatypes.labelmap.mapping import Mapping, set_mapping
from dvid_dask.datatypes.labelmap.methods.editing import Editing
from dvid_dask.datatypes.labelmap.splits import Parts
from dvid_dask.datatypes.labelmap.steps import Join, Move, as_ids
from dvid_dask.datatypes.labelmap.undo import sv_splits
from dvid_dask.errors import BadRequest, Conflict
from dvid_dask.formats import rles

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from dvid_dask.datatypes.base import Mutation, Space, TxSpace
    from dvid_dask.datatypes.labelmap.spaces import AnySpace
    from dvid_dask.versions import Version

__all__ = ["BodySplit", "Splitting", "SupervoxelSplit"]

_ATTEMPTS = 10


class SupervoxelSplit(NamedTuple):
    """What a supervoxel became, and the mutation id."""

    split: int
    remain: int
    mutation: int


class BodySplit(NamedTuple):
    """The new body, and the mutation id."""

    body: int
    mutation: int


class _OthersWroteError(Exception):
    """The supervoxels under the runs are others by now."""


class Splitting(Editing):
    """Changes of supervoxels of a labelmap."""

    def split_supervoxel(
        self,
        supervoxel: int,
        runs: ArrayLike,
        *,
        split: int = 0,
        remain: int = 0,
        downres: bool = True,
        user: str = "",
        app: str = "",
        force: bool = False,
    ) -> SupervoxelSplit:
        """Cut a supervoxel in two, in one commit: voxels at all scales, label index and mapping.

        Both parts stay in the supervoxel's body; the supervoxel's own id is retired.

        Parameters
        ----------
        supervoxel
            What to cut.
        runs
            int (n, 4) x, y, z, length: the voxels to cut off, as `SparseVolume.all_runs` gives them or
            `dvid_dask.formats.rles.rles_from_mask` makes them. Runs in blocks without the supervoxel don't count.
        split, remain
            Ids of the voxels under the runs and of the others; 0 for new ones. They must not be in use.
        downres
            Whether coarser scales follow. Without, they show the old supervoxel until they are made anew.

        Raises
        ------
        BadRequest
            If there is no such supervoxel, runs overlap, lie beside it within its blocks, hold none or all of it, or
            an id is in use; nothing is changed.

        Examples
        --------
        >>> import dvid_dask
        >>> v = dvid_dask.create("memory://").new_repo("fly")["master"]
        >>> seg = v.repo.new_instance("labelmap", "segmentation", {"BlockSize": "16,16,16"})
        >>> seg.write(np.full((16, 16, 16), 5, np.uint64), (0, 0, 0))
        >>> seg.split_supervoxel(5, [[0, 0, 0, 16], [0, 1, 0, 16]])[:2]
        (6, 7)
        >>> seg.supervoxels[0, :3, 0], seg.size(5)
        (array([6, 6, 7], dtype=uint64), 4096)
        """
        self.check_open(force)
        normal = splits.prepare_runs(runs, distinct=True)
        for given in (split, remain):
            if not 0 <= given < RESERVED:
                raise BadRequest(f"label {given} can't be the id of a supervoxel: expected 1 to {RESERVED - 1}")
        if split and split == remain:
            raise BadRequest("both parts of a split can't have the same id")
        view = self.view(0)
        body = self._body_to_split(view, supervoxel)
        self._check_unused(view, [i for i in (split, remain) if i])
        splits.check(view, self.layout, body, supervoxel, normal)  # before ids are drawn: they would be gone
        self.next_labels.raise_to(split)
        first = split or int(self._unused_labels(view)[0])
        self.next_labels.raise_to(remain)
        second = remain or int(self._unused_labels(view)[0])
        parts = Parts.of([supervoxel], [first], [second])
        ref = self.version.datastore.put_blob(rles.encode_srles(normal))
        layout = self.layout

        def change(m: Mutation, space: TxSpace) -> SupervoxelSplit:
            body = self._body_to_split(space, supervoxel)
            self._check_unused(space, [first, second])
            done = splits.cut(space, layout, body, parts, normal, self._stamp(m), downres=downres)
            cut_off, left = int(done.split_voxels[0]), int(done.remain_voxels[0])
            if not cut_off or not left:
                raise BadRequest(f"the runs hold {'all' if cut_off else 'none'} of supervoxel {supervoxel}")
            splits.note_splits(space, self._vid(), m.id, parts)
            self._log(
                m,
                "split-supervoxel-complete",
                Supervoxel=supervoxel,
                Body=body,
                SplitSupervoxel=first,
                RemainSupervoxel=second,
                Split=ref,
                SplitSize=cut_off,
                RemainSize=left,
            )
            self._keep_undo(m, "split-supervoxel", [_join(parts, done, ref, downres)])
            m.publish(self, events.SupervoxelsSplit(m.id, body, *parts, normal))
            return SupervoxelSplit(first, second, m.id)

        return self.mutate(change, user=user, app=app, force=force)

    def split(self, body: int, runs: ArrayLike, *, user: str = "", app: str = "", force: bool = False) -> BodySplit:
        """Make the voxels under runs a body of their own; every supervoxel under them is cut.

        Parameters
        ----------
        body
            What to cut.
        runs
            int (n, 4) x, y, z, length: the voxels of the new body. Background under them doesn't count.

        Raises
        ------
        BadRequest
            If there is no such body, runs lie over other bodies or where no block is stored, or hold none or all of
            the body; nothing is changed.
        """
        self.resolve(body)
        self.check_open(force)
        normal = splits.prepare_runs(runs)
        ref = ""
        for _ in range(_ATTEMPTS):
            view = self.view(0)
            planned = self._check_split(view, body, normal)
            ref = ref or self.version.datastore.put_blob(rles.encode_srles(normal))
            try:
                return self._split(view, body, normal, planned, ref, {"user": user, "app": app, "force": force})
            except _OthersWroteError:
                continue
        raise Conflict(f"others kept changing the voxels of body {body}; try again")

    def _split(
        self,
        view: Space,
        body: int,
        runs: NDArray[np.int32],
        planned: NDArray[np.uint64],
        ref: str,
        who: dict[str, Any],
    ) -> BodySplit:
        """Split a body whose supervoxels under the runs are the planned ones; new ids are drawn for them first."""
        drawn = self._unused_labels(view, 1 + 2 * len(planned))
        new_body, fresh = int(drawn[0]), drawn[1:]
        parts = Parts.of(planned, fresh[::2], fresh[1::2])

        def change(m: Mutation, space: TxSpace) -> BodySplit:
            if not np.array_equal(self._check_split(space, body, runs), planned):
                raise _OthersWroteError
            self._check_unused(space, drawn)
            stamp = self._stamp(m)
            done = splits.cut(space, self.layout, body, parts, runs, stamp, strict=False)
            edits.move_rows(space, body, new_body, np.sort(parts.split), stamp, mark=False)
            # the new body is no supervoxel: its id is retired as one, as a cleave does
            made = np.append(parts.split, np.uint64(new_body))
            set_mapping(space, made, np.append(np.full(len(parts.split), new_body, np.uint64), np.uint64(0)))
            splits.note_splits(space, self._vid(), m.id, parts)
            self._log(m, "split-complete", Target=body, NewLabel=new_body, Split=ref, SVSplits=sv_splits(parts))
            entries = np.ones(len(parts.split), np.bool_).tobytes()
            back = Move(new_body, body, as_ids(parts.split), entries, whole=True, fresh=False)
            self._keep_undo(m, "split", [back, _join(parts, done, ref, downres=True)])
            m.publish(self, events.SupervoxelsSplit(m.id, body, *parts, runs))
            m.publish(self, events.BodyCleaved(m.id, body, new_body, parts.split))
            return BodySplit(new_body, m.id)

        return self.mutate(change, **who)

    def supervoxel_splits(self) -> Iterator[tuple[Version, NDArray[np.uint64]]]:
        """Splits of supervoxels up to this version: each version that has some, youngest first, with its splits.

        Those of all parents of a merge are among them, but for splits that it could not keep.

        Yields
        ------
        version, splits
            uint64 (n, 4): mutation id, supervoxel, and what it was cut into: the rest, then what was cut off.
        """
        view = self.view()
        above = [self.version, *self.version.ancestors()] if self.info.versioned else [self.repo[self.repo.root]]
        for version in above:
            rows = list(splits.scan_splits(view, version.id))
            if rows:
                yield version, np.concatenate(rows)

    @staticmethod
    def _body_to_split(space: AnySpace, supervoxel: int) -> int:
        if not 1 <= supervoxel <= RESERVED:
            raise BadRequest(f"label {supervoxel} is background or out of range: expected 1 to 2**64 - 1")
        body = Mapping(space).body(supervoxel)
        if not body or not int(Index(space).voxels_of(body, [supervoxel])[0]):
            raise BadRequest(f"there is no supervoxel {supervoxel}: it was split, or never had voxels")
        return body

    @staticmethod
    def _check_unused(space: AnySpace, labels: ArrayLike) -> None:
        asked = np.asarray(labels, np.uint64)
        taken = asked[edits.used(space, asked)]
        if len(taken):
            raise BadRequest(f"label {taken[0]} is in use, so it can't be the id of a part of a split")

    def _check_split(self, space: AnySpace, body: int, runs: NDArray[np.int32]) -> NDArray[np.uint64]:
        """The supervoxels under runs, in the order met, if the runs can split a body."""
        header = Index(space).header(body)
        if header is None:
            raise BadRequest(f"body {body} doesn't exist, so it can't be split")
        met, voxels = splits.under(space, self.layout, runs)
        bodies = Mapping(space).bodies(met)
        foreign = met[bodies != np.uint64(body)]
        if len(foreign):
            listed = ", ".join(map(str, foreign[:10].tolist()))
            raise BadRequest(f"the runs lie over supervoxels that aren't part of body {body}: {listed}")
        if not 0 < int(voxels.sum()) < header.voxels:
            raise BadRequest(f"the runs hold {'all' if len(met) else 'none'} of body {body}")
        return met


def _join(parts: Parts, done: splits.Done, ref: str, downres: bool) -> Join:
    voxels = np.stack([done.split_voxels, done.remain_voxels], axis=1)
    old, split, remain = (as_ids(p) for p in parts)
    return Join(old, split, remain, as_ids(voxels), done.entries.tobytes(), ref, downres)
