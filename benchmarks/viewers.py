"""What viewers ask of a server: random chunks over 16 connections, beside the same bytes as plain files.

    python benchmarks/viewers.py [--quick] [--connections N] [--seconds S] [--processes N] [--folder FOLDER]

Starts `dvid-dask serve` on a committed version of a synthetic volume, bodies merged from supervoxels, and asks for
random chunks as neuroglancer does through each of the formats that it reads. The measure of what is possible is
Starlette serving the same answers as files from disk (`StaticFiles`), in the same run, on the same cores. A ratio below
1 is slower than that. The server's memory is what all of it together has reached by then.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _report import amount, console, duration, machine, table
from http_api import Client, cpu, memory, served

STATIC = """
import socket, sys
import uvicorn
from starlette.applications import Starlette
from starlette.staticfiles import StaticFiles
listening = socket.create_server(("127.0.0.1", 0), backlog=256)
print("http://127.0.0.1:%d" % listening.getsockname()[1], flush=True)
app = Starlette()
app.mount("/", StaticFiles(directory=sys.argv[1]))
uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False)).run([listening])
"""


@contextlib.contextmanager
def static(folder: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server of files: its address and process."""
    process = subprocess.Popen([sys.executable, "-c", STATIC, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().partition("http://")[2].strip(), process
    finally:
        process.terminate()
        process.wait(60)


def store(folder: Path, quick: bool) -> tuple[str, tuple[int, int, int]]:
    """A store with an image and merged labels at a committed version: its UUID, and the shape."""
    import dvid_dask
    from dvid_dask import ops
    from dvid_dask.demo import make_volume

    tile = make_volume((128, 256, 256))
    repeats = (1, 1, 1) if quick else (2, 2, 2)
    gray = np.tile(tile.gray, repeats)
    labels = np.tile(tile.supervoxels, repeats)
    with dvid_dask.create(str(folder)) as datastore:
        repo = datastore.new_repo("bench")
        ops.ingest(gray, repo.new_instance("uint8blk", "gray", {"BlockSize": "64,64,64"}), progress=False)
        seg = repo.new_instance("labelmap", "seg", {"MaxDownresLevel": "2"})
        ops.ingest(labels, seg, progress=False)
        bodies = [b for b in np.unique(tile.supervoxels).tolist() if b]
        for target, *others in zip(*(iter(bodies),) * 4, strict=False):
            seg.merge(target, others)
        repo["master"].commit()
        z, y, x = gray.shape
        return repo["master"].uuid, (z, y, x)


def questions(uuid: str, shape: tuple[int, int, int]) -> dict[str, list[str]]:
    """Paths of all chunks, by what is asked for."""
    node = f"/api/node/{uuid}"
    cells = list(np.ndindex(*(n // 64 for n in shape)))
    spans = ["_".join(f"{64 * c}-{64 * c + 64}" for c in (x, y, z)) for z, y, x in cells]
    corners = [f"{64 * x}_{64 * y}_{64 * z}" for z, y, x in cells]
    google = "?compression=googlegzip&scale=0"
    return {
        "gray, precomputed": [f"{node}/gray/precomputed/8_8_8/{s}" for s in spans],
        "gray, zarr": [f"{node}/gray/zarr/s0/c/{z}/{y}/{x}" for z, y, x in cells],
        "gray, DVID raw": [f"{node}/gray/raw/0_1_2/64_64_64/{c}" for c in corners],
        "gray, DVID jpeg": [f"{node}/gray/raw/0_1_2/64_64_64/{c}/jpg" for c in corners],
        "segmentation, precomputed": [f"{node}/seg/precomputed/8_8_8/{s}" for s in spans],
        "segmentation, zarr": [f"{node}/seg/zarr/s0/c/{z}/{y}/{x}" for z, y, x in cells],
        "segmentation, DVID raw": [f"{node}/seg/raw/0_1_2/64_64_64/{c}{google}" for c in corners],
    }


class Load:
    """Connections that ask for random chunks."""

    def __init__(self, connections: int, seconds: float) -> None:
        self.connections, self.seconds = connections, seconds
        self.rng = random.Random(3)

    def run(self, address: str, process: subprocess.Popen[str], paths: list[str]) -> dict[str, float]:
        """Requests a second, p50, p99, and seconds of the server's cores for each."""
        jobs = [[("GET", p, "") for p in self.rng.sample(paths, len(paths))] for _ in range(self.connections)]
        client = [sys.executable, str(Path(__file__).with_name("http_api.py")), "--client", address, str(self.seconds)]
        before = cpu(process)
        done = subprocess.run(client, input=json.dumps(jobs), capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        found: dict[str, Any] = json.loads(done.stdout)
        spans = sorted(found["spans"])
        return {
            "rate": len(spans) / found["elapsed"],
            "p50": spans[len(spans) // 2],
            "p99": spans[int(0.99 * (len(spans) - 1))],
            "cpu": (cpu(process) - before) / len(spans),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small volume and short rounds")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each question")
    parser.add_argument("--processes", type=int, default=0, help="processes that serve; default: one")
    parser.add_argument("--folder", help="where to put the store; default: the system's temporary folder")
    arguments = parser.parse_args()
    machine()
    folder = Path(tempfile.mkdtemp(prefix="viewers-benchmark-", dir=arguments.folder))
    rows = []
    try:
        uuid, shape = store(folder / "store", arguments.quick)
        load = Load(arguments.connections, 1.0 if arguments.quick else arguments.seconds)
        with (
            served(folder / "store", arguments.processes) as (address, process),
            static(folder) as (plain, plain_process),
        ):
            console.print(f"{amount(memory(process, 'VmRSS'))} of memory before the first request")
            for name, paths in questions(uuid, shape).items():
                size = 0
                ask = Client(address)
                for number, path in enumerate(paths):
                    answer = ask("GET", path)
                    size += len(answer)
                    (folder / "files").mkdir(exist_ok=True)
                    (folder / "files" / str(number)).write_bytes(answer)
                ours = load.run(address, process, paths)
                files = load.run(plain, plain_process, [f"/files/{n}" for n in range(len(paths))])
                each = size / len(paths)
                rows.append(
                    [
                        name,
                        f"{ours['rate']:,.0f}/s, {amount(each * ours['rate'])}/s",
                        f"{duration(ours['p50'])} / {duration(ours['p99'])}",
                        f"{files['rate']:,.0f}/s",
                        f"{duration(files['p50'])} / {duration(files['p99'])}",
                        f"{ours['rate'] / files['rate']:.2f} / {files['p99'] / ours['p99']:.2f}",
                        f"{duration(ours['cpu'])} / {duration(files['cpu'])}",
                        f"{amount(memory(process, 'VmRSS'))} / {amount(memory(process, 'VmHWM'))}",
                    ]
                )
        table(
            f"Chunks of 64^3 over {arguments.connections} connections, {os.cpu_count()} cores for server and clients",
            ["chunks", "here", "p50 / p99", "files", "p50 / p99", "ratio", "CPU each", "memory / peak"],
            rows,
            "Files: the same answers by Starlette's StaticFiles. Ratio: rate, and p99; 1 is as quick as files.",
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
