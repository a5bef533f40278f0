"""Ctrl-C at each moment of a commit: what the process knows is what the disk says, and no lock stays with it."""

from __future__ import annotations

import dis
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dvid_dask.store import Store, commit, journal

#: Later ones don't tell a tracer of the first instructions of a frame, or of none of them.
traced = pytest.mark.skipif(sys.version_info >= (3, 12), reason="needs traces of all instructions")

HERE = Path(__file__).parents[2]
STORE = str(Path(commit.__file__).parent)


class Interrupt:
    """Raises KeyboardInterrupt at one of the moments at which Python looks for signals in the store's own code.

    These are the ends of calls and the beginnings of functions and rounds.
    """

    def __init__(self, at: int) -> None:
        self.left = at
        self.looks: set[int] = set()  # frames whose last instruction was one of those; by id, or they would live on
        self.names: dict[object, dict[int, str]] = {}

    def __enter__(self) -> None:
        sys.settrace(self.begin)

    def __exit__(self, *_) -> None:
        sys.settrace(None)

    def begin(self, frame, event, argument):
        file = frame.f_code.co_filename
        if not file.startswith(STORE) and not file.endswith("contextlib.py"):
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return self.step

    def step(self, frame, event, argument):
        if event == "opcode":
            if id(frame) in self.looks:
                self.looks.remove(id(frame))
                self.left -= 1
                if self.left == 0:
                    raise KeyboardInterrupt
            code = frame.f_code
            names = self.names.get(code)
            if names is None:
                names = self.names[code] = {i.offset: i.opname for i in dis.get_instructions(code)}
            if names[frame.f_lasti] in ("RESUME", "CALL", "CALL_FUNCTION_EX", "CALL_KW", "JUMP_BACKWARD"):
                self.looks.add(id(frame))
        elif event in ("return", "exception"):
            self.looks.discard(id(frame))
        return self.step


def interrupted(action, at: int) -> bool:
    try:
        with Interrupt(at):
            action()
    except KeyboardInterrupt:
        return True
    return False


def small(target, value: bytes) -> None:
    target.update(lambda tx: tx.put(b"k", value))


def large(target, value: bytes) -> None:
    target.update(lambda tx: (tx.put(b"k", value), tx.to_nodes()))


def folded(target, value: bytes) -> None:
    small(target, value)
    target.fold()


@traced
# a file that an interrupt leaves open is closed when it is forgotten
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("action", "step"), [(small, 1), (large, 2), (folded, 5)])
def test_an_interrupt_at_any_moment_of_a_commit(local, action, step):
    target = local.create_tree("a")
    small(target, b"0")
    held, at = b"0", 0
    again = True
    while again:
        at += step
        value = b"%d" % at
        again = interrupted(lambda value=value: action(target, value), at)
        seen = target.view(1e9).get(b"k")
        assert seen in ({held, value} if again else {value}), at
        assert target.view(0).get(b"k") == seen, at
        held = seen
        assert not [name for name in map(_file, os.listdir("/proc/self/fd")) if name.endswith("/lock")], at
        thread = threading.Thread(
            target=lambda n=at: target.update(lambda tx: tx.put(b"other", b"%d" % n)), daemon=True
        )
        thread.start()
        thread.join(20)
        assert not thread.is_alive(), at
        assert list(target.view(0).scan()) == [(b"k", held), (b"other", b"%d" % at)], at
    assert at > 50
    assert dict(Store.open(local.url).tree("a").view(0).scan()) == dict(target.view(0).scan())
    assert local.fsck(deep=True).clean


@traced
def test_an_interrupt_at_any_moment_of_a_listing():
    at, again = 0, True
    while again:
        at += 1
        overlay = journal.Overlay(b"")
        for n in range(5):
            overlay.add({b"k%d" % n: b"", b"l%d" % n: b""}, 4096 * (n + 2))
        again = interrupted(lambda overlay=overlay: overlay.keys(b"", b"", 5), at)
        assert overlay.keys(b"l", b"", 5) == [b"l%d" % n for n in range(5)]
    assert at > 5


def test_an_interrupt_while_a_commit_waits_to_say_that_it_is_done(local):
    """Readers hold the lock for some milliseconds now and then. They look at the tree again after it."""
    target = local.create_tree("a")
    small(target, b"1")
    state = target._state

    class Waiting:
        def __init__(self, real) -> None:
            self.real = real

        def __enter__(self):
            if state._appending:
                raise KeyboardInterrupt
            self.real.acquire()

        def __exit__(self, *_):
            self.real.release()

    state._lock, real = Waiting(state._lock), state._lock
    with pytest.raises(KeyboardInterrupt):
        small(target, b"2")
    state._lock = real
    assert target.view(1e9).get(b"k") == target.view(0).get(b"k") == b"2"


def test_a_fork_while_another_thread_holds_a_lock(local):
    """Nobody will give it back in the child, which is told that it can't use the store."""
    local.create_tree("a")
    code = (
        "import os, signal, sys\n"
        "from dvid_dask.store import Store, StoreError\n"
        "tree = Store.open(sys.argv[1]).tree('a')\n"
        "for lock in (tree._state._lock, tree._state._mutex):\n"
        "    lock.acquire()\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        signal.alarm(10)\n"
        "        for use in (lambda: tree.update(lambda tx: None), tree.fold, tree.settle):\n"
        "            try:\n"
        "                tree._state._unsure = True\n"
        "                use()\n"
        "            except StoreError:\n"
        "                continue\n"
        "            os._exit(1)\n"
        "        os._exit(0)\n"
        "    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0\n"
        "    lock.release()\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, local.url], cwd=HERE, check=True, timeout=40)


def _file(number: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{number}")
    except FileNotFoundError:
        return ""
