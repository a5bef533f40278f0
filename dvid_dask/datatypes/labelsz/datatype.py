"""The datatype labelsz: how many elements of each kind a label has, and which labels have most."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from dvid_dask.datatypes.base import Datatype, Mutation, Space, TxSpace, register
from dvid_dask.datatypes.events import KINDS, ElementsFiled, ListsReplaced
from dvid_dask.errors import BadRequest, Conflict, DvidError, NotSupported
from dvid_dask.formats.distinct import is_among
from dvid_dask.versions.records import new_uuid
from dvid_dask.versions.settings import setting_text

from . import counts
from .counts import EVERYTHING, INDEX_TYPES, SYNAPSES, Ranked, Tally

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

    from dvid_dask.store import View
    from dvid_dask.versions.meaning import MergeStep

__all__ = ["LabelSize"]

_COUNTED, _RECOUNT = b"n", b"j"

#: Labels that a recount writes in one commit; and rows that it adds up at a time.
_TOGETHER = 1 << 18
_HELD = 1 << 20


class _Region(Protocol):
    """What is asked of a region of interest at a version."""

    def contains(self, points: ArrayLike) -> NDArray[np.bool_]: ...


class _Nowhere:
    def contains(self, points: ArrayLike) -> NDArray[np.bool_]:
        return np.zeros(len(np.asarray(points)), np.bool_)


@register
class LabelSize(Datatype):
    """Counts of annotation elements per label and kind at a version, and the labels in order of them.

    It follows instances of annotation (`set_syncs`) and changes in the same commit as they do, so its answers are
    never behind. With an ROI, given at creation, only elements inside that are counted.

    Index types are the kinds ``PostSyn``, ``PreSyn``, ``Gap`` and ``Note``; ``AllSyn``, the first three together; and
    ``Voxels``, always 0. Label 0 is not counted.

    Examples
    --------
    >>> import numpy as np
    >>> import dvid_dask
    >>> repo = dvid_dask.create("memory://").new_repo()
    >>> seg = repo.new_instance("labelmap", "segmentation")
    >>> seg.write(np.array([7, 8], np.uint64).repeat(32)[None, None].repeat(64, 0).repeat(64, 1), (0, 0, 0))
    >>> synapses = repo.new_instance("annotation", "synapses")
    >>> synapses.set_syncs(["segmentation"])
    >>> ranks = repo.new_instance("labelsz", "ranks")
    >>> ranks.set_syncs(["synapses"])
    >>> ranks.count(7, "PreSyn"), ranks.top(3, "AllSyn")
    (0, Ranked(label=array([], dtype=uint64), size=array([], dtype=int64)))
    """

    typename: ClassVar[str] = "labelsz"
    typeurl: ClassVar[str] = "github.com/janelia-flyem/dvid/datatype/labelsz"
    merges_by_meaning: ClassVar[bool] = True
    # only annotations have something to tell, but DVID lets it follow anything
    sync_partners: ClassVar[frozenset[str] | None] = frozenset({"*"})

    # ------------------------------------------------------------------ settings

    @classmethod
    def parse_settings(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """``ROI``: ``name,uuid`` of the region that counts are limited to; whether it exists is not looked at."""
        text = setting_text(config, "roi")
        if text is not None and text.count(",") != 1:
            raise BadRequest(f"setting 'roi': {text[:80]!r} is not of the form name,uuid")
        return {"StaticROI": text or ""}

    def extended(self) -> dict[str, Any]:
        """The region that counts are limited to."""
        return {"StaticROI": self.info.settings["StaticROI"]}

    def set_syncs(self, partners: Sequence[str], *, replace: bool = False, force: bool = False) -> None:
        """Follow the changes of other instances, and count what they hold already, at all open versions.

        Committed versions stay as they are: there, and at versions made from them later, `recount` counts.
        """
        before = self.info.syncs
        super().set_syncs(partners, replace=replace, force=force)
        if self.info.syncs == before or not self._sources():
            return
        if not self.info.versioned:
            self.recount()
            return
        for record in self.repo.state().nodes.values():
            if not record.locked:
                here = self.repo[record.uuid].instance(self.info)
                if isinstance(here, LabelSize):
                    here.recount()

    # ------------------------------------------------------------------ reading

    def count(self, label: int, index_type: str) -> int:
        """Elements of a label; 0 for a label without any.

        Parameters
        ----------
        label : int
            0 to 2**64 - 1.
        index_type : str
            One of `INDEX_TYPES`.

        Raises
        ------
        BadRequest
            Another index type, or no such label.
        """
        return int(self.counts([label], index_type)[0])

    def counts(self, labels: ArrayLike, index_type: str) -> NDArray[np.int64]:
        """Elements of each of some labels, int64 (n,), in their order; see `count`."""
        return counts.sizes(self.view(), _labels(labels), index_type)

    def table(self, labels: ArrayLike | None = None) -> pd.DataFrame:
        """All counts as a dataframe: a row per label, a column per index type but ``Voxels``.

        Parameters
        ----------
        labels : array_like of int, optional
            These labels, in this order; by default all that have an element, ascending.
        """
        import pandas as pd

        space = self.view()
        if labels is None:
            pieces = [Tally(np.empty(0, np.uint64), np.empty((0, len(KINDS)), np.int64)), *counts.scan(space)]
            found = Tally(*(np.concatenate(part) for part in zip(*pieces, strict=True)))
        else:
            names = _labels(labels)
            found = Tally(names, counts.read(space, names))
        size = counts.listed(found.by_kind, counts.rule_of(space))
        keep = size.any(axis=1) if labels is None else np.ones(len(size), np.bool_)
        index = pd.Index(found.label[keep], name="label")
        return pd.DataFrame({name: size[keep, i] for i, name in enumerate(INDEX_TYPES[:5])}, index=index)

    def top(self, n: int, index_type: str) -> Ranked:
        """The labels with most elements: by descending size, those of equal size by ascending label.

        Parameters
        ----------
        n : int
            How many; fewer come where there are fewer.
        index_type : str
            One of `INDEX_TYPES`.

        Raises
        ------
        BadRequest
            Another index type, or a negative number.
        """
        return self.threshold(1, index_type, n=n)

    def threshold(self, least: int, index_type: str, *, offset: int = 0, n: int = 10_000) -> Ranked:
        """The labels with at least so many elements, in the order of `top`.

        Parameters
        ----------
        least : int
            Smallest size; labels without an element are never listed.
        index_type : str
            One of `INDEX_TYPES`.
        offset : int
            How many places to skip.
        n : int
            How many labels at most.
        """
        parts = [Ranked(np.empty(0, np.uint64), np.empty(0, np.int64))]
        parts += self.ranked(index_type, least=least, offset=offset, n=n)
        return Ranked(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def ranked(self, index_type: str, *, least: int = 1, offset: int = 0, n: int = 10_000) -> Iterator[Ranked]:
        """`threshold` in pieces, from one state and in bounded memory. Errors come at once."""
        counts.column(index_type)
        if least < 0 or offset < 0 or n < 0:
            raise BadRequest(f"size {least}, offset {offset} and number {n} must not be negative")
        return counts.ranked(self.view(), index_type, offset, offset + n, least=least)

    # ------------------------------------------------------------------ following annotations

    def on_event(self, m: Mutation, event: object) -> None:
        """Count what came to labels and what left them, in the commit that does it."""
        if isinstance(event, ElementsFiled):
            space = m.space(self)
            region = self._region()
            if region is None:
                counts.add(space, counts.tally(event.label, event.kind, event.delta))
                return
            for part in event.parts():
                inside = region.contains(part.position_zyx)
                counts.add(space, counts.tally(part.label[inside], part.kind[inside], part.sign[inside]))
        elif isinstance(event, ListsReplaced):
            space = m.space(self)
            counts.add(space, self._wrong(space, self._right(partial(_in_commit, m), self._region())))
            if space.get(_COUNTED) is None:
                space.put(_COUNTED, b"")

    def _region(self) -> _Region | None:
        """The ROI; nowhere if it can't be read."""
        try:
            return self._open_region()
        except DvidError:
            return _Nowhere()

    def _open_region(self) -> _Region | None:
        text = self.info.settings["StaticROI"]
        if not text:
            return None
        name, uuid = text.split(",")
        data = self.version.datastore[uuid][name]
        if data.info.typename != "roi":
            raise BadRequest(f"the ROI {text!r} of {self.name!r} is of type {data.info.typename}")
        region: _Region = data.pin()  # type: ignore[attr-defined]
        return region

    # ------------------------------------------------------------------ counting anew

    def _sources(self) -> list[Any]:
        """The annotations it follows, at this version."""
        named = self.repo.state().by_data_uuid
        found = [named[uuid] for uuid in self.info.syncs if uuid in named]
        return [self.version.instance(info) for info in found if info.typename == "annotation"]

    def _right(self, space_of: Callable[[Datatype], Space | TxSpace], region: _Region | None) -> Tally:
        """What the counts ought to be, from what the annotations hold in a state."""
        pieces: list[Tally] = []
        held = 0
        for part in self._tallies(space_of, region):
            pieces.append(part)
            held += len(part.label)
            if held > _HELD:
                pieces = [counts.total(pieces)]
                held = len(pieces[0].label)
        return counts.total(pieces)

    def _tallies(self, space_of: Callable[[Datatype], Space | TxSpace], region: _Region | None) -> Iterator[Tally]:
        for source in self._sources():
            space = space_of(source)
            if region is None:
                yield from (Tally(*part) for part in source.label_counts(space))
                continue
            for part in source.filed_parts(space):
                inside = region.contains(part.position_zyx)
                yield counts.tally(part.label[inside], part.kind[inside])

    def _space_of(self, state: View) -> Callable[[Datatype], Space]:
        """The annotations' keys in a state of the version's tree; of those that lie in another tree, as they are."""
        tree = self.version.tree(self.info).name

        def space_of(source: Datatype) -> Space:
            same = source.version.tree(source.info).name == tree
            return source.space_in(state) if same else source.view(0)

        return space_of

    @property
    def follows(self) -> list[str]:
        """Names of the annotations whose elements it counts."""
        return [source.name for source in self._sources()]

    def recount(self, *, everything: bool | None = None, user: str = "", app: str = "", force: bool = False) -> int:
        """Count anew what the annotations it follows hold at this version, and put right what differs.

        Others may go on editing: what they change is added as always. Up to 262,144 labels that differ are put right in
        one commit, more in several.

        Parameters
        ----------
        everything : bool, optional
            By which rule ``AllSyn`` counts from now on: synapses (PostSyn, PreSyn, Gap), or elements of all kinds, as
            DVID does after a reload. The default leaves the rule as it is.
        user, app, force
            As `Datatype.mutate`.

        Returns
        -------
        int
            Labels that were put right.

        Raises
        ------
        UnknownInstance, UnknownVersion, BadRequest
            The ROI can't be read.
        NotSupported
            It follows no annotation.
        Conflict
            Another recount was begun meanwhile.
        LockedVersion
        """
        self.check_open(force)
        region = self._open_region()
        if not self._sources():
            raise NotSupported(f"{self.name!r} follows no annotation, so there is nothing to count: sync it first")
        token = new_uuid().encode()
        who: dict[str, Any] = {"user": user, "app": app, "force": force}

        def begin(_: Mutation, space: TxSpace) -> None:
            space.put(_RECOUNT, token)
            if everything is not None:
                counts.set_rule(space, EVERYTHING if everything else SYNAPSES)

        self.mutate(begin, **who)
        state = self.view(0)
        wrong = self._wrong(state, self._right(self._space_of(state.view), region))
        for at in range(0, max(len(wrong.label), 1), _TOGETHER):
            self.mutate(partial(self._put_right, token=token, wrong=wrong, at=at), **who)
        return len(wrong.label)

    def _put_right(self, m: Mutation, space: TxSpace, *, token: bytes, wrong: Tally, at: int) -> None:
        if space.get(_RECOUNT) != token:
            raise Conflict(f"another recount of {self.name!r} was begun meanwhile: this one ends")
        part = Tally(wrong.label[at : at + _TOGETHER], wrong.by_kind[at : at + _TOGETHER])
        counts.add(space, part)
        if at + _TOGETHER >= len(wrong.label):
            space.delete(_RECOUNT)
            if space.get(_COUNTED) is None:
                space.put(_COUNTED, b"")
            m.log(self, {"Action": "reload", "Labels": len(wrong.label)})

    @staticmethod
    def _wrong(space: Space | TxSpace, right: Tally) -> Tally:
        """What is to be added to the counts; 0 for labels that are to be listed by another rule."""
        off = counts.total([right, *(Tally(part.label, -part.by_kind) for part in counts.scan(space))])
        differs = off.by_kind.any(axis=1)
        differs |= is_among(off.label, counts.of_other_rule(space, counts.rule_of(space)))
        return Tally(off.label[differs], off.by_kind[differs])

    def disagreements(self) -> Iterator[str]:
        """Labels that are not listed as they are counted, or whose counts are not those of the annotations' elements.

        The latter only where they were counted from the start: see `set_syncs`.
        """
        space = self.view()
        yield from counts.disagreements(space)
        if space.get(_COUNTED) is None or not self._sources():
            return
        try:
            region = self._open_region()
        except DvidError as error:
            yield f"its ROI can't be read, so nothing is counted: {error}"
            return
        wrong = self._wrong(space, self._right(self._space_of(space.view), region))
        for label, off in zip(wrong.label.tolist(), wrong.by_kind.tolist(), strict=True):
            for kind, n in zip(KINDS, off, strict=True):
                if n:
                    yield f"label {label}: {abs(n)} {kind} {'too few' if n > 0 else 'too many'}"

    def forget(self, m: Mutation) -> None:
        """Count from nothing, in a mutation that tells of all elements again: part of a bulk change."""
        space = m.space(self)
        space.delete_prefix(counts.COUNT)
        space.delete_prefix(counts.RANK)
        space.put(_COUNTED, b"")

    # ------------------------------------------------------------------ versions against each other

    def describe_change(self, key: bytes) -> Any:
        """The label of a record."""
        return counts.describe(key)

    def is_derived(self, key: bytes) -> bool:
        """Records and their places, where it counts the elements of one annotation."""
        return key[:1] in (counts.COUNT, counts.RANK) and len(self._sources()) == 1

    def carried_together(self, key: bytes) -> bool:
        """Records and their places in the order of sizes."""
        return key[:1] in (counts.COUNT, counts.RANK)

    def merge_versions(self, step: MergeStep) -> None:
        """Nothing where the annotations it follows tell what they merge; otherwise changes of a count add up."""
        for key in (_COUNTED, counts.RULE):
            step.merge_keys(key, lambda _, __, values: max((v for v in values if v is not None), default=None))
        if not any(source.merges_by_meaning for source in self._sources()):
            for part in counts.changes(step):
                step.update(lambda _, space, part=part: counts.add(space, part))  # type: ignore[misc]


def _in_commit(m: Mutation, source: Datatype) -> Space | TxSpace:
    try:
        return m.space(source)
    except BadRequest:  # its keys lie in another tree
        return source.view(0)


def _labels(labels: ArrayLike) -> NDArray[np.uint64]:
    given = np.asarray(labels) if hasattr(labels, "dtype") else np.array(labels, object)
    given = np.atleast_1d(given)
    if given.ndim != 1:
        raise BadRequest(f"labels are a list, not an array of shape {given.shape}")
    if given.dtype == object:
        if not all(isinstance(v, (int, np.integer)) and 0 <= v < 1 << 64 for v in given):
            raise BadRequest("labels are integers from 0 to 2**64 - 1")
    elif given.size and (given.dtype.kind not in "iu" or int(given.min()) < 0):
        raise BadRequest(f"labels are integers from 0 to 2**64 - 1, not {given.dtype} from {given.min()}")
    return given.astype(np.uint64)
