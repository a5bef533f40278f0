"""neuroglancer, from the Python package of that name where it is installed, opened on a version of a repository.

The package holds the viewer as built files; it is never imported, and nothing is fetched from another host. These files
are the viewer that Python's users drive, so the page finds beside itself what that one asks of its server:

==============================  =============================================================================
``/neuroglancer/v/view/``       the page; its state is the fragment of the address, as on any neuroglancer
``/neuroglancer/events/view``   what the server would change in the viewer: nothing, so it stays silent
``/neuroglancer/credentials/``  how to prove oneself to a DVID server: anonymously
==============================  =============================================================================
"""

from __future__ import annotations

import functools
import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import anyio
import msgspec
from starlette.responses import FileResponse, RedirectResponse, Response

from dvid_dask.api.responses import json

from .cards import Card, Volume

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from starlette.types import Receive, Scope, Send

    from dvid_dask.api.face import Request
    from dvid_dask.api.state import ServerState

__all__ = ["PREFIX", "bundle", "file_of", "service_of", "sources", "state_of", "viewer_link"]

#: Where the viewer lies on this server, its page, and the addresses that the page makes out of that.
PREFIX = "/neuroglancer/"
PAGE = PREFIX + "v/view/"
EVENTS = PREFIX + "events/view"
CREDENTIALS = PREFIX + "credentials/view"

#: Metres of the units that volumes are given in.
_METRES = {"nanometers": 1e-9, "nanometer": 1e-9, "nm": 1e-9, "microns": 1e-6, "micrometers": 1e-6, "um": 1e-6}


@functools.cache
def bundle() -> Path | None:
    """Folder of the viewer's files; None where the package isn't installed."""
    try:
        spec = importlib.util.find_spec("neuroglancer")
    except (ImportError, ValueError):
        return None
    for place in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(place) / "static" / "client"
        if (folder / "index.html").is_file():
            return folder
    return None


def layer_of(name: str, volume: Volume, source: str) -> dict[str, Any]:
    """A layer of the viewer's state."""
    return {"type": "segmentation" if volume.labels else "image", "source": source, "name": name}


def state_of(layers: Iterable[tuple[str, Volume, str]]) -> dict[str, Any]:
    """The viewer's state that shows volumes: all of the first one, from its middle.

    Parameters
    ----------
    layers : iterable of (str, Volume, str)
        Name, volume, and source URL of each, in the order of drawing.

    Returns
    -------
    dict
        As neuroglancer reads it after ``#!``.
    """
    given = list(layers)
    if not given:
        return {"layers": []}
    first = given[0][1]
    metre = _METRES.get(first.units.lower(), 1e-9)
    sizes = [size * metre for size in first.voxel_size]
    longest = max(n * size for n, size in zip(first.shape, sizes, strict=True))
    return {
        "dimensions": {axis: [size, "m"] for axis, size in zip("xyz", sizes, strict=True)},
        "position": [(a + b) / 2 for a, b in zip(first.start, first.stop, strict=True)],
        # canonical voxels per pixel: the smallest voxel side is one
        "crossSectionScale": max(longest / min(sizes) / 600, 0.05),
        "projectionScale": longest / min(sizes) * 1.5,
        "layers": [layer_of(*layer) for layer in given],
        "layout": "4panel",
        "showSlices": False,
        "selectedLayer": {"layer": given[-1][0]},
    }


def sources(cards: Iterable[Card], host: str, uuid: str) -> list[tuple[str, Volume, str]]:
    """The volumes that the viewer can show, with their sources, images first.

    Images as precomputed volumes: without loss, of any type, with all scales. Labelmaps through the viewer's DVID
    source, which finds their meshes; it takes the scales from the setting ``MaxDownresLevel`` and shows none without
    any, so that those are precomputed volumes as well.
    """
    shown = []
    for card in cards:
        if card.volume is None:
            continue
        source = f"precomputed://{host}/api/node/{uuid}/{card.name}/precomputed"
        if card.volume.labels and card.volume.scales:
            source = f"dvid://{host}/{uuid}/{card.name}"
        shown.append((card.name, card.volume, source))
    return sorted(shown, key=lambda layer: layer[1].labels)


def viewer_link(state: Mapping[str, Any]) -> str:
    """Address of the viewer in this state, on this server."""
    text = msgspec.json.encode(state).decode()
    return f"{PAGE}#!{quote(text, safe='/:,{}[]')}"


def file_of(folder: Path, name: str, cache: str) -> Response | None:
    """A file of a folder, by a name of one segment; None where there is none."""
    if not re.fullmatch(r"\w[\w.-]*", name) or not (folder / name).is_file():
        return None
    return FileResponse(folder / name, headers={"Cache-Control": cache, "X-Content-Type-Options": "nosniff"})


class _Silence(Response):
    """A stream of events in which none comes, open until the client leaves or the server closes."""

    def __init__(self, server: ServerState) -> None:
        super().__init__(b"", media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self.raw_headers = [h for h in self.raw_headers if h[0] != b"content-length"]
        self._server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": b":\n\n", "more_body": True})
        while self._server.available:
            with anyio.move_on_after(1.0):
                while (await receive())["type"] != "http.disconnect":
                    pass
                return
        await send({"type": "http.response.body", "body": b""})


def service_of(request: Request) -> Response | None:
    """What lies at a path below `PREFIX`; None where there is nothing."""
    path, method = request.path, request.method
    folder = bundle()
    if folder is None:
        return None
    if path == CREDENTIALS and method == "POST":
        asked = request.json(limit=1 << 16)
        if isinstance(asked, dict) and asked.get("key") == "DVID":
            return json({"generation": 0, "credentials": {"token": ""}})
        return Response("no such credentials here\n", 404, media_type="text/plain")
    if method not in ("GET", "HEAD"):
        return None
    if path == EVENTS:
        return _Silence(request.server)
    if path in (PREFIX, PREFIX.rstrip("/"), PAGE.rstrip("/")):
        return RedirectResponse(viewer_link({}), 307)
    if path == PAGE:
        return file_of(folder, "index.html", "no-cache")
    # the names of all other files change with what is in them
    return file_of(folder, path.removeprefix(PAGE), "max-age=31536000, immutable") if path.startswith(PAGE) else None
