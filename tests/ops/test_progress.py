"""What people see: bars on terminals, nothing in pipes, Dask's own in notebooks."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import numpy as np

SCRIPT = """
import dask, numpy as np, dvid_dask
from dvid_dask import ops
dask.config.set(scheduler="synchronous")
seg = dvid_dask.create("memory://").new_repo().new_instance("labelmap", "seg", {"BlockSize": "16,16,16"})
ops.ingest(np.ones((32, 32, 32), np.uint64), seg)
"""


def test_a_terminal_gets_plan_bar_and_rate():
    main, side = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen([sys.executable, "-c", SCRIPT], stderr=side, env=env) as process:
        os.close(side)
        seen = b""
        while True:
            try:
                part = os.read(main, 4096)
            except OSError:
                break
            if not part:
                break
            seen += part
        assert process.wait() == 0
    os.close(main)
    text = seen.decode()
    assert "ingest numpy array (32 x 32 x 32 uint64" in text
    assert "label index" in text
    assert "Mvoxel/s" in text


def test_a_pipe_gets_the_plan_only():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert "8 blocks of 16 x 16 x 16" in done.stderr
    assert "\x1b" not in done.stderr


def test_a_notebook_gets_dasks_progress(monkeypatch):
    import sys as system
    from types import SimpleNamespace

    import distributed

    from dvid_dask.ops.progress import Progress

    shell = SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(system.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    shown = []
    monkeypatch.setattr(distributed, "progress", shown.append)
    with Progress().phase("bricks", 10, 0) as bar:
        bar.show_futures([1, 2])
        bar.advance(np.int64(3))
    assert shown == [[1, 2]]
