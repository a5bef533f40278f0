"""The synapses of the volume as a table of annotation elements."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from dvid_dask.demo.volume import Volume

__all__ = ["synapse_table"]

Point = tuple[int, int, int]


def synapse_table(volume: Volume) -> pd.DataFrame:
    """Both sides of all synapses, each with its relationships to the other: as `dvid_dask.ops.load_elements` takes it.

    A position that is part of several synapses is one element, with a relationship for each.
    """
    import pandas as pd

    rels: dict[tuple[Point, str], list[dict[str, int | str]]] = defaultdict(list)
    for row in volume.synapses:
        pre, post = _point(row["pre"]), _point(row["post"])
        rels[pre, "PreSyn"].append(_rel("PreSynTo", post))
        rels[post, "PostSyn"].append(_rel("PostSynTo", pre))
    sites = dict(rels.keys())
    return pd.DataFrame(
        {
            "x": [x for _, _, x in sites],
            "y": [y for _, y, _ in sites],
            "z": [z for z, _, _ in sites],
            "kind": list(sites.values()),
            "tags": [["demo"]] * len(sites),
            "rels": [rels[site] for site in sites.items()],
        }
    )


def _point(zyx: list[int]) -> Point:
    z, y, x = (int(v) for v in zyx)
    return z, y, x


def _rel(name: str, to: Point) -> dict[str, int | str]:
    z, y, x = to
    return {"rel": name, "x": x, "y": y, "z": z}
