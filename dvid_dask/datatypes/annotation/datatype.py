"""Annotations at a version: points with kinds, tags, properties and relationships."""

from __future__ import annotations

import contextlib
import functools
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from dvid_dask.datatypes.annotation import edits, keys, merging, reload, staged, state, undoing
from dvid_dask.datatypes.annotation.blocks import blocks_around
from dvid_dask.datatypes.annotation.elements import Elements
from dvid_dask.datatypes.annotation.filing import Filing
from dvid_dask.datatypes.annotation.messages import delta_message
from dvid_dask.datatypes.annotation.reads import Reads
from dvid_dask.datatypes.annotation.tables import from_rows
from dvid_dask.datatypes.annotation.verify import verify
from dvid_dask.datatypes.base import Mutation, Space, TxSpace, register
from dvid_dask.datatypes.events import ListsReplaced
from dvid_dask.errors import BadRequest, LockedVersion
from dvid_dask.formats.distinct import distinct_rows
from dvid_dask.versions.undo import scan_undo

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

    from dvid_dask.versions.meaning import MergeStep
    from dvid_dask.versions.undo import UndoRecord

    AnySpace = Space | TxSpace

__all__ = ["Annotation"]

T = TypeVar("T")

Told = Mapping[str, Any] | Callable[[], Mapping[str, Any] | None] | None

_INT32 = 1 << 31


