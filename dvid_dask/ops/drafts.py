"""Drafts: a bulk change of a version that nobody sees until it is whole.

The job works on a branch of the version's tree, with as many commits as it takes, and at the end that branch takes the
tree's place in one step (`dvid_dask.store.land`). So readers see all of it or nothing, a kill leaves nothing, and what
fails is dropped. Trees in the store while the job is unfinished, made from its name:

=====================  =====================================================
``draft-`` job         what the version will be
``draft-`` job ``.0``  what it was when the job began
``draft-`` job ``.1``  the draft, while it takes up what others did meanwhile
=====================  =====================================================

What others have changed in the version meanwhile is kept: keys that only they changed are taken over, mappings are
compared id by id. A body or block that both sides changed makes the job give up, with nothing changed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from dvid_dask.datatypes.base import Mutation, Space, TxSpace
from dvid_dask.datatypes.labelmap.restoring import take_over
from dvid_dask.datatypes.labelmap.steps import Restore, encode_steps
from dvid_dask.errors import Conflict, LockedVersion, NotFound
from dvid_dask.ops.job import InstanceLedger, Result, unfinished_jobs
from dvid_dask.store import Sealed, TreeExists, TreeNotFound, View, land
from dvid_dask.versions.feed import Voice
from dvid_dask.versions.mutation import tell_followers
from dvid_dask.versions.records import now
from dvid_dask.versions.staging import land_caught_up

if TYPE_CHECKING:
    from dvid_dask.datatypes.base import Datatype
    from dvid_dask.store import Change, Transaction, Tree
    from dvid_dask.versions.staging import CatchUp

__all__ = ["DRAFT", "DraftLedger", "abandon"]

T = TypeVar("T")

DRAFT = "draft-"
"""Begins the names of drafts' trees."""

_NAMED = 5


