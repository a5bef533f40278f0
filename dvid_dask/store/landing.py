"""Landing: a branch takes the place of the tree that it was branched from, in one exchange of manifests.

What many commits have made on a branch becomes visible at once, however much it is: the tree's next manifest names the
branch's root. What others have committed to the tree since the branching isn't lost: it is told to the caller, who
puts it on top of the branch in the same step, or refuses.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import TYPE_CHECKING, TypeVar

from .commit import Writer, exchange
from .diff import Change, diff
from .errors import Sealed, StoreError, translate
from .manifest import decode
from .transaction import Transaction
from .tree import PATIENCE, Tree, _pause

if TYPE_CHECKING:
    from .view import View

__all__ = ["land"]

T = TypeVar("T")

#: Attempts that leave the others free to commit; a later one has them wait.
_POLITE = 3


def land(
    tree: Tree, branch: Tree, base: View, settle: Callable[[Transaction, View, Iterator[Change]], T | None]
) -> T | None:
    """Make the state of a branch that of the tree, with what `settle` writes on top of it.

    Parameters
    ----------
    tree
        To be changed.
    branch
        What it becomes; is itself left as it is.
    base
        State of the tree at which the branch began.
    settle
        Called with a transaction on the branch, the tree's newest state, and what has changed in the tree since `base`;
        runs again if the tree changed meanwhile, so it must have no effect but on the transaction. What it raises is
        raised, and nothing is changed. None says that there is nothing to land any more.

    Raises
    ------
    Sealed
        The tree is sealed.
    Conflict
        Others kept changing the tree for a minute.
    """
    state = tree._state
    where = state.where
    tree.store._writable()
    deadline = time.monotonic() + PATIENCE
    for attempt in count(1):
        with state.turn() if attempt > _POLITE else contextlib.nullcontext():
            now = state.fold(state.newest()) if attempt > _POLITE else tree.fold()
            if now.sealed:
                raise Sealed(f"{where.url}: tree {tree.name!r} is sealed; branch it and write to the branch")
            on = branch.fold()
            transaction = Transaction(on)
            result = settle(transaction, now, diff(base, now))
            if result is None:
                return None
            try:
                writer = Writer(where, on._manifest)
                writer, prepared = transaction._prepare(lambda writer=writer: writer)  # type: ignore[misc]
                transaction._finish_lists((writer, prepared), now)
                new = decode(writer.land(prepared, on._manifest)).single(now.manifest.generation + 1)
                tree.store.keep_states(transaction, now._manifest, new)
                with contextlib.nullcontext() if attempt > _POLITE else state.turn():
                    there = attempt > _POLITE or state.same(state.newest(), now)
                    done = there and exchange(where, tree.name, now._manifest, new)
                    if done:
                        state.adopt(new, now)
            except (ValueError, OSError) as error:
                raise translate(error, f"landing on tree {tree.name!r}", where.url) from error
        if done:
            for callback in transaction._callbacks:
                callback()
            return result
        _pause(attempt, deadline, state)
    raise StoreError("an endless count has ended")
