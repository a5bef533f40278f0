"""A mutation in many commits that is seen as one: made on a branch of its tree, which then takes the tree's place.

What is too large for a transaction's memory is done in parts on a branch (`staged`). Nobody sees it before it lands,
and what fails leaves the tree as it was. Others go on meanwhile, so the branch has to be brought up to what they did:
in rounds, each of which has only what came during the one before, and the last of which has the others wait if they
are so many that none is short enough.

The branch is called ``staged-``, when it was made, the mutation and something random. One that a killed process left
goes with `Datastore.gc` or ``jobs tidy``.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from dvid_dask.errors import LockedVersion
from dvid_dask.store import Sealed, TreeNotFound, land
from dvid_dask.versions.feed import Voice
from dvid_dask.versions.mutation import Handed, Mutation, tell_followers

if TYPE_CHECKING:
    from dvid_dask.datatypes.base import Datatype
    from dvid_dask.store import Change, Transaction, Tree, View
    from dvid_dask.versions.space import TxSpace

    Update = Callable[[Callable[[Mutation, TxSpace], Any]], Any]
    CatchUp = Callable[[Update, View, View], None]

__all__ = ["STAGED", "Stage", "land_caught_up", "made_at", "stage_name", "staged"]

T = TypeVar("T")

STAGED = "staged-"
"""Begins the names of branches."""

_ROUNDS = 8
_FEW = 2000  # keys that others changed which the last step takes up itself


def stage_name(mutation: int) -> str:
    """Name for the branch of a mutation."""
    return f"{STAGED}{int(time.time()):010x}-{mutation:016x}-{os.urandom(4).hex()}"


def made_at(name: str) -> datetime | None:
    """When a branch was made, by its name; None for other trees.

    Examples
    --------
    >>> made_at("staged-0065000000-0000000000000001-01234567").year, made_at("meta")
    (2023, None)
    """
    if not name.startswith(STAGED):
        return None
    try:
        return datetime.fromtimestamp(int(name[len(STAGED) :].partition("-")[0], 16), UTC)
    except (ValueError, OverflowError, OSError):
        return None


class Stage:
    """The branch of one mutation.

    Parameters
    ----------
    instance
        At an open version.
    user, app
        Who asks, with which program.

    Attributes
    ----------
    base
        The tree's state at which it began.
    mutation
        Its id.
    """

    def __init__(self, instance: Datatype, *, user: str, app: str) -> None:
        version, info = instance.version, instance.info
        self._instance = instance
        self._tree: Tree = version.tree(info)
        self._vid = version.id if info.versioned else instance.repo.state().root.id
        self._user, self._app = user, app
        self.mutation = instance.repo.next_mutation_id()
        self.base = self._tree.view(0)
        self._branch = version.datastore.store.branch(self.base, stage_name(self.mutation))
        self._handed = Handed()

    def update(self, fn: Callable[[Mutation, TxSpace], T]) -> T:
        """One commit of many. What `fn` logs is logged at the end; who can't follow in here is told at the end."""

        def change(tx: Transaction) -> tuple[Mutation, T]:
            m = self._mutation(tx)
            return m, fn(m, m.space(self._instance))

        m, result = self._branch.update(change)
        m.leave(self._handed)
        return result

    def _mutation(self, tx: Transaction, voice: Voice | None = None, before: View | None = None) -> Mutation:
        version = self._instance.version
        return Mutation(self.mutation, self._user, self._app, version, tx, self._tree.name, self._vid, voice, before)

    def land(self, catch_up: CatchUp, last: Callable[[Mutation, TxSpace], T]) -> T:
        """Have it take the tree's place.

        Parameters
        ----------
        catch_up
            As for `land_caught_up`.
        last
            What is to be done in the last commit.

        Raises
        ------
        LockedVersion
            If the version was committed meanwhile.
        """
        instance = self._instance
        feed = instance.version.datastore.feed
        voice = Voice(feed, instance.repo.root) if feed else None

        def settle(tx: Transaction, newest: View) -> tuple[Mutation, T]:
            if voice is not None:
                voice.attempt()
            m = self._mutation(tx, voice, newest)
            m.take(self._handed)
            result = last(m, m.space(instance))
            m.finish()
            if voice is not None:
                voice.commits()
            return m, result

        def caught_up(update: Callable[[Callable[[Transaction], Any]], Any], old: View, new: View) -> None:
            def step(fn: Callable[[Mutation, TxSpace], Any]) -> Any:
                def change(tx: Transaction) -> Any:
                    m = self._mutation(tx)
                    return fn(m, m.space(instance))

                return update(change)

            catch_up(step, old, new)

        try:
            m, result = land_caught_up(self._tree, self._branch, self.base, caught_up, settle)
        except Sealed as error:
            raise LockedVersion(
                f"version {instance.version.uuid} was committed meanwhile: nothing is changed"
            ) from error
        if voice is not None:
            voice.done()
        tell_followers(m)
        return result

    def drop(self) -> None:
        """Remove the branch, landed or not."""
        with contextlib.suppress(TreeNotFound):
            self._instance.version.datastore.store.drop_tree(self._branch.name)


@contextlib.contextmanager
def staged(instance: Datatype, *, user: str = "", app: str = "") -> Iterator[Stage]:
    """A branch for one mutation, which is dropped in the end; nothing has happened if `Stage.land` wasn't called."""
    instance.check_open()
    stage = Stage(instance, user=user, app=app)
    try:
        yield stage
    finally:
        stage.drop()


class _MoreError(Exception):
    """Others changed so much that it takes another round."""


def land_caught_up(
    tree: Tree,
    branch: Tree,
    base: View,
    catch_up: Callable[[Callable[[Callable[[Transaction], Any]], Any], View, View], None],
    last: Callable[[Transaction, View], T | None],
) -> T:
    """Make the state of a branch that of the tree, with what others did to the tree since.

    Parameters
    ----------
    tree, branch, base
        As for `dvid_dask.store.land`.
    catch_up
        Called with a way to change the branch (a function that gets a function of a transaction), the tree's state that
        the branch is up to, and a newer one: brings what happened between the two into the branch. What it raises is
        raised, and the tree stays as it is.
    last
        Called in the last commit, with its transaction and the tree's newest state; what it returns is returned.
    """
    for left in reversed(range(_ROUNDS)):
        newest = tree.view(0)
        if newest.token != base.token:
            catch_up(branch.update, base, newest)
            base = newest

        def settle(
            tx: Transaction, now: View, changes: Iterator[Change], base: View = base, left: int = left
        ) -> T | None:
            found = len(list(islice(changes, _FEW + 1)))
            if left and found > _FEW:
                raise _MoreError
            if found:
                catch_up(lambda fn: fn(tx), base, now)
            return last(tx, now)

        try:
            return land(tree, branch, base, settle)  # type: ignore[return-value]
        except _MoreError:
            continue
    raise AssertionError("the last round takes up all there is")
