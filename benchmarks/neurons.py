"""Annotations of neurons: loading, questions about all of them, at the newest version and at others, over HTTP too.

    python benchmarks/neurons.py [--neurons N] [--fields N] [--folder FOLDER]

The baseline is what DVID does at versions that it doesn't hold in memory: read every annotation from the store, decode
its JSON and look. A second one does so with annotations that are decoded already, as DVID holds them at the head of a
branch. All are timed in the same run on the same annotations; their answers are compared.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import resource
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _report import amount, clock, console, duration, files_and_bytes, machine, repeated, table
from http_api import Client, memory, served

import dvid_dask
from dvid_dask.datatypes.neuronjson import NeuronJSON, Selection
from dvid_dask.datatypes.neuronjson.library import _libraries
from dvid_dask.datatypes.neuronjson.record import is_stamp

BATCH = 5_000  # annotations posted in one commit

QUERIES: dict[str, Any] = {
    "equality": {"f00": "Traced"},
    "equality, rare": {"f02": "type_0077"},
    "list of 1,000 values": {"f02": [f"type_{i:04d}" for i in range(0, 3000, 3)]},
    "a number in lists": {"f03": 25_000},
    "regular expression": {"f02": "re/^type_1.*7$"},
    "regular expression, all distinct": {"f04": "re/9{4}"},
    "exists/0": {"f01": "exists/0"},
    "and of four": {"f00": ["Traced", "Anchor"], "f02": "re/5$", "f01": "exists/1", "f05": "Orphan"},
    "or of three": [{"f00": "Leaves", "f02": "type_0005"}, {"f02": "re/99$"}, {"f01": [1, 2, 3]}],
    "who set it": {"f00_user": "bob"},
}


def annotation(body: int, fields: int, rng: random.Random) -> dict[str, Any]:
    """Fields of five kinds: few values, numbers (a tenth has none), types, positions, texts that are all distinct."""
    out: dict[str, Any] = {"bodyid": body}
    for i in range(fields):
        kind, name = i % 5, f"f{i:02d}"
        if kind == 0:
            out[name] = rng.choice(["Traced", "Anchor", "Orphan", "Leaves"])
        elif kind == 1:
            if rng.random() < 0.9:
                out[name] = rng.randrange(10**6)
        elif kind == 2:
            out[name] = f"type_{rng.randrange(3000):04d}"
        elif kind == 3:
            out[name] = [rng.randrange(30_000) for _ in range(3)]
        else:
            out[name] = f"note {rng.randrange(10**9)}"
    return out


def fits(held: Any, wanted: Any) -> bool:
    """The naive test of one member, with compiled expressions."""
    items = held if isinstance(held, list) else [held]
    for want in wanted if isinstance(wanted, list) else [wanted]:
        if isinstance(want, re.Pattern):
            if any(isinstance(item, str) and want.search(item) for item in items):
                return True
        elif isinstance(want, str) and want.startswith("exists/"):
            return (held is not None) == (want[7] != "0")
        elif want in items:
            return True
    return False


def compiled(value: Any) -> Any:
    if isinstance(value, list):
        return [compiled(v) for v in value]
    return re.compile(value[3:]) if isinstance(value, str) and value.startswith("re/") else value


def scan(annotations: Any, query: Any) -> list[int]:
    """The naive answer."""
    objects = [{n: compiled(v) for n, v in q.items()} for q in (query if isinstance(query, list) else [query])]
    return [a["bodyid"] for a in annotations if any(all(fits(a.get(n), v) for n, v in q.items()) for q in objects)]


def decoded(neurons: NeuronJSON) -> Any:
    """Annotations read from the store and decoded, one after the other."""
    return (json.loads(text) for _, text in neurons.texts_between(1, 2**64 - 1, Selection("all")))


def load(neurons: NeuronJSON, count: int, fields: int) -> None:
    rng = random.Random(1)
    made = [annotation(body, fields, rng) for body in range(1, count + 1)]
    texts = [(a["bodyid"], json.dumps(a).encode()) for a in made]
    del made
    nbytes = sum(len(t) for _, t in texts)
    with clock() as c:
        for at in range(0, count, BATCH):
            neurons.put_many(texts[at : at + BATCH], user=rng.choice(["ann", "bob", "cyd"]))
    rate = f"{count / c.seconds:,.0f} annotations/s, {amount(nbytes / c.seconds)}/s of JSON"
    console.print(f"loaded {count:,} annotations in commits of {BATCH:,}: {rate}")


def questions(neurons: NeuronJSON, slow: int) -> None:
    _libraries.clear()
    with clock() as cold:
        neurons.query_bodies(QUERIES["equality"])
    with clock() as stamps:
        neurons.query_bodies(QUERIES["who set it"])
    console.print(
        f"first question of a process {duration(cold.seconds)}, first one about stamps {duration(stamps.seconds)}"
    )
    # without the stamps that nobody asks for: they would take two gigabytes
    held = [{n: v for n, v in a.items() if not is_stamp(n) or n == "f00_user"} for a in decoded(neurons)]
    rows = []
    for name, query in QUERIES.items():
        with clock() as first:
            found = neurons.query_bodies(query).tolist()
        ours, worst = repeated(lambda q=query: neurons.query_bodies(q), 20)
        with clock() as full:
            count = len(neurons.query(query, fields=["f00", "f02"]))
        in_memory, _ = repeated(lambda q=query: scan(held, q), 3)
        with clock() as from_store:
            expected = scan(decoded(neurons), query) if len(rows) < slow else found
        assert found == expected, name
        rows.append(
            [
                *(name, f"{count:,}", *map(duration, (first.seconds, ours, worst, full.seconds))),
                *(f"{in_memory / ours:,.0f} x", f"{from_store.seconds / ours:,.0f} x" if len(rows) < slow else ""),
            ]
        )
    heads = ["query", "found", "first time", "ids", "p95", "with 2 fields", "faster than dicts", "than the store"]
    table("Questions about all annotations", heads, rows)


def others(neurons: NeuronJSON, fields: int) -> None:
    """Versions beside the newest one."""
    rng = random.Random(2)
    version, rows = neurons.version, []
    with clock() as commit:
        version.commit("loaded")
    with clock() as c:
        neurons.query_bodies(QUERIES["regular expression"])
    rows.append(["the version once committed (sealed)", duration(c.seconds)])
    child = version.newversion()["neurons"]
    with clock() as c:
        child.query_bodies(QUERIES["regular expression"])
    rows.append(["a new child", duration(c.seconds)])
    bodies = rng.sample(range(1, len(child) + 1), 100)
    with clock() as edits:
        for body in bodies:
            child.update(body, {"f02": "type_new", "f00": "Traced"}, user="dee")
    with clock() as c:
        found = child.query_bodies({"f02": "type_new"}).tolist()
    assert found == sorted(bodies)
    rows.append(["the child after 100 edits", duration(c.seconds)])
    with clock() as c:
        assert neurons.query_bodies({"f02": "type_new"}).tolist() == []
    rows.append(["its parent again", duration(c.seconds)])
    child.update(bodies[0], {"f02": "type_newer"}, user="dee")
    rows.append(["after each single edit", duration(_after_an_edit(child, bodies))])
    _libraries.clear()
    with clock() as c:
        neurons.query_bodies({"f02": "type_new"})
    with clock() as d:
        child.query_bodies({"f02": "type_new"})
    rows += [["the parent in a new process", duration(c.seconds)], ["the child after it", duration(d.seconds)]]
    with clock() as c:
        changed = sum(1 for _ in child.changes(version))
    rows.append([f"what {changed} fields differ between both", duration(c.seconds)])
    rows.append(["an edit", duration(edits.seconds / 100)])
    rows.append(["commit of the version with all of it", duration(commit.seconds)])
    table("Versions", ["a question at", "seconds"], rows)


def _after_an_edit(neurons: NeuronJSON, bodies: list[int]) -> float:
    spent = 0.0
    for i, body in enumerate(bodies[:20]):
        neurons.update(body, {"f02": f"type_new{i}"}, user="dee")
        with clock() as c:
            neurons.query_bodies({"f02": f"type_new{i}"})
        spent += c.seconds
    return spent / 20


def wholes(neurons: NeuronJSON) -> None:
    def drain(show: str = "", fields: list[str] | None = None) -> tuple[int, int]:
        count = size = 0
        for text in neurons.all_texts(Selection(show, fields)):
            count, size = count + 1, size + len(text)
        return count, size

    rows = []
    for name, ask in {
        "all, 2 fields": lambda: drain(fields=["f00", "f02"]),
        "all, 10 fields": lambda: drain(fields=[f"f{i:02d}" for i in range(10)]),
        "all, 2 fields with stamps": lambda: drain("all", ["f00", "f02"]),
        "all": drain,
        "all with stamps": lambda: drain("all"),
    }.items():
        with clock() as first:
            count, size = ask()
        with clock() as again:
            ask()
        rows.append([name, f"{count:,}", amount(size), duration(first.seconds), duration(again.seconds)])
    for name, do in {"fields with counts": neurons.fields, "fieldtimes": neurons.field_times}.items():
        with clock() as first:
            do()
        with clock() as again:
            do()
        rows.append([name, "", "", duration(first.seconds), duration(again.seconds)])
    with clock() as first:
        frame = neurons.dataframe(["f00", "f01", "f02", "f03"])
    with clock() as again:
        neurons.dataframe(["f00", "f01", "f02", "f03"])
    rows.append(["dataframe of 4 fields", f"{len(frame):,}", "", duration(first.seconds), duration(again.seconds)])
    table("All annotations", ["what", "annotations", "JSON", "first time", "again"], rows)


def over_http(store: Path, root: str) -> None:
    with served(store, 0) as (address, process):
        path = f"/api/node/{root}/neurons"
        ask: Callable[..., bytes] = lambda what, body=b"": Client(address)("GET", f"{path}/{what}", body)  # noqa: E731
        before = memory(process, "VmRSS")
        with clock() as first:
            ask("query?onlyid=true", json.dumps(QUERIES["equality"]).encode())
        rows = [["first question", duration(first.seconds), ""]]
        for name, query in QUERIES.items():
            body = json.dumps(query).encode()
            ask("query?onlyid=true", body)
            median, worst = repeated(lambda b=body: ask("query?onlyid=true", b), 20)
            rows.append([f"{name}, ids", duration(median), duration(worst)])
        for what in ("key/77", "query?fields=f00,f02", "all?fields=f00,f02", "all"):
            body = json.dumps(QUERIES["regular expression"]).encode() if what.startswith("query") else b""
            ask(what, body)
            median, worst = repeated(lambda w=what, b=body: ask(w, b), 20 if what != "all" else 3)
            rows.append([what, duration(median), duration(worst)])
        table("Over HTTP, one connection each", ["request", "median", "p95"], rows)
        after, most = memory(process, "VmRSS"), memory(process, "VmHWM")
        console.print(f"memory of the server: {amount(before)} before, {amount(after)} after, {amount(most)} at most")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--neurons", type=int, default=100_000)
    parser.add_argument("--fields", type=int, default=50)
    parser.add_argument("--slow", type=int, default=2, help="queries that are put to the store as well")
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    machine()
    folder = Path(tempfile.mkdtemp(prefix="neurons-", dir=args.folder))
    try:
        datastore = dvid_dask.create(str(folder / "store"), compact="never")
        repo = datastore.new_repo()
        neurons = repo.new_instance("neuronjson", "neurons")
        load(neurons, args.neurons, args.fields)
        console.print(f"on disk: {amount(files_and_bytes(folder)[1])}")
        questions(neurons, args.slow)
        held = sum(library.nbytes for library in _libraries.values())
        console.print(f"annotations and columns in memory: about {amount(held)}")
        wholes(neurons)
        held = sum(library.nbytes for library in _libraries.values())
        console.print(f"annotations and columns in memory: about {amount(held)}")
        others(neurons, args.fields)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        console.print(f"most memory of this process, the baseline's dictionaries included: {amount(peak)}")
        root = repo.root
        datastore.close()
        over_http(folder / "store", root)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
