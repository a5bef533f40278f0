"""The questions of `http_api.py` about images: boxes and slices of an 8-bit volume."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from _report import clock, duration


def gray_volume(quick: bool) -> Any:
    """uint8 (z, y, x): the demo's synthetic EM, repeated in mirror image to the size of a real test volume."""
    from dvid_dask.demo.volume import make_volume

    side = 128 if quick else 256
    gray = make_volume((side, side, side)).gray
    for axis in range(3):
        gray = np.concatenate([gray, np.flip(gray, axis)], axis)
    return np.ascontiguousarray(gray)


def images(b: Any, cpu: Callable[[Any], float], quick: bool) -> None:
    """POST raw, GET raw of boxes, and jpeg slices along two planes."""
    volume = gray_volume(quick)
    z, y, x = volume.shape
    voxels = volume.size / 1e6
    times, spent = [], []
    body = volume.tobytes()
    for i in range(b.rounds):
        settings = {"typename": "uint8blk", "dataname": f"gray{i}", "BlockSize": "64,64,64"}
        b.ask("POST", f"/api/repo/{b.root}/instance", json.dumps(settings).encode())
        before = cpu(b.process)
        with clock() as c:
            b.ask("POST", b.path(f"raw/0_1_2/{x}_{y}_{z}/0_0_0", f"gray{i}"), body)
        times.append(c.seconds)
        spent.append(cpu(b.process) - before)
    name = "POST raw of gray"
    rate = voxels / min(times)
    known = b.known(name)
    b.row(name, f"{rate:,.0f} Mvoxel/s", f"{known:,.0f} Mvoxel/s", f"{rate / known:.2f}", duration(min(spent)))
    whole = f"raw/0_1_2/{x}_{y}_{z}/0_0_0"
    b.rate("GET raw of gray", "Mvoxel/s", lambda: [("GET", b.path(whole, "gray0"), "")], voxels, 1)

    def boxes() -> list[tuple[str, str, str]]:
        found = []
        for _ in range(200):
            at = [b.rng.randrange(n - 64 + 1) for n in (x, y, z)]
            found.append(("GET", b.path(f"raw/0_1_2/64_64_64/{'_'.join(map(str, at))}/jpeg", "gray0"), ""))
        return found

    b.rate("GET raw 64^3 jpeg, anywhere", "requests/s", boxes, 1)
    side = min(512, x, y, z)

    def slices(plane: str) -> list[tuple[str, str, str]]:
        found = []
        for _ in range(200):
            at = [b.rng.randrange(n - 1) for n in (x, y, z)]
            for axis in map("xyz".index, plane):
                at[axis] = b.rng.randrange((x, y, z)[axis] - side + 1)
            found.append(("GET", b.path(f"raw/{plane}/{side}_{side}/{'_'.join(map(str, at))}/jpg", "gray0"), ""))
        return found

    for plane in ("xy", "xz"):
        b.rate(f"GET raw {plane} {side}x{side} jpeg", "slices/s", lambda plane=plane: slices(plane), 1)
