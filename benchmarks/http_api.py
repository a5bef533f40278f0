"""What a served labelmap and a served image answer over HTTP, beside what DVID answered on two cores.

    python benchmarks/http_api.py [--quick] [--volume FILE.npz] [--folder FOLDER] [--only NAME ...] [--processes N]

Starts `dvid-dask serve` in a process of its own and asks it from others, over sockets, clients and server sharing the
machine's cores. DVID's figures were taken on two cores with a real volume of 512^3 voxels; without `--volume` (an .npz
with uint64 labels as ``ids[index]``, or its first array) the demo's synthetic volume stands in. Each figure is the best
of several rounds, and a ratio above 1 is faster than DVID.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import selectors
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _images import images
from _report import amount, clock, console, duration, machine, table

# what DVID was measured at: rates, or seconds (p50 and p95 where there are two)
DVID: dict[str, tuple[float, ...]] = {
    "GET blocks after merges": (324,),
    "GET raw": (54,),
    "GET raw 64^3 googlegzip": (275,),
    "GET sparsevol": (52,),
    "GET sparsevol-coarse": (5_700,),
    "GET index": (8_600,),
    "POST merge": (0.010, 0.180),
    "POST cleave": (0.004, 0.065),
    "GET mapping of 1,000 ids": (0.033,),
    "GET labels": (110_000,),
    "POST raw of gray": (324,),
    "GET raw of gray": (590,),
    "GET raw xy 512x512 jpeg": (150,),
    "GET raw xz 512x512 jpeg": (280,),
}


# ---- a client --------------------------------------------------------------------------------------------------------


class Client:
    """One connection. Leaner than a library's: the client runs on the cores that it measures."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.host = address
        self.room = memoryview(bytearray(1 << 20))

    def __call__(self, method: str, path: str, body: bytes = b"") -> bytes:
        """The body of an answer; anything but 200 raises."""
        head = f"{method} {path} HTTP/1.1\r\nHost: {self.host}\r\nContent-Length: {len(body)}\r\n\r\n"
        if len(body) < 1 << 16:
            self.socket.sendall(head.encode() + body)
        else:
            self.socket.sendall(head.encode())
            self.socket.sendall(body)
        got = bytearray()
        while (end := got.find(b"\r\n\r\n")) < 0:
            self._more(got)
        lines = bytes(got[:end]).lower().split(b"\r\n")
        del got[: end + 4]
        headers = dict(line.split(b": ", 1) for line in lines[1:])
        if b"chunked" in headers.get(b"transfer-encoding", b""):
            data = self._chunks(got)
        else:
            data = self._exactly(got, int(headers.get(b"content-length", 0)))
        if b" 200 " not in lines[0] + b" ":
            raise RuntimeError(f"{method} {path[:200]}: {lines[0].decode()} {data[:300]!r}")
        return data

    def _more(self, got: bytearray) -> None:
        n = self.socket.recv_into(self.room)
        if not n:
            raise ConnectionError("the server closed the connection")
        got += self.room[:n]

    def _exactly(self, got: bytearray, length: int) -> bytes:
        while len(got) < length:
            self._more(got)
        return bytes(got)

    def _chunks(self, got: bytearray) -> bytes:
        parts: list[bytes] = []
        while True:
            while (end := got.find(b"\r\n")) < 0:
                self._more(got)
            size = int(got[:end], 16)
            del got[: end + 2]
            while len(got) < size + 2:
                self._more(got)
            if not size:
                return b"".join(parts)
            parts.append(bytes(got[:size]))
            del got[: size + 2]


