"""Processes killed (SIGKILL) at random moments, again and again, on one store.

After each kill: every transaction that was acknowledged is there, none is there by half, the check of the store is
clean, and garbage collection loses nothing. This shows atomicity against death of a process; power loss is what fsync
is for.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dvid_dask.store import Store

HERE = Path(__file__).parents[2]
KILLS = [pytest.param(5, id="short"), pytest.param(125, id="long", marks=pytest.mark.long)]


class Worker:
    """A process that does one of `workers` until it is killed."""

    def __init__(self, name: str, store: Store, seed: object, folder: Path) -> None:
        self.output = folder / f"{name}-{seed}"
        with self.output.open("wb") as file:
            command = [sys.executable, "-m", "tests.store.workers", name, store.url, str(seed)]
            self.process = subprocess.Popen(command, stdout=file, cwd=HERE)

    def wait_for_line(self) -> None:
        deadline = time.monotonic() + 60
        while not self.output.stat().st_size:
            assert self.process.poll() is None, f"worker ended: {self.output.read_text()}"
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def kill(self) -> list[list[str]]:
        """Kill it, and return the lines that it had printed whole."""
        assert self.process.poll() is None, "the worker died by itself"
        self.process.kill()
        self.process.wait()
        text = self.output.read_text()
        return [line.split() for line in text[: text.rfind("\n") + 1].splitlines()]


def check_main(store: Store, acknowledged: int) -> int:
    """The invariants of what `workers.write_forever` writes; returns the last transaction."""
    view = store.tree("main").view(0)
    last = int(view.get(b"last") or b"0")
    assert last >= acknowledged, "an acknowledged transaction is lost"
    if last:
        fill = b"%d " % last * (200 if last % 2 else 3)
        assert list(view.scan(b"part", b"paru")) == sorted((b"part%d" % i, fill + b"%d" % i) for i in range(20))
        assert list(view.keys(b"recent", b"recenu")) == [b"recent%09d" % last]
        assert view.get(b"log%09d" % last) == fill
    assert [int(key[3:]) for key in view.keys(b"log", b"loh")] == list(range(1, last + 1))
    return last


def check_store(store: Store) -> None:
    report = store.fsck(deep=True)
    assert report.clean, report.errors


@pytest.mark.parametrize("kills", KILLS)
@pytest.mark.parametrize("writers", [1, 3])
def test_writers(local, tmp_path, kills, writers):
    rng = random.Random(7)
    local.create_tree("main")
    acknowledged = 0
    for i in range(kills):
        workers = [Worker("write_forever", local, f"{i}-{j}", tmp_path) for j in range(writers)]
        workers[0].wait_for_line()
        time.sleep(rng.random() * 0.2)
        for worker in workers:
            acknowledged = max([acknowledged, *(int(line[1]) for line in worker.kill())])
        last = check_main(local, acknowledged)
        check_store(local)
        local.gc(0)
        assert check_main(local, acknowledged) == last
        check_store(local)
        assert not local.fsck().leftovers


@pytest.mark.parametrize("kills", KILLS)
def test_seal(local, tmp_path, kills):
    rng = random.Random(8)
    main = local.create_tree("main")
    main.update(lambda tx: tx.put_many((b"k%04d" % i, b"v" * 300) for i in range(500)))
    base = dict(main.view().scan())
    edits = {b"edit%03d" % i: b"%d" % i * 300 for i in range(30)}
    for i in range(2 * kills):
        worker = Worker("seal_forever", local, i, tmp_path)
        worker.wait_for_line()
        time.sleep(rng.random() * 0.12)
        said = {(line[0], line[1]) for line in worker.kill()}
        check_store(local)
        if i % 2:
            local.gc(0)
        for name in local.trees():
            content = dict(local.tree(name).view(0).scan())
            if name == "main" or ("edited", name) not in said:
                assert content == base | {key: edits[key] for key in content.keys() - base.keys()}
            else:
                assert content == base | edits
                assert local.tree(name).sealed or ("sealed", name) not in said
                local.seal(name)  # takes up where it was killed
                assert dict(local.tree(name).view(0).scan()) == base | edits
            if name != "main":
                local.drop_tree(name)
    local.gc(0)
    assert dict(main.view().scan()) == base
    check_store(local)


@pytest.mark.parametrize("kills", KILLS)
def test_gc(local, tmp_path, kills):
    rng = random.Random(9)
    main = local.create_tree("main")
    content = {}
    for i in range(2 * kills):
        for _ in range(20):
            key, value = b"k%02d" % rng.randrange(50), rng.randbytes(400)
            main.update(lambda tx, key=key, value=value: tx.put(key, value))
            content[key] = value
        if i % 3 == 0:
            local.branch("main", f"b{i}")
            if i:
                local.drop_tree(f"b{i - 3}")
        worker = Worker("gc_forever", local, i, tmp_path)
        while not any(worker.output.stat().st_size for _ in "1") and rng.random() < 0.99:
            time.sleep(0.002)
        time.sleep(rng.random() * 0.05)
        worker.kill()
        check_store(local)
        assert {key: value for key, value in main.view(0).scan() if key != b"garbage"} == content


@pytest.mark.parametrize("kills", KILLS)
def test_gc_beside_writers(local, tmp_path, kills):
    """Nobody needs to stop for a collection; it may be killed with the writers."""
    rng = random.Random(10)
    local.create_tree("main")
    acknowledged = 0
    for i in range(kills):
        workers = [Worker("write_forever", local, f"{i}-{j}", tmp_path) for j in range(2)]
        collector = Worker("gc_beside_writers", local, i, tmp_path)
        collector.wait_for_line()
        time.sleep(rng.random() * 0.4)
        for worker in workers:
            acknowledged = max([acknowledged, *(int(line[1]) for line in worker.kill())])
        collector.kill()
        check_main(local, acknowledged)
        check_store(local)
