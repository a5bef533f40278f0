"""The tour of `make demo`: a volume goes in, is versioned, edited on a branch, compared and served."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

import dvid_dask
from dvid_dask import ops
from dvid_dask.demo.mistakes import Mistakes, border_of, make_mistakes
from dvid_dask.demo.synapses import synapse_table
from dvid_dask.demo.volume import Volume, make_volume
from dvid_dask.store import StoreError

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from dvid_dask.datatypes.labelmap import LabelMap
    from dvid_dask.datatypes.labelsz import LabelSize
    from dvid_dask.datatypes.neuronjson import NeuronJSON
    from dvid_dask.versions import Version

__all__ = ["TourError", "tour"]

ALIAS = "demo"
ABOUT = "A synthetic piece of neuropil, made by the demo"


class TourError(RuntimeError):
    """What the server answered is not what was written, or the tour can't start."""


class Edits(NamedTuple):
    """What the proofreader did."""

    master: Version
    branch: Version
    cleaved: int
    """The body that the cleave made."""


def tour(store: Path, picture: Path, shape: tuple[int, int, int], seed: int, workers: int, console: Console) -> None:
    """Run the tour; it leaves the store and the picture.

    Raises
    ------
    TourError
        Where `store` holds something else than an earlier tour, or an answer of the server is wrong.
    """
    began = time.perf_counter()
    _clear(store)
    say = _Narrator(console)

    say.chapter(f"Make a piece of neuropil, {' x '.join(map(str, shape))} voxels of EM")
    volume = make_volume(shape, seed)
    mistakes = make_mistakes(volume)
    say.line(
        f"{len(set(volume.body_of.values()))} neurites tile it, over-segmented into {len(volume.body_of)} supervoxels, "
        f"with {len(np.unique(volume.synapses['pre'], axis=0))} synapses."
    )
    say.line("Two mistakes are put in, as an automatic segmentation makes them: one neuron in two bodies, two in one.")

    say.chapter(f"Ingest it through a Dask cluster of {workers} processes")
    repo = dvid_dask.create(str(store)).new_repo(ALIAS, ABOUT)
    master = repo["master"]
    repo.new_instance("uint8blk", "grayscale")
    repo.new_instance("labelmap", "segmentation", {"MaxDownresLevel": "2"})
    repo.new_instance("annotation", "synapses").set_syncs(["segmentation"])
    repo.new_instance("labelsz", "synapse-counts").set_syncs(["synapses"])
    repo.new_instance("neuronjson", "neurons")
    with _cluster(workers) as client:
        for name, array in (("grayscale", volume.gray), ("segmentation", volume.supervoxels)):
            report = ops.ingest(array, master[name], client=client, progress=False, app="demo")
            say.line(
                f"{name}: {report}, all scales{' and the label index' if name == 'segmentation' else ''} included."
            )
        found = ops.load_elements(synapse_table(volume), master["synapses"], client=client, progress=False, app="demo")
        say.line(f"synapses: {found}.")

    say.chapter("Agglomerate: merge supervoxels into bodies, each merge one atomic commit")
    t = time.perf_counter()
    merges = _agglomerate(master, mistakes)
    each = 1e3 * (time.perf_counter() - t) / merges
    say.line(
        f"{merges} merges, {each:.0f} ms each, lists of synapses included; voxels, coarser scales and compressed "
        "blocks stay as they are."
    )
    _annotate(master)
    master.commit("as segmented", ["ingested and agglomerated by the demo"])
    say.line(f"Committed as version {master.uuid[:12]}: locked for ever.")

    say.chapter("Branch off and proofread there")
    edits = _proofread(master, mistakes, say)

    say.chapter("Read both versions")
    _compare(edits, mistakes, say)

    say.chapter("Serve the store and read the same over DVID's REST API")
    _check_over_http(store, edits, mistakes, volume, say)

    say.chapter("Draw the picture")
    _draw(edits, mistakes, volume, picture)
    say.line(f"{picture}")

    console.print()
    console.print(f"[bold]Done in {time.perf_counter() - began:.0f} s.[/bold] The store stays. Go on with:")
    shown = os.path.relpath(store)
    for command in (
        f"dvid-dask repo info {shown}",
        f"dvid-dask diff {shown} {ALIAS}:master {ALIAS}:proofread",
        f"dvid-dask serve {shown}",
    ):
        console.print(
            f"  .venv/bin/{command}" if Path(".venv/bin/dvid-dask").exists() else f"  {command}", highlight=False
        )