class Talk:
    """One connection that asks again and again: how much of an answer has come is all that it keeps of it."""

    def __init__(self, address: str, job: list[Request]) -> None:
        self.socket = Client(address).socket
        self.requests = [
            f"{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
            for method, path, body in job
        ]
        self.next = 0
        self.begun = 0.0
        self.chunked = self.ended = False
        self.left = -1  # bytes to skip; -1: the head hasn't come
        self.rest = b""

    def ask(self) -> None:
        """Send the next request."""
        self.left, self.rest = -1, b""
        self.begun = time.perf_counter()
        self.socket.sendall(self.requests[self.next % len(self.requests)])
        self.next += 1

    def more(self, room: memoryview) -> bool:
        """Take what has come; whether the answer is complete."""
        n = self.socket.recv_into(room)
        if not n:
            raise ConnectionError("the server closed the connection")
        if self.left < 0:
            self.rest += room[:n]
            end = self.rest.find(b"\r\n\r\n")
            if end < 0:
                return False
            head, self.rest = self.rest[:end].lower() + b"\r\n", self.rest[end + 4 :]
            if not head.startswith(b"http/1.1 200 "):
                raise RuntimeError(f"{head.decode()} {self.rest[:300]!r}")
            at = head.find(b"content-length: ")
            self.chunked = at < 0
            if not self.chunked:
                self.left = int(head[at + 16 : head.index(b"\r", at)]) - len(self.rest)
                return self.left == 0
            data, self.rest = memoryview(self.rest), b""
            self.left, self.ended = 0, False
            return self._chunks(data)
        if self.chunked:
            return self._chunks(room[:n])
        self.left -= n
        return self.left == 0

    def _chunks(self, data: memoryview) -> bool:
        while True:
            skipped = min(self.left, len(data))
            self.left -= skipped
            data = data[skipped:]
            if self.left or self.ended or not data:
                return self.ended and not self.left
            line = self.rest + bytes(data[:32])
            end = line.find(b"\r\n")
            if end < 0:
                self.rest = line
                return False
            data = data[end + 2 - len(self.rest) :]
            size = int(line[:end], 16)
            self.rest = b""
            self.left, self.ended = size + 2, not size


def client(address: str, seconds: str) -> None:
    """A process that asks: gets connections, each a list of requests, and says how long each of those took.

    Each connection works its list off, from the start again until time is up; 0 seconds: once. One thread waits for
    all of them: a client that computes as much as the server would measure itself.
    """
    jobs = json.load(sys.stdin)
    limit = float(seconds)
    spans: list[float] = []
    room = memoryview(bytearray(1 << 20))
    talks = [Talk(address, job) for job in jobs]
    ready = selectors.DefaultSelector()
    for talk in talks:
        ready.register(talk.socket, selectors.EVENT_READ, talk)
    begin = time.perf_counter()
    for talk in talks:
        talk.ask()
    while ready.get_map():
        for key, _ in ready.select():
            talk = key.data
            if not talk.more(room):
                continue
            now = time.perf_counter()
            spans.append(now - talk.begun)
            if (limit and now - begin > limit) or (not limit and talk.next == len(talk.requests)):
                ready.unregister(talk.socket)
            else:
                talk.ask()
    elapsed = time.perf_counter() - begin
    print(json.dumps({"elapsed": elapsed, "spans": spans}))


Request = tuple[str, str, str]