@register
class Annotation(Reads):
    """Elements at a version: points with a kind, tags, properties and relationships, found by box, body and tag.

    In Python coordinates are (z, y, x) in voxels; in JSON and over HTTP x, y, z. An instance that syncs with a labelmap
    knows which body each element is in, at once: what moves voxels or bodies moves elements along in its own commit.

    Examples
    --------
    >>> import dvid_dask
    >>> import numpy as np
    >>> v = dvid_dask.create("memory://").new_repo("fly")["master"]
    >>> seg = v.repo.new_instance("labelmap", "segmentation", {"BlockSize": "16,16,16"})
    >>> seg.write(np.repeat(np.arange(1, 17, dtype=np.uint64), 256).reshape(16, 16, 16), (0, 0, 0))
    >>> synapses = v.repo.new_instance("annotation", "synapses")
    >>> synapses.set_syncs(["segmentation"])
    >>> synapses.add([{"Pos": [5, 5, 0], "Kind": "PreSyn", "Tags": ["auto"]}, {"Pos": [5, 5, 3], "Kind": "PostSyn"}])
    2
    >>> synapses.of_label(4)
       z  y  x     kind tags prop
    0  3  5  5  PostSyn   []   {}
    >>> _ = seg.merge(1, [4])
    >>> len(synapses.of_label(1)), synapses.count(1)
    (2, {'Unknown': 0, 'PostSyn': 1, 'PreSyn': 1, 'Gap': 0, 'Note': 0})
    """

    typename: ClassVar[str] = "annotation"
    typeurl: ClassVar[str] = "github.com/janelia-flyem/dvid/datatype/annotation"
    merges_by_meaning: ClassVar[bool] = True
    sync_partners: ClassVar[frozenset[str] | None] = frozenset({"labelblk", "labelvol", "labelarray", "labelmap"})

    # ------------------------------------------------------------------ changing

    def add(
        self,
        elements: Elements | pd.DataFrame | Sequence[Mapping[str, Any]],
        *,
        told: Told = None,
        user: str = "",
        app: str = "",
        force: bool = False,
    ) -> int:
        """Add elements, in one commit. One at the position of another takes its place, with all that it had.

        Parameters
        ----------
        elements
            Columns; a dataframe as `elements` returns (``kind``, ``tags``, ``prop`` and ``rels`` may be missing); or
            DVID's JSON as Python has it, with ``Pos`` in x, y, z. Of those at one position the last counts.
        told
            What to tell watchers beside action, version and time, or what gives it when all is done; None tells them
            nothing. For the HTTP face.

        Returns
        -------
        int
            How many are new, or others than they were.

        Raises
        ------
        BadRequest
            If one can't be used; nothing is changed.
        """
        held = from_rows(elements)
        return self.add_parts(iter((held,)), len(held), told=told, user=user, app=app, force=force)

    def add_parts(
        self,
        parts: Iterator[Elements],
        count: int,
        *,
        told: Told = None,
        user: str = "",
        app: str = "",
        force: bool = False,
    ) -> int:
        """As `add`, of elements that come part by part, however many: memory is that of a packed form of them.

        Parameters
        ----------
        parts
            The elements.
        count
            About how many there are. Of more than 131,072 the change is made in parts beside the version, and seen
            when it is whole; others may go on meanwhile.
        told, user, app, force
            As for `add`.
        """
        if count <= staged.STAGED or not self._may_stage(force):
            given = edits.unique_positions(Elements.join(list(parts)))

            def change(filing: Filing, space: TxSpace, shape: tuple[int, int, int]) -> int:
                return edits.post(space, filing, shape, given)

            return self._edit(change, "element-post", told, kept="post", user=user, app=app, force=force)
        state.check_no_reload(self.view(0))
        changes = staged.post_staged(parts, count, self.block_shape)
        return self._in_parts(changes, "element-post", told, kept="post", user=user, app=app)

    def put_blocks(
        self,
        blocks: Mapping[tuple[int, int, int], Elements],
        *,
        told: Told = None,
        user: str = "",
        app: str = "",
        force: bool = False,
    ) -> None:
        """Make these the elements of blocks (z, y, x), in one commit; they must lie in them. Others as `add`."""
        coords = np.array(list(blocks), np.int64).reshape(-1, 3)
        if ((coords < -_INT32) | (coords >= _INT32)).any():
            raise BadRequest("a block leaves signed 32-bit coordinates")
        borders = np.concatenate([[0], np.cumsum([len(part) for part in blocks.values()])]).astype(np.int64)
        whole = coords.astype(np.int32), Elements.join(list(blocks.values())), borders
        self.put_block_parts(iter((whole,)), told=told, user=user, app=app, force=force)

    def put_block_parts(
        self,
        parts: Iterator[tuple[NDArray[np.int32], Elements, NDArray[np.int64]]],
        *,
        told: Told = None,
        user: str = "",
        app: str = "",
        force: bool = False,
    ) -> None:
        """As `put_blocks`, of blocks that come part by part, each once; memory is that of some thousand.

        Parameters
        ----------
        parts
            Blocks int32 (n, 3) (z, y, x), their elements block after block, and int64 (n + 1,), where those of each
            begin.
        told, user, app, force
            As for `add`.
        """
        whole = staged.blocks_together(parts)
        first, more = next(whole, None), next(whole, None)

        def change(
            filing: Filing, space: TxSpace, shape: tuple[int, int, int], part: staged.Blocks | None = first
        ) -> int:
            if part is not None:
                edits.put_blocks(space, filing, shape, *part)
            return 0

        if more is None or not self._may_stage(force):
            rest = staged.joined_blocks([part for part in (first, more, *whole) if part is not None])
            alone = functools.partial(change, part=rest)
            self._edit(alone, "blocks-post", told, kept="blocks", user=user, app=app, force=force)
            return
        changes = (functools.partial(change, part=part) for part in itertools.chain([first, more], whole))
        self._in_parts(changes, "blocks-post", told, kept="blocks", user=user, app=app)

    def delete(
        self,
        positions_zyx: ArrayLike,
        *,
        told: Told = None,
        user: str = "",
        app: str = "",
        force: bool = False,
    ) -> None:
        """Remove elements, in one commit, and relationships that lead to them from their blocks and their partners'.

        Parameters
        ----------
        positions_zyx
            int (n, 3), or one position.
        told
            As for `add`.

        Raises
        ------
        BadRequest
            If there is no element at one of the positions; nothing is changed.
        """
        points = distinct_rows(_points(positions_zyx))

        def change(filing: Filing, space: TxSpace, shape: tuple[int, int, int]) -> None:
            if len(points):
                edits.delete(space, filing, shape, points)

        self._edit(change, "element-delete", told, during_reload=True, kept="delete", user=user, app=app, force=force)

    def move(
        self,
        start_zyx: Sequence[int],
        end_zyx: Sequence[int],
        *,
        told: Told = None,
        user: str = "",
        app: str = "",
        force: bool = False,
    ) -> None:
        """Move an element, in one commit. What is at its end is replaced; relationships that lead to it follow.

        Raises
        ------
        BadRequest
            If there is no element to move; nothing is changed.
        """
        start, end = _points(start_zyx), _points(end_zyx)

        def change(filing: Filing, space: TxSpace, shape: tuple[int, int, int]) -> None:
            edits.move(space, filing, shape, start, end)

        self._edit(change, "element-move", told, kept="move", user=user, app=app, force=force)

    def undoable(self) -> Iterator[UndoRecord]:
        """The edits of elements of this version that `undo` or `redo` know, oldest first."""
        if self.info.versioned:
            yield from scan_undo(self.view().view, self.info.id, self.version.id)

    def undo(self, mutation: int, *, user: str = "", app: str = "", force: bool = False) -> int:
        """Take an edit of elements of this version back, with all that it did; later edits of other elements stay.

        Parameters
        ----------
        mutation
            Its id, as `undoable` tells it.

        Returns
        -------
        int
            The mutation id of the undo.

        Raises
        ------
        NotFound
            If the version keeps nothing of such an edit: it changed more than 16 MiB or 16,384 blocks, or the version
            is committed.
        BadRequest
            If it is undone already.
        LaterMutations
            If elements that it changed were changed since; it names edits of the same blocks. Nothing is changed.

        Examples
        --------
        >>> import dvid_dask
        >>> repo = dvid_dask.create("memory://").new_repo()
        >>> notes = repo.new_instance("annotation", "notes")
        >>> notes.add([{"Pos": [1, 2, 3], "Kind": "Note"}])
        1
        >>> (edit,) = notes.undoable()
        >>> _ = notes.undo(edit.id)
        >>> len(notes.elements())
        0
        """
        return self._carry_out(mutation, "undo", user=user, app=app, force=force)

    def redo(self, mutation: int, *, user: str = "", app: str = "", force: bool = False) -> int:
        """Do an edit again that `undo` took back; the id is that of the edit. Errors are those of `undo`."""
        return self._carry_out(mutation, "redo", user=user, app=app, force=force)

    def _carry_out(self, mutation: int, verb: str, *, user: str, app: str, force: bool) -> int:
        self.check_open()  # nothing is kept of a committed version, so force can't help

        def change(m: Mutation, space: TxSpace) -> int:
            state.check_no_reload(space)
            filing = self._filing(m, space)
            undoing.carry_out(self, m, space, filing, mutation, verb)
            filing.tell()
            return m.id

        return self.mutate(change, user=user, app=app, force=force)

    def put_label_lists(
        self, lists: Mapping[int, Elements], *, user: str = "", app: str = "", force: bool = False
    ) -> None:
        """Store lists of bodies as given, whatever the blocks say; a `reload` makes them anew.

        Parameters
        ----------
        lists
            Elements by body; positions may be anywhere.
        """
        self.put_label_parts(iter(lists.items()), user=user, app=app, force=force)

    def put_label_parts(
        self, lists: Iterator[tuple[int, Elements]], *, user: str = "", app: str = "", force: bool = False
    ) -> None:
        """As `put_label_lists`, of lists that come one by one, each body once; memory is that of some thousand."""
        whole = staged.lists_together(lists)
        first, more = next(whole, []), next(whole, None)

        def change(
            filing: Filing,
            space: TxSpace,
            shape: tuple[int, int, int],
            part: Sequence[tuple[int, Elements]] = first,
        ) -> int:
            for body, elements in part:
                for old in filing.labels.scan(body):
                    filing.tally.add(body, old, -1)
                bodies, supervoxels = filing.located(elements.zyx)
                key = np.where(bodies == np.uint64(body), supervoxels, np.uint64(0))
                filing.labels.replace(body, elements.listed(key), given=True)
                filing.tally.add(body, elements, 1)
            return 0

        if more is None or not self._may_stage(force):
            rest = [pair for part in (first, more or [], *whole) for pair in part]
            self._edit(functools.partial(change, part=rest), "", None, user=user, app=app, force=force)
            return
        changes = (functools.partial(change, part=part) for part in itertools.chain([first, more], whole))
        self._in_parts(changes, "", None, kept="", user=user, app=app)

    def delete_all(self, *, user: str = "", app: str = "", force: bool = False) -> None:
        """Remove all elements and lists at this version."""

        def change(m: Mutation, space: TxSpace) -> None:
            space.delete_prefix(keys.BLOCK)
            reload.clear_lists(space)
            space.delete(keys.STATE)
            m.publish(self, ListsReplaced(m.id))

        self.mutate(change, user=user, app=app, force=force)

    def _edit(
        self,
        change: Callable[[Filing, TxSpace, tuple[int, int, int]], T],
        action: str,
        told: Told,
        *,
        during_reload: bool = False,
        kept: str = "",
        user: str,
        app: str,
        force: bool,
    ) -> T:
        """One commit: what `change` does, what followers do, how to undo it (named by `kept`), what is told."""

        def attempt(m: Mutation, space: TxSpace) -> T:
            if not during_reload:
                state.check_no_reload(space)
            filing = self._filing(m, space)
            result = change(filing, space, self._state(space).shape)
            filing.tell()
            if kept:
                undoing.keep(self, m, space, kept, undoing.changed_blocks(m, space))
            self._report(m, action, told)
            return result

        return self.mutate(attempt, user=user, app=app, force=force)

    def _in_parts(
        self,
        changes: Iterator[staged.Change],
        action: str,
        told: Told,
        *,
        kept: str,
        user: str,
        app: str,
    ) -> int:
        """`_edit` in as many commits as there are changes, seen as one."""

        def report(m: Mutation) -> None:
            self._report(m, action, told)

        return staged.in_parts(self, self._filing, changes, report, kept=kept, user=user, app=app)

    def _may_stage(self, force: bool) -> bool:
        """Whether a change can be made beside the version; one that is forced onto a committed version can't."""
        self.check_open(force)
        return not (self.info.versioned and self.version.locked)

    def _report(self, m: Mutation, action: str, told: Told) -> None:
        said = told() if callable(told) else told
        if said is not None:
            m.report(self, {"Action": action, **({"User": m.user} if m.user else {}), **said})

    def _filing(self, m: Mutation, space: TxSpace) -> Filing:
        held = state.read_state(space)
        wanted = self._wanted_state()
        if held is None or (held != wanted and next(iter(space.keys(keys.BLOCK)), None) is None):
            state.write_state(space, wanted)
            held = wanted
        return Filing(self, m, space, self.source, held.shape)

    # ------------------------------------------------------------------ following

    def on_event(self, m: Mutation, event: object) -> None:
        """Keep lists in line with the segmentation, in its own commit; see `dvid_dask.datatypes.events`."""
        source = self.source
        if source is None or (m.teller is not None and m.teller.info.data_uuid != source.info.data_uuid):
            return
        space = m.space(self)
        held = state.read_state(space)
        if held is None:
            return  # there never was an element
        filing = Filing(self, m, space, source, held.shape)
        filing.follow(event)
        if filing.tally:
            filing.tell()
            if m.watched:
                message = delta_message(event, filing.tally)
                if message is not None:
                    m.report(self, message)

    # ------------------------------------------------------------------ making lists anew

    def reload(self, *, check: bool = False, user: str = "", app: str = "", force: bool = False) -> int:
        """Make lists of bodies and tags anew where they aren't what elements and segmentation say.

        Lists follow every change by themselves, so there is little to do: lists stored as given are made anew. All are
        where the annotation follows another segmentation than before, where versions with changes on both sides were
        merged, or with `check`. While it runs, elements can't be added or moved at this version, only deleted.

        Parameters
        ----------
        check
            Compare all lists with elements and segmentation, and write those that differ.

        Returns
        -------
        int
            Lists that were made anew; -1 for all.

        Raises
        ------
        BadRequest
            There are more than 4 million elements, all of which would have to be looked at: `ops.reload_elements` does
            it, in bounded memory.
        Reloading
            Another reload runs.
        """
        self.check_open(force)
        with self.holding_reload(user=user, app=app, force=force):

            def change(m: Mutation, space: TxSpace) -> int:
                held, wanted = state.read_state(space), self._wanted_state()
                if held is not None and held != wanted:
                    self._reload_whole(m, space)
                    return -1
                filing = Filing(self, m, space, self.source, wanted.shape)
                n = self._renew_given(m, space, filing)
                wrong = self._check(space, filing) if check else 0
                if wrong:  # what followers derived from wrong lists may be anything
                    m.publish(self, ListsReplaced(m.id))
                else:
                    filing.tell()
                return n + wrong

            return self.mutate(change, user=user, app=app, force=force)

    def _reload_whole(self, m: Mutation, space: TxSpace) -> None:
        held, wanted = state.read_state(space), self._wanted_state()
        filing = Filing(self, m, space, self.source, wanted.shape)
        reload.whole(space, filing, wanted.shape, recut=held is not None and held.shape != wanted.shape)
        state.write_state(space, wanted)
        m.publish(self, ListsReplaced(m.id))

    def _renew_given(self, m: Mutation, space: TxSpace, filing: Filing) -> int:
        given = list(reload.given_lists(space))
        source = self.source
        for body in given:
            blocks: list[NDArray[np.int32]] = []
            if source is not None:
                found = list(source.blocks_in(m.reading(source), body))  # type: ignore[arg-type]
                blocks = [blocks_around(part, source.block_shape, self._state(space).shape) for part in found]
                blocks = [distinct_rows(np.concatenate(blocks))] if blocks else []
            reload.renew_given(space, filing, self._state(space).shape, blocks, body)
        return len(given)

    def _check(self, space: TxSpace, filing: Filing) -> int:
        elements = reload.all_elements(space)
        bodies, supervoxels = filing.located(elements.zyx)
        located = filing.located if self.source is not None else None
        wrong = dict(verify(space, self._state(space).shape, located))
        names: dict[str, int] = {}
        for key in wrong:
            if key.startswith(keys.LABEL):
                body = keys.label_of(key)
                mine = bodies == np.uint64(body)
                filing.labels.replace(body, elements[mine].listed(supervoxels[mine]), given=False)
            else:
                names.setdefault(keys.tag_of(key), len(names))
        if names:
            for name in names:
                filing.tags.delete(name)
            space.put_many(reload.new_tag_lists(elements, filing.numbers, only=set(names)))
        return len(wrong)

    @contextlib.contextmanager
    def holding_reload(self, owner: str = "", **who: Any) -> Iterator[None]:
        """Have others know that a reload runs, until it is over.

        Parameters
        ----------
        owner
            Name of a job, which holds no second run of itself up.
        who
            As `Datatype.mutate`.

        Raises
        ------
        Reloading
            Another one runs.
        """

        def start(_: Mutation, space: TxSpace) -> None:
            state.check_no_reload(space, owner)
            state.hold_reload(space, owner)

        self.mutate(start, **who)
        over = threading.Event()

        def renew() -> None:
            while not over.wait(state.LEASE / 3):
                with contextlib.suppress(Exception):
                    self.mutate(lambda _, space: state.hold_reload(space, owner), **who)

        keeper = threading.Thread(target=renew, name="reload-lease", daemon=True)
        keeper.start()
        try:
            yield
        finally:
            over.set()
            keeper.join()
            with contextlib.suppress(LockedVersion):  # committed meanwhile: nobody posts there any more
                self.mutate(lambda _, space: state.end_reload(space), **who)

    @property
    def reloading(self) -> bool:
        """Whether lists are being made anew at this version."""
        return state.reloading(self.view(0))

    def disagreements(self) -> Iterator[str]:
        """Lists that aren't what elements and segmentation say, in words."""
        view = self.view()
        held, source = state.read_state(view), self.source
        if held is None:
            return
        located = None
        if source is not None and held.source == source.info.data_uuid:
            located = functools.partial(source.labels_in, source.view())
        given = {keys.label(body) for body in reload.given_lists(view)}
        for key, text in verify(view, held.shape, located):
            if key not in given:
                yield text

    # ------------------------------------------------------------------ versions against each other

    def describe_change(self, key: bytes) -> Any:
        """A changed key in words: a block, the list of a body or of a tag; None for the rest."""
        kind = key[:1]
        if kind == keys.BLOCK:
            z, y, x = keys.blocks_of([key])[0].tolist()
            return {"block": (z, y, x)}
        if kind == keys.LABEL:
            return {"body": keys.label_of(key)}
        if kind == keys.TAG:
            return {"tag": keys.tag_of(key)}
        return None

    def is_derived(self, key: bytes) -> bool:
        """Lists of bodies and tags, and their pages."""
        return key[:1] in (keys.LABEL, keys.TAG, keys.PAGE)

    def carried_together(self, key: bytes) -> bool:
        """Blocks and lists belong together; notes stand for themselves."""
        return key[:1] != keys.STATE[:1]

    def merge_versions(self, step: MergeStep) -> None:
        """Elements are merged position by position; lists follow, then and when the segmentation merges."""
        mine, other = state.read_state(step.ours), state.read_state(step.theirs)
        if other is None:
            return
        if mine is not None and mine.shape != other.shape:
            step.conflict(keys.STATE, {"blocks": list(mine.shape), "other": list(other.shape)})
            return
        merging.merge_blocks(step, self._filing)


def _points(zyx: ArrayLike) -> NDArray[np.int32]:
    """Positions (n, 3) or one.

    Raises
    ------
    BadRequest
        If they aren't three integers each that fit into 32 bits.
    """
    points = np.asarray(zyx)
    if points.size == 0:
        return np.empty((0, 3), np.int32)
    if points.dtype.kind not in "iu" or points.shape[-1] != 3 or points.ndim > 2:
        raise BadRequest("a position has three integers (z, y, x)")
    wide = points.astype(np.int64).reshape(-1, 3)
    if ((wide < -_INT32) | (wide >= _INT32)).any():
        raise BadRequest("a position leaves signed 32-bit coordinates")
    return wide.astype(np.int32)
