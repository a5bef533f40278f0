"""The labelarray: labels in compressed blocks with an index; merges and splits rewrite voxels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from dvid_dask.datatypes.base import register
from dvid_dask.datatypes.labelmap import events, extents, keys, relabelling, undo
from dvid_dask.datatypes.labelmap.counters import RESERVED
from dvid_dask.datatypes.labelmap.index import Index
from dvid_dask.datatypes.labelmap.relabelling import Relabelled
from dvid_dask.datatypes.labelmap.settings import labelarray_settings
from dvid_dask.datatypes.labelmap.volume import BodyVolume
from dvid_dask.datatypes.runs import prepare_runs
from dvid_dask.errors import BadRequest
from dvid_dask.formats import rles
from dvid_dask.formats.distinct import distinct_rows

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from dvid_dask.datatypes.base import Mutation, TxSpace
    from dvid_dask.datatypes.labelmap.steps import Step

__all__ = ["LabelArray", "LabelSplit"]


class LabelSplit(NamedTuple):
    """The label of the voxels that were split off, and the mutation id."""

    label: int
    mutation: int


@register
class LabelArray(BodyVolume):
    """Labels at one version. Arrays are (z, y, x) uint64, coordinates voxels, signed 32-bit.

    A labelmap without supervoxels: voxels hold the bodies themselves, and an edit rewrites them, in one commit with
    index and coarser scales. So an edit costs what the bodies have in blocks. For new data take a labelmap.

    Examples
    --------
    >>> import dvid_dask
    >>> v = dvid_dask.create("memory://").new_repo("fly")["master"]
    >>> seg = v.repo.new_instance("labelarray", "bodies", {"BlockSize": "16,16,16", "MaxDownresLevel": "1"})
    >>> labels = np.zeros((16, 16, 32), np.uint64)
    >>> labels[:, :, 4:10], labels[:, :, 10:20] = 7, 9
    >>> seg.write(labels, (0, 0, 0))
    >>> merged = seg.merge(7, [9])
    >>> seg[0, 0, 8:12], seg.size(7)
    (array([7, 7, 7, 7], dtype=uint64), 4096)
    >>> seg.split(7, [[4, 0, 0, 2]]).label, seg[0, 0, 4:8]
    (10, array([10, 10,  7,  7], dtype=uint64))
    """

    typename: ClassVar[str] = "labelarray"
    typeurl: ClassVar[str] = "github.com/janelia-flyem/dvid/datatype/labelarray"
    typeversion: ClassVar[str] = "0.1"
    default_compression: ClassVar[str] = "gzip"
    sync_partners: ClassVar[frozenset[str] | None] = frozenset()

    @classmethod
    def parse_settings(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """See `dvid_dask.datatypes.labelmap.settings`."""
        return labelarray_settings(config)

    def extended(self) -> dict[str, Any]:
        """The labelarray's part of ``info``."""
        held = {int.from_bytes(k[-4:], "big"): int.from_bytes(v, "big") for k, v in self.view().scan(keys.OWN_MAX)}
        return {
            **self._properties(),
            "MaxLabel": {str(i): n for i, n in sorted(held.items())},
            "MaxRepoLabel": self.next_labels.largest,
            "IndexedLabels": self.indexed,
            "CountLabels": self.info.settings["CountLabels"],
            "MaxDownresLevel": self.layout.levels,
        }

    # ------------------------------------------------------------------ largest labels

    def max_label(self) -> int:
        """The largest label written at this version itself, 0 if there is none; not inherited, as in DVID."""
        own = self.view().get(keys.own_max(self._vid()))
        return 0 if own is None else int.from_bytes(own, "big")

    def note_largest(self, space: TxSpace, label: int) -> None:
        """Note a label that was written at this version."""
        key = keys.own_max(self._vid())
        old = space.get(key)
        if label and (old is None or int.from_bytes(old, "big") < label):
            space.put(key, label.to_bytes(8, "big"))

    # ------------------------------------------------------------------ edits

    def merge(self, target: int, others: Sequence[int], *, user: str = "", app: str = "", force: bool = False) -> int:
        """Write a label over all voxels of others; returns the mutation id.

        Parameters
        ----------
        target
            It may be new.
        others
            Labels; those without a voxel are passed over.

        Raises
        ------
        BadRequest
            If a label is 0, the target is among the others, or there is no index; nothing is changed.
        """
        merged = [self._label(other) for other in dict.fromkeys(others)]
        if not merged:
            raise BadRequest("a merge takes a target and at least one label to merge into it")
        if self._label(target) in merged:
            raise BadRequest(f"label {target} can't be merged into itself")
        self._need_index()

        def change(m: Mutation, space: TxSpace) -> int:
            had = Index(space).headers(merged)
            real = [label for label, header in zip(merged, had, strict=True) if header is not None]
            done = relabelling.merge(space, self.layout, target, real, self._stamp(m))
            self._keep(m, "merge", done)
            self._log(m, "merge-complete", Target=target, Labels=merged)
            if real:
                ids = np.array(real, np.uint64)
                m.publish(self, events.BodiesMerged(m.id, target, tuple(real)))
                joined = np.full(len(ids), target, np.uint64)
                m.publish(self, events.SupervoxelsJoined(m.id, target, joined, ids, ids))
            return m.id

        self.next_labels.raise_to(target)
        return self.mutate(change, user=user, app=app, force=force)

    def split(
        self, label: int, runs: ArrayLike, *, to: int = 0, user: str = "", app: str = "", force: bool = False
    ) -> LabelSplit:
        """Give the voxels of a label under runs another one.

        Parameters
        ----------
        label
            What to cut. Voxels under the runs that have another label stay as they are.
        runs
            int (n, 4) x, y, z, length; with none a label is drawn and nothing else is done, as in DVID.
        to
            Label of the voxels under the runs, which may be in use; 0 for a new one.

        Raises
        ------
        BadRequest
            If a label is 0, the runs can't be used, or there is no index; nothing is changed.
        """
        normal = prepare_runs(runs, empty=True)

        def change(m: Mutation, space: TxSpace, new: int) -> Relabelled:
            return relabelling.split(space, self.layout, label, new, normal, self._stamp(m))

        return self._split(label, to, "split", change, rles.encode_srles(normal), user=user, app=app, force=force)

    def split_coarse(
        self, label: int, block_zyx: ArrayLike, *, to: int = 0, user: str = "", app: str = "", force: bool = False
    ) -> LabelSplit:
        """Give all voxels of a label in some blocks another one.

        Parameters
        ----------
        label
            What to cut.
        block_zyx
            int (n, 3): block coordinates (z, y, x).
        to
            Label of the voxels in these blocks, which may be in use; 0 for a new one.

        Raises
        ------
        BadRequest
            If a label is 0 or there is no index; nothing is changed.
        """
        blocks = distinct_rows(np.asarray(block_zyx, np.int32).reshape(-1, 3))

        def change(m: Mutation, space: TxSpace, new: int) -> Relabelled:
            return relabelling.split_coarse(space, self.layout, label, new, blocks, self._stamp(m))

        return self._split(label, to, "splitcoarse", change, blocks.tobytes(), user=user, app=app, force=force)

    def _split(
        self,
        label: int,
        to: int,
        action: str,
        carry_out: Callable[[Mutation, TxSpace, int], Relabelled],
        blob: bytes,
        *,
        user: str,
        app: str,
        force: bool,
    ) -> LabelSplit:
        self._label(label)
        if to and self._label(to) == label:
            raise BadRequest(f"label {label} can't be split into itself")
        self._need_index()
        self.check_open(force)
        ref = self.version.datastore.put_blob(blob)
        self.next_labels.raise_to(to)
        new = to or self.next_labels.allocate(1, above=extents.max_label(self.view(0)))[0]

        def change(m: Mutation, space: TxSpace) -> LabelSplit:
            done = carry_out(m, space, new)
            self.note_largest(space, new)
            self._keep(m, action, done)
            self._log(m, f"{action}-complete", Target=label, NewLabel=new, Split=ref)
            m.publish(self, events.BlocksWritten(m.id, done.block_zyx))
            return LabelSplit(new, m.id)

        return self.mutate(change, user=user, app=app, force=force)

    def _need_index(self) -> None:
        if not self.indexed:
            raise BadRequest("labels are edited by the label index, and this instance was made without one")

    @staticmethod
    def _label(label: int) -> int:
        if not 1 <= label <= RESERVED:
            raise BadRequest(f"label {label} is background or out of range: expected 1 to 2**64 - 1")
        return int(label)

    def _keep(self, m: Mutation, action: str, done: Relabelled) -> None:
        """Keep what it takes to undo."""
        if m.keeps_undo(self):
            back: list[Step] = []
            if len(done.values):
                back = [
                    undo.blocks_before(
                        done.block_zyx,
                        done.olds,
                        done.values,
                        scale=0,
                        index=True,
                        downres=True,
                        keep=lambda: m.keep_states(self, after=False)[0],
                    )
                ]
            self._keep_undo(m, action, back)