class DraftLedger(InstanceLedger):
    """The ledger of a job that changes a data instance on a draft of its version.

    Parameters
    ----------
    instance
        At an open version.
    name
        From `job_name`.
    user, app
        Who asks, with which program.
    about
        What was noted when the job began; see `start`.
    """

    def __init__(self, instance: Datatype, name: str, about: Result, *, user: str = "", app: str = "") -> None:
        super().__init__(instance, name, user=user, app=app)
        self.about = about

    @classmethod
    def start(cls, instance: Datatype, name: str, about: Result, *, user: str = "", app: str = "") -> DraftLedger:
        """Begin a job, or take up one that was begun before: then `about` is what was noted at that time.

        Raises
        ------
        LockedVersion
            If the version is committed.
        """
        instance.check_open()
        noted = about | {"mutation": instance.repo.next_mutation_id(), "time": now().isoformat()}
        held = InstanceLedger(instance, name, user=user, app=app).begin(noted)
        ledger = cls(instance, name, held, user=user, app=app)
        if held["mutation"] == noted["mutation"]:
            ledger._drop()  # of a run that ended between its landing and its cleaning up
        store = ledger._store
        with contextlib.suppress(TreeExists):
            if not store.has_tree(ledger._base):
                store.branch(instance.version.tree(instance.info).view(0), ledger._base)
        with contextlib.suppress(TreeExists):
            if not store.has_tree(ledger._tree):
                store.branch(ledger._base, ledger._tree)
        return ledger

    @property
    def _store(self) -> Any:
        return self.instance.version.datastore.store

    @property
    def _tree(self) -> str:
        return DRAFT + self.name

    @property
    def _base(self) -> str:
        return f"{self._tree}.0"

    @property
    def mutation(self) -> int:
        """Id of the mutation that the whole job is."""
        return int(self.about["mutation"])

    @property
    def time(self) -> datetime:
        """When the job began."""
        return datetime.fromisoformat(self.about["time"])

    @contextlib.contextmanager
    def _there(self) -> Iterator[None]:
        try:
            yield
        except TreeNotFound as e:
            raise Conflict(f"job {self.name} is over: it was finished, or given up, by somebody else") from e

    def base(self) -> Space:
        """The instance's keys when the job began."""
        with self._there():
            return self.instance.space_in(self._store.tree(self._base).view())

    def view(self) -> Space:
        """The instance's keys in the draft."""
        with self._there():
            return self.instance.space_in(self._store.tree(self._tree).view(0))

    def mutate(self, fn: Callable[[Any, TxSpace], T]) -> T:
        """One commit on the draft; `fn` gets the `Mutation` that the whole job is."""

        def attempt(tx: Transaction) -> T:
            m = self._mutation(tx)
            return fn(m, m.space(self.instance))

        with self._there():
            return self._store.tree(self._tree).update(attempt)  # type: ignore[no-any-return]

    def _mutation(self, tx: Transaction, voice: Voice | None = None, before: View | None = None) -> Mutation:
        instance = self.instance
        version, info = instance.version, instance.info
        vid = version.id if info.versioned else version.repo.state().root.id
        tree = version.tree(info).name
        m = Mutation(self.mutation, self._who["user"], self._who["app"], version, tx, tree, vid, voice, before)
        m.time = self.time
        return m

    def finish(self, fn: Callable[[Any, TxSpace], None], *, undo: bool = True, catch_up: CatchUp | None = None) -> None:
        """Have the draft, with what `fn` writes, take the version's place. Nothing happens if another run was faster.

        Parameters
        ----------
        fn
            Gets the `Mutation` and the instance's keys.
        undo
            Whether the whole job can be taken back.
        catch_up
            What brings into a draft what others did meanwhile; by default what only they changed is taken over. See
            `dvid_dask.versions.staging`.

        Raises
        ------
        Conflict
            If others changed the same bodies or blocks meanwhile; the version stays as they left it, the draft is gone.
        LockedVersion
            If the version was committed meanwhile.
        """
        instance = self.instance
        tree = instance.version.tree(instance.info)
        with self._there():
            draft, base = self._store.tree(self._tree), self._store.tree(self._base).view()

        feed = instance.version.datastore.feed
        voice = Voice(feed, instance.repo.root) if feed else None

        def settle(tx: Transaction, newest: View) -> Mutation | None:
            if instance.space_in(newest).get(self._record) is None:
                return None
            if voice is not None:
                voice.attempt()
            m = self._mutation(tx, voice, newest)
            space = m.space(instance)
            fn(m, space)
            space.delete_prefix(self._record)
            if undo and m.keeps_undo(instance):
                step = Restore(*m.keep_states(instance), "edits")
                m.keep_undo(instance, str(self.about["op"]), encode_steps([step]))
            m.finish()
            if voice is not None:
                voice.commits()
            return m

        def taken_over(tx: Transaction, newest: View, changes: Iterator[Change]) -> Mutation | None:
            if instance.space_in(newest).get(self._record) is not None:
                self._take_over(tx, base, newest, changes)
            return settle(tx, newest)

        try:
            if catch_up is None:
                done = land(tree, draft, base, taken_over)
            else:
                done = land_caught_up(tree, self._copy(draft), base, self._as_mutations(catch_up), settle)
        except Sealed as e:
            self._drop()
            raise LockedVersion(f"version {instance.version.uuid} was committed meanwhile: nothing is changed") from e
        except Conflict:
            self.give_up()
            raise
        if done is not None:
            if voice is not None:
                voice.done()
            tell_followers(done)
        self._drop()

    def _copy(self, draft: Tree) -> Tree:
        """A copy of the draft for what brings it up to date: a run that is killed on the way begins that anew."""
        name = f"{self._tree}.1"
        with contextlib.suppress(TreeNotFound):
            self._store.drop_tree(name)
        return self._store.branch(draft.name, name)  # type: ignore[no-any-return]

    def _as_mutations(self, catch_up: CatchUp) -> Callable[[Callable[[Any], Any], View, View], None]:
        def caught_up(update: Callable[[Any], Any], old: View, new: View) -> None:
            def step(fn: Callable[[Mutation, TxSpace], Any]) -> Any:
                def change(tx: Transaction) -> Any:
                    m = self._mutation(tx)
                    return fn(m, m.space(self.instance))

                return update(change)

            catch_up(step, old, new)

        return caught_up

    def give_up(self) -> None:
        """Drop the draft and the note of the job: the version is as if it had not been started."""
        with contextlib.suppress(LockedVersion):
            super().mutate(lambda _, space: space.delete_prefix(self._record))
        self._drop()

    def _drop(self) -> None:
        for name in (self._tree, self._base, f"{self._tree}.1"):
            with contextlib.suppress(TreeNotFound):
                self._store.drop_tree(name)

    # -------------------------------------------------------------- what others did meanwhile

    def _take_over(self, tx: Transaction, base: View, newest: View, changes: Iterator[Change]) -> None:
        unsettled = take_over(self.instance, tx, base, newest, changes)
        if unsettled:
            named = ", ".join(self._name(key) for key in unsettled[:_NAMED])
            more = f" and {len(unsettled) - _NAMED} more" if len(unsettled) > _NAMED else ""
            raise Conflict(
                f"others changed the same of {self.instance.name!r} while the job ran ({named}{more}): "
                "nothing of it is kept, start it again"
            )

    def _name(self, key: bytes) -> str:
        prefix = self.instance.info.prefix
        what = self.instance.describe_change(key[len(prefix) :]) if key.startswith(prefix) else None
        if isinstance(what, dict):
            return ", ".join(f"{kind} {value}" for kind, value in what.items() if kind != "scale")
        return repr(key)


def abandon(instance: Datatype, job: str) -> None:
    """Give a job up that nobody will take up again: its notes go, and its draft, if it worked on one.

    What a bulk change of bodies did was seen by nobody, so the version is as if it had not been started. What a job
    wrote that works in place (`ingest`, `downres`) stays as far as it came.

    Parameters
    ----------
    instance
        What it worked on, at its version.
    job
        Its name, as `unfinished_jobs` lists it. It must not be running: its next step would fail.

    Raises
    ------
    NotFound
        If there is no such job.
    LockedVersion
        If the version is committed.

    Examples
    --------
    >>> import dvid_dask
    >>> from dvid_dask import ops
    >>> seg = dvid_dask.create("memory://").new_repo("fly").new_instance("labelmap", "segmentation")
    >>> for name in ops.unfinished_jobs(seg):
    ...     ops.abandon(seg, name)
    """
    instance.check_open()
    if job not in unfinished_jobs(instance):
        raise NotFound(f"{instance.name!r} has no unfinished job {job!r} at version {instance.version.uuid}")
    DraftLedger(instance, job, {}).give_up()