class _Narrator:
    """Numbered chapters in plain words, with the time each took."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.number = 0
        self.began = time.perf_counter()

    def chapter(self, title: str) -> None:
        now = time.perf_counter()
        self.number += 1
        passed = f"[dim]{now - self.began:5.0f} s[/dim]"
        self.console.print(
            f"\n{passed}  [bold cyan]{self.number}[/bold cyan] [bold]{title}[/bold]", highlight=False, soft_wrap=True
        )

    def line(self, text: str = "") -> None:
        self.console.print(f"           {text}", highlight=False, markup=False, soft_wrap=True)


def _clear(store: Path) -> None:
    """Remove an earlier tour's store, and nothing else."""
    if not store.exists() or (store.is_dir() and not any(store.iterdir())):
        return
    try:
        repos = list(dvid_dask.open(str(store), read_only=True).repos.values())
    except StoreError as error:
        raise TourError(f"{store} exists and is no store: choose another place with --store ({error})") from None
    if any(r.description != ABOUT for r in repos):
        raise TourError(f"{store} is a store that holds more than an earlier demo: choose another place with --store")
    shutil.rmtree(store)


@contextlib.contextmanager
def _cluster(workers: int) -> Iterator[Any]:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        yield client


def _labels(version: Version) -> LabelMap:
    """The segmentation at a version."""
    return cast("LabelMap", version["segmentation"])


def _annotate(version: Version) -> None:
    """What is known of each body, as people would note it."""
    counts = cast("LabelSize", version["synapse-counts"]).table()
    noted = {
        int(row.Index): {"status": "Anchor", "pre": int(row.PreSyn), "post": int(row.PostSyn)}
        for row in counts.itertuples()
    }
    cast("NeuronJSON", version["neurons"]).put_many(noted, user="agglomeration")


def _agglomerate(version: Version, mistakes: Mistakes) -> int:
    members: dict[int, list[int]] = defaultdict(list)
    for supervoxel, body in mistakes.body_of.items():
        if supervoxel != body:
            members[body].append(supervoxel)
    segmentation = _labels(version)
    for body, others in members.items():
        segmentation.merge(body, others, user="agglomeration", app="demo")
    return len(members)


def _proofread(master: Version, mistakes: Mistakes, say: _Narrator) -> Edits:
    t = time.perf_counter()
    branch = master.new_branch("proofread", "mend what the automatic segmentation got wrong")
    say.line(
        f"Branch 'proofread', version {branch.uuid[:12]}: {1e3 * (time.perf_counter() - t):.0f} ms, nothing copied."
    )
    segmentation = _labels(branch)
    target, stray = mistakes.split
    t = time.perf_counter()
    segmentation.merge(target, [stray], user="proofreader", app="demo")
    say.line(f"Body {stray} is the other half of {target}: merged, {1e3 * (time.perf_counter() - t):.0f} ms.")
    t = time.perf_counter()
    cleaved, _ = segmentation.cleave(mistakes.merger, mistakes.cleave, user="proofreader", app="demo")
    say.line(
        f"{len(mistakes.cleave)} supervoxels of body {mistakes.merger} belong to another neuron: cleaved off as "
        f"{cleaved}, {1e3 * (time.perf_counter() - t):.0f} ms."
    )
    neurons = cast("NeuronJSON", branch["neurons"])
    for body in (target, mistakes.merger, cleaved):
        neurons.update(body, {"status": "Traced"}, user="proofreader")
    return Edits(master, branch, cleaved)