# ---- the server ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def served(store: Path, processes: int) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A started server: its address and process."""
    command = [sys.executable, "-m", "dvid_dask.cli", "serve", str(store), "--port", "0"]
    if processes:
        command += ["--processes", str(processes)]
    with open(store.parent / "server.log", "w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield line.partition("http://")[2].split()[0], process
    finally:
        process.terminate()
        process.wait(60)


def memory(process: subprocess.Popen[str], what: str) -> int:
    """VmRSS or VmHWM of a process and its children."""
    total = 0
    pids = [process.pid]
    with contextlib.suppress(OSError):
        pids += map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
    for pid in pids:
        with contextlib.suppress(OSError):
            total += int(Path(f"/proc/{pid}/status").read_text().partition(what + ":")[2].split()[0]) * 1024
    return total


def cpu(process: subprocess.Popen[str]) -> float:
    """Seconds of all cores that a server's processes have used; what others do on this machine doesn't count."""
    ticks = 0
    pids = [process.pid]
    with contextlib.suppress(OSError):
        pids += map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


class Bench:
    """The served instance, its volume, and how to ask."""

    def __init__(self, address: str, process: subprocess.Popen[str], volume: Any, rounds: int, seconds: float) -> None:
        self.address, self.process, self.volume = address, process, volume
        self.rounds, self.seconds = rounds, seconds
        self.root = next(iter(json.loads(self.ask("GET", "/api/repos/info"))))
        self.rng = random.Random(5)
        self.rows: list[list[str]] = []
        self.new("seg")

    def ask(self, method: str, path: str, body: bytes = b"") -> bytes:
        """Ask on a new connection: the server closes idle ones."""
        return Client(self.address)(method, path, body)

    def new(self, name: str) -> None:
        settings = json.dumps({"typename": "labelmap", "dataname": name, "MaxDownresLevel": "3"}).encode()
        self.ask("POST", f"/api/repo/{self.root}/instance", settings)

    def path(self, rest: str, name: str = "seg") -> str:
        return f"/api/node/{self.root}/{name}/{rest}"

    def run(self, jobs: list[list[Request]], seconds: float | None = None) -> dict[str, Any]:
        """What a client process measured."""
        code = [sys.executable, __file__, "--client", self.address, str(self.seconds if seconds is None else seconds)]
        done = subprocess.run(code, input=json.dumps(jobs), capture_output=True, text=True, check=False)
        if done.returncode or not done.stdout:
            raise RuntimeError(done.stderr[-2000:])
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def rate(self, name: str, unit: str, make: Callable[[], list[Request]], each: float, connections: int = 4) -> None:
        """A rate: requests of several connections at a time, each worth so many units."""
        best, spent = 0.0, float("inf")
        for _ in range(self.rounds):
            before = cpu(self.process)
            found = self.run([make() for _ in range(connections)])
            spent = min(spent, (cpu(self.process) - before) / len(found["spans"]))
            best = max(best, each * len(found["spans"]) / found["elapsed"])
        known = DVID.get(name)
        shown = f"{best:,.0f} {unit}" if best >= 10 else f"{best:.2f} {unit}"
        ratio = "" if known is None else f"{best / known[0]:.2f}"
        self.row(name, shown, "" if known is None else f"{known[0]:,.0f} {unit}", ratio, duration(spent))

    def times(self, name: str, spans: list[list[float]]) -> None:
        """Latencies in rounds: the lowest median and the lowest 95th percentile."""
        p50 = min(statistics.median(s) for s in spans)
        p95 = min(sorted(s)[min(len(s) - 1, int(0.95 * len(s)))] for s in spans)
        known = DVID.get(name)
        if known is None:
            self.row(name, f"{duration(p50)} / {duration(p95)}", "", "")
        elif len(known) == 1:
            self.row(name, duration(p50), duration(known[0]), f"{known[0] / p50:.2f}")
        else:
            shown = f"{duration(known[0])} / {duration(known[1])}"
            ratio = f"{known[0] / p50:.2f} / {known[1] / p95:.2f}"
            self.row(name, f"{duration(p50)} / {duration(p95)}", shown, ratio)

    def known(self, name: str) -> float:
        """A rate of DVID's."""
        return DVID[name][0]

    def row(self, name: str, ours: str, dvid: str, ratio: str, spent: str = "") -> None:
        console.print(f"  {name}: {ours}" + (f", {spent} of the server's cores a request" if spent else ""))
        rss = memory(self.process, "VmRSS"), memory(self.process, "VmHWM")
        self.rows.append([name, ours, dvid, ratio, spent, f"{amount(rss[0])} / {amount(rss[1])}"])


# ---- questions -------------------------------------------------------------------------------------------------------


def write(b: Bench) -> None:
    """POST raw of the volume in slabs, and POST blocks of the same to another instance."""
    z, y, x = b.volume.shape
    voxels = z * y * x / 1e6
    thick = min(z, 128)
    times = []
    for i in range(b.rounds):
        name = "seg" if not i else f"raw{i}"
        if i:
            b.new(name)
        with clock() as c:
            for at in range(0, z, thick):
                slab = b.volume[at : at + thick]
                size = f"{x}_{y}_{slab.shape[0]}"
                b.ask("POST", b.path(f"raw/0_1_2/{size}/0_0_{at}", name), slab.tobytes())
        times.append(c.seconds)
    b.row("POST raw", f"{voxels / min(times):,.0f} Mvoxel/s", "", "")
    stream = b.ask("GET", b.path(f"blocks/{x}_{y}_{z}/0_0_0?compression=blocks&supervoxels=true"))
    times = []
    for i in range(b.rounds):
        b.new(f"blocks{i}")
        with clock() as c:
            b.ask("POST", b.path("blocks?downres=true", f"blocks{i}"), stream)
        times.append(c.seconds)
    b.row("POST blocks", f"{voxels / min(times):,.0f} Mvoxel/s", "", "")


class Labels:
    """What there is to ask for: the bodies, small ones merged in groups, and where voxels are."""

    def __init__(self, b: Bench) -> None:
        found, sizes = np.unique(b.volume, return_counts=True)
        keep = found != 0
        self.bodies, self.sizes = found[keep].tolist(), sizes[keep].tolist()


def merge_and_cleave(b: Bench, labels: Labels, quick: bool) -> None:
    """One edit after the other, as a proofreader makes them."""
    rng = b.rng
    bodies = labels.bodies[:]
    rng.shuffle(bodies)
    times = 30 if quick else 60
    merges, cleaves = [], []
    for _ in range(b.rounds):
        if len(bodies) < 2 * times + (20 if quick else 200):
            break
        pairs = [(bodies.pop(), bodies.pop()) for _ in range(times)]
        merges.append(b.run([[("POST", b.path("merge"), f"[{a},{c}]") for a, c in pairs]], 0)["spans"])
        cleaves.append(b.run([[("POST", b.path(f"cleave/{a}"), f"[{c}]") for a, c in pairs]], 0)["spans"])
        # what the reads after find merged
        b.run([[("POST", b.path("merge"), f"[{a},{c + 0}]") for a, c in renewed(b, pairs)]], 0)
    b.times("POST merge", merges)
    b.times("POST cleave", cleaves)


def renewed(b: Bench, pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Pairs of a body and the one that was cleaved off it, under its new id."""
    now = json.loads(b.ask("GET", b.path("mapping"), json.dumps([c for _, c in pairs]).encode()))
    return [(a, n) for (a, _), n in zip(pairs, now, strict=True)]


def boxes(b: Bench, side: int, count: int) -> list[str]:
    """Random block-aligned boxes: ``size/offset`` (x, y, z)."""
    found = []
    for _ in range(count):
        at = [64 * b.rng.randrange(max(1, (n - side) // 64 + 1)) for n in b.volume.shape[::-1]]
        found.append(f"{side}_{side}_{side}/{'_'.join(map(str, at))}")
    return found


def reads(b: Bench, labels: Labels) -> None:
    """Boxes and points."""
    x, y, z = b.volume.shape[::-1]
    voxels = x * y * z / 1e6
    whole = f"blocks/{x}_{y}_{z}/0_0_0"
    b.rate(
        "GET blocks after merges", "Mvoxel/s", lambda: [("GET", b.path(whole + "?compression=blocks"), "")], voxels, 1
    )
    b.rate("GET blocks lz4", "Mvoxel/s", lambda: [("GET", b.path(whole + "?compression=lz4"), "")], voxels, 1)
    half = min(256, x // 2)
    part = half**3 / 1e6

    def raw(option: str) -> Callable[[], list[Request]]:
        return lambda: [("GET", b.path(f"raw/0_1_2/{box}{option}"), "") for box in boxes(b, half, 20)]

    b.rate("GET raw", "Mvoxel/s", raw(""), part, 1)
    b.rate("GET raw lz4", "Mvoxel/s", raw("?compression=lz4"), part, 1)
    b.rate("GET raw gzip", "Mvoxel/s", raw("?compression=gzip"), part, 1)

    def google() -> list[Request]:
        return [("GET", b.path(f"raw/0_1_2/{box}?compression=googlegzip"), "") for box in boxes(b, 64, 200)]

    b.rate("GET raw 64^3 googlegzip", "requests/s", google, 1)

    def points() -> list[Request]:
        some = [[b.rng.randrange(x), b.rng.randrange(y), b.rng.randrange(z)] for _ in range(10_000)]
        return [("GET", b.path("labels"), json.dumps(some))]

    b.rate("GET labels", "points/s", points, 10_000, 2)


def body_reads(b: Bench, labels: Labels) -> None:
    """Bodies, the index, the mapping."""
    now = json.loads(b.ask("GET", b.path("mapping"), json.dumps(labels.bodies).encode()))
    bodies = sorted({n for n in now if n})

    def each(form: str) -> Callable[[], list[Request]]:
        return lambda: [("GET", b.path(form.format(body)), "") for body in b.rng.sample(bodies, min(1000, len(bodies)))]

    b.rate("GET sparsevol", "bodies/s", each("sparsevol/{}"), 1)
    b.rate("GET sparsevol-coarse", "bodies/s", each("sparsevol-coarse/{}"), 1)
    b.rate("GET index", "bodies/s", each("index/{}"), 1)
    b.rate("GET size", "bodies/s", each("size/{}"), 1)

    def mapping(count: int) -> list[Request]:
        return [("GET", b.path("mapping"), json.dumps([b.rng.choice(labels.bodies) for _ in range(count)]))]

    b.times(
        "GET mapping of 1,000 ids",
        [b.run([[r for _ in range(30) for r in mapping(1000)]], 0)["spans"] for _ in range(b.rounds)],
    )
    b.times("GET mapping of 1,000,000 ids", [b.run([mapping(10**6)], 0)["spans"] for _ in range(b.rounds)])
    many = [("GET", b.path("sizes"), json.dumps([b.rng.choice(bodies) for _ in range(10**6)]))]
    b.times("GET sizes of 1,000,000 ids", [b.run([many], 0)["spans"] for _ in range(b.rounds)])
    b.rate(
        "GET listlabels with sizes", "bodies/s", lambda: [("GET", b.path("listlabels?sizes=true"), "")], len(bodies), 1
    )


def load_volume(file: str, quick: bool) -> Any:
    """uint64 (z, y, x), whole blocks of 64."""
    if file:
        held = np.load(file)
        labels = held["ids"][held["index"]] if {"ids", "index"} <= set(held) else held[next(iter(held))]
        labels = labels[tuple(slice(0, n // 64 * 64) for n in labels.shape)]
    else:
        from dvid_dask.demo.volume import make_volume

        labels = make_volume((128, 128, 128) if quick else (256, 256, 256)).supervoxels
    if quick:
        labels = labels[:128, :128, :256]
    return np.ascontiguousarray(labels, np.uint64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small volume and short rounds")
    parser.add_argument("--volume", default="", help="an .npz with labels; default: the demo's synthetic volume")
    parser.add_argument("--folder", help="where to put the store; default: the system's temporary folder")
    parser.add_argument("--processes", type=int, default=0, help="processes that serve; default: one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each round")
    parser.add_argument("--only", nargs="*", choices=["edits", "boxes", "bodies", "images"], help="some questions")
    parser.add_argument("--client", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.client:
        client(*arguments.client)
        return
    import dvid_dask

    quick = arguments.quick
    machine()
    volume = load_volume(arguments.volume, quick)
    console.print(f"volume of {' x '.join(map(str, volume.shape))} voxels, {len(np.unique(volume)):,} labels")
    folder = Path(tempfile.mkdtemp(prefix="http-benchmark-", dir=arguments.folder))
    try:
        dvid_dask.create(str(folder / "store")).new_repo("bench")
        with served(folder / "store", arguments.processes) as (address, process):
            b = Bench(address, process, volume, 1 if quick else arguments.rounds, 1.0 if quick else arguments.seconds)
            labels = Labels(b)
            only = arguments.only or ["edits", "boxes", "bodies", "images"]
            if only != ["images"]:
                write(b)
                merge_and_cleave(b, labels, quick)
            if "boxes" in only:
                reads(b, labels)
            if "bodies" in only:
                body_reads(b, labels)
            if "images" in only:
                images(b, cpu, quick)
        table(
            f"Served by {max(1, arguments.processes)} process(es), {os.cpu_count()} cores for server and clients",
            ["request", "here", "DVID", "ratio", "server CPU", "memory / peak"],
            b.rows,
            "A ratio above 1 is faster than DVID. Latencies are p50, or p50 / p95. No figure of DVID: none was taken.",
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
