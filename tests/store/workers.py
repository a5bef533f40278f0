"""What other processes do in the tests: ``python -m tests.store.workers NAME URL ARGUMENTS``."""

from __future__ import annotations

import os
import random
import sys
import time

from dvid_dask.store import Conflict, Store, journal


def count(url: str, tree: str, times: str) -> None:
    """Count up one key, so many times."""
    target = Store.open(url).tree(tree)
    for _ in range(int(times)):
        target.update(lambda tx: tx.put(b"count", b"%d" % (int(tx.get(b"count") or b"0") + 1)))


def write_forever(url: str, seed: str) -> None:
    """Commit transactions of several keys and large values that belong together, and say of each when it is durable."""
    store = Store.open(url)
    rng = random.Random(seed)
    tree = store.tree("main")
    journal.RECORDS = rng.choice((256, 6))  # so that some are put into nodes all the time
    while True:

        def work(tx):
            serial = int(tx.get(b"last") or b"0") + 1
            tx.put(b"last", b"%d" % serial)
            fill = b"%d " % serial * (200 if serial % 2 else 3)
            tx.put_many((b"part%d" % i, fill + b"%d" % i) for i in range(20))
            tx.put(b"log%09d" % serial, fill)
            tx.delete_range(b"recent", b"recenu")
            tx.put(b"recent%09d" % serial, b"")
            return serial

        serial = tree.update(work)
        print("done", serial, flush=True)
        if rng.random() < 0.05:
            time.sleep(rng.random() * 0.01)


def seal_forever(url: str, seed: str) -> None:
    """Branch the main tree, edit the branch, seal it, say so; again and again."""
    store = Store.open(url)
    while True:
        name = f"v{time.time_ns()}-{seed}"
        branch = store.branch("main", name)
        for i in range(30):
            branch.update(lambda tx, i=i: tx.put(b"edit%03d" % i, b"%d" % i * 300))
        print("edited", name, flush=True)
        store.seal(name)
        print("sealed", name, flush=True)


def gc_forever(url: str, seed: str) -> None:
    """Collect with no grace: nobody else writes."""
    store = Store.open(url)
    while True:
        store.gc(0)
        print("swept", seed, flush=True)
        store.tree("main").update(lambda tx: tx.put(b"garbage", os.urandom(2_000)))


def gc_beside_writers(url: str, _seed: str) -> None:
    """Collect with a grace longer than a commit takes, while others write."""
    store = Store.open(url)
    while True:
        store.gc(2.0)
        print("swept", flush=True)


def race(url: str, tree: str, times: str) -> None:
    """Like `count`, but say how many attempts it took."""
    attempts = 0

    def work(tx):
        nonlocal attempts
        attempts += 1
        tx.put(b"count", b"%d" % (int(tx.get(b"count") or b"0") + 1))

    target = Store.open(url).tree(tree)
    for _ in range(int(times)):
        try:
            target.update(work)
        except Conflict:
            sys.exit("gave up")
    print(attempts, flush=True)


def fill_disk(url: str, limit: str) -> None:
    """Write more than a file of this process may hold, then a little."""
    import resource
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    store = Store.open(url)
    tree = store.tree("a")
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
    try:
        tree.update(lambda tx: tx.put(b"large", os.urandom(4 * int(limit))))
    except OSError as error:
        print(type(error).__name__, error, flush=True)
    tree.update(lambda tx: tx.put(b"small", b"1"))
    print("small", tree.view().get(b"small"), tree.view().get(b"large"), flush=True)


def as_nobody(url: str, action: str) -> None:
    """Do something without permission."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    try:
        if action == "create":
            Store.create(url)
        elif action == "open":
            Store.open(url)
        else:
            store = Store.open(url)
            print("read", store.tree("a").view().get(b"a"), flush=True)
            store.tree("a").update(lambda tx: tx.put(b"a", b"2"))
    except OSError as error:
        print(type(error).__name__, error, flush=True)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