def _edited(edits: Edits, mistakes: Mistakes) -> list[int]:
    return [*mistakes.split, mistakes.merger, edits.cleaved]


def _sizes(version: Version, bodies: list[int]) -> list[int]:
    """Voxels of bodies; 0 for one that doesn't exist at this version."""
    return [int(n) for n in _labels(version).sizes(bodies)]


def _synapses(version: Version, bodies: list[int]) -> list[int]:
    """Sites of synapses in bodies."""
    counts = cast("LabelSize", version["synapse-counts"])
    return [int(n) for n in counts.counts(bodies, "AllSyn")]


def _compare(edits: Edits, mistakes: Mistakes, say: _Narrator) -> None:
    from rich.padding import Padding
    from rich.table import Table

    bodies = _edited(edits, mistakes)
    table = Table("body", box=None, pad_edge=False, header_style="dim")
    for heading in ("voxels on master", "on proofread", "synapses on master", "on proofread"):
        table.add_column(heading, justify="right")
    both = (edits.master, edits.branch)
    columns = [_sizes(version, bodies) for version in both] + [_synapses(version, bodies) for version in both]
    for body, *figures in zip(bodies, *columns, strict=True):
        table.add_row(str(body), *(f"{n:,}" if n else "-" for n in figures))
    say.console.print(Padding(table, (0, 0, 0, 11)))

    before, after = (_slice(v, mistakes.z) for v in (edits.master, edits.branch))
    _show_slices(before, after, {body: number for number, body in enumerate(bodies)}, say)
    say.line(
        f"In slice z = {mistakes.z}, {np.count_nonzero(before != after):,} of {before.size:,} voxels changed body."
    )

    t = time.perf_counter()
    found = edits.master.diff(edits.branch)
    counts = {name: sum(1 for _ in found[name]) for name in found}
    took = 1e3 * (time.perf_counter() - t)
    changed = ", ".join(f"{n} keys of {name}" for name, n in counts.items() if n)
    say.line(f"The diff of the versions: {changed}; {took:.0f} ms, as only what differs is looked at.")


def _slice(version: Version, z: int) -> npt.NDArray[np.uint64]:
    return np.asarray(_labels(version)[z, :, :])


def _show_slices(
    before: npt.NDArray[np.uint64], after: npt.NDArray[np.uint64], edited: dict[int, int], say: _Narrator
) -> None:
    """Both slices in the terminal, two voxels a character, where it has colours."""
    if not say.console.is_terminal or say.console.color_system not in ("truecolor", "256"):
        return
    from rich.text import Text

    from dvid_dask.demo.picture import EDITED

    def colour(body: int) -> str:
        if body in edited:
            r, g, b = (int(255 * c) for c in EDITED[edited[body]])
        else:
            r = g = b = 38 + body * 37 % 40
        return f"rgb({r},{g},{b})"

    step = max(1, -(-max(before.shape) // 48))
    for row in range(0, len(before) - step, 2 * step):
        text = Text("           ")
        for plane in (before, after):
            for top, low in zip(plane[row, ::step].tolist(), plane[row + step, ::step].tolist(), strict=True):
                text.append("▀", f"{colour(top)} on {colour(low)}")
            text.append("   ")
        say.console.print(text)


# ------------------------------------------------------------------ over HTTP


def _check_over_http(store: Path, edits: Edits, mistakes: Mistakes, volume: Volume, say: _Narrator) -> None:
    with _served(store) as url:
        say.line(f"dvid-dask serve {os.path.relpath(store)}  ->  {url}")
        nz, ny, nx = volume.gray.shape
        whole = f"0_1_2/{nx}_{ny}_{nz}/0_0_0"
        node = f"{url}/api/node/{edits.master.uuid}"
        checks: list[tuple[str, bool]] = []

        gray = np.frombuffer(_get(f"{node}/grayscale/raw/{whole}"), np.uint8).reshape(volume.gray.shape)
        checks.append(("grayscale, all voxels", np.array_equal(gray, volume.gray)))
        for version in (edits.master, edits.branch):
            node = f"{url}/api/node/{version.uuid}"
            labels = np.frombuffer(_get(f"{node}/segmentation/raw/{whole}"), "<u8").reshape(volume.gray.shape)
            same = np.array_equal(labels, _labels(version).read((0, 0, 0), volume.gray.shape))
            checks.append((f"bodies at {version.branch}, all voxels", same))
            bodies = _edited(edits, mistakes)
            body = json.dumps(bodies).encode()
            sizes = json.loads(_get(f"{node}/segmentation/sizes", body))
            checks.append((f"sizes at {version.branch}", sizes == _sizes(version, bodies)))
            counted = [int(np.count_nonzero(labels == b)) for b in bodies]
            checks.append((f"label index at {version.branch}, against a count of the voxels", sizes == counted))
            checks.append(
                (
                    f"synapses of bodies at {version.branch}, against the voxels under them",
                    _same_lists(f"{node}/synapses", bodies, labels, synapse_table(volume)),
                )
            )
        info = json.loads(_get(f"{url}/api/repos/info"))
        checks.append(("versions of the repository", len(info[edits.master.repo.root]["DAG"]["Nodes"]) == 2))
        for what, right in checks:
            say.line(f"{'equal ' if right else 'WRONG '} {what}")
        if not all(right for _, right in checks):
            raise TourError("the server's answers differ from what was written")
    say.line("Stopped by SIGTERM; it ended cleanly.")


def _same_lists(url: str, bodies: list[int], labels: npt.NDArray[np.uint64], sites: pd.DataFrame) -> bool:
    """Whether the lists of bodies hold the sites whose voxels are theirs."""
    points = sites[["x", "y", "z"]].to_numpy()
    under = labels[points[:, 2], points[:, 1], points[:, 0]]
    return all(
        sorted(element["Pos"] for element in json.loads(_get(f"{url}/label/{body}")))
        == sorted(points[under == body].tolist())
        for body in bodies
    )


@contextlib.contextmanager
def _served(store: Path) -> Iterator[str]:
    """The command line's server as a process of its own; yields its URL."""
    command = [sys.executable, "-m", "dvid_dask.cli", "serve", str(store), "--port", "0"]
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL, text=True) as server,
    ):
        try:
            line = server.stdout.readline() if server.stdout else ""
            urls = [word for word in line.split() if word.startswith("http://")]
            if not urls:
                raise TourError("the server did not start")
            yield urls[0]
            server.send_signal(signal.SIGTERM)
            if server.wait(30) != 0:
                raise TourError(f"the server ended with status {server.returncode}")
        except (TourError, OSError) as error:
            server.kill()
            log.seek(0)
            raise TourError(f"{error}; the server's log:\n{log.read()}") from error
        finally:
            server.kill()


def _get(url: str, body: bytes | None = None) -> bytes:
    request = urllib.request.Request(url, data=body, method="GET")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return bytes(answer.read())


# ------------------------------------------------------------------ the picture


def _draw(edits: Edits, mistakes: Mistakes, volume: Volume, path: Path) -> None:
    from dvid_dask.demo.picture import Side, draw

    before, after = (_labels(v).read((0, 0, 0), volume.gray.shape) for v in (edits.master, edits.branch))
    first, second, merger, cleaved = _edited(edits, mistakes)
    seen = before[mistakes.z]
    torn = border_of(seen == first, seen == second)
    glued = border_of(after[mistakes.z] == merger, after[mistakes.z] == cleaved)
    sides = [
        Side(
            "master",
            "as the automatic segmentation left it",
            seen,
            before,
            {first: 0, second: 1, merger: 2},
            [("one neuron, two bodies", *torn), ("two neurons, one body", *glued)],
        ),
        Side(
            "branch proofread",
            "one merge and one cleave later",
            after[mistakes.z],
            after,
            {first: 0, merger: 2, cleaved: 3},
            [("merged", *torn), ("cleaved", *glued)],
        ),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(volume.gray[mistakes.z], sides, mistakes.z, path)
