"""neuroglancer, from the Python package of that name where it is installed, opened on a version of a repository.

The package holds the viewer as built files; it is never imported, and nothing is fetched from another host. These files
are the viewer that Python's users drive, so the page finds beside itself what that one asks of its server; but it does
not listen to it, since nobody would change its state from here.

==============================  =============================================================================
``/neuroglancer/v/view/``       the page; its state is the fragment of the address, as on any neuroglancer
``/neuroglancer/credentials/``  how to prove oneself to a DVID server: anonymously
==============================  =============================================================================
"""

from __future__ import annotations

import functools
import importlib.util
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import msgspec
from starlette.responses import FileResponse, RedirectResponse, Response

from dvid_dask.api.responses import json

from .cards import Card, Volume

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dvid_dask.api.face import Request

__all__ = ["PREFIX", "bundle", "file_of", "service_of", "Shown", "sources", "state_of", "viewer_link"]

#: Where the viewer lies on this server, its page, and the addresses that the page makes out of that.
PREFIX = "/neuroglancer/"
PAGE = PREFIX + "v/view/"
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


#: How colour images are drawn.
COLOURS = """void main() {
  emitRGB(vec3(toNormalized(getDataValue(0)), toNormalized(getDataValue(1)), toNormalized(getDataValue(2))));
}
"""

#: How elements are drawn: by kind.
SHADER = """void main() {
  vec3 colour = vec3(0.7, 0.7, 0.7);
  if (prop_kind() == 1u) colour = vec3(0.3, 0.75, 1.0);
  if (prop_kind() == 2u) colour = vec3(1.0, 0.8, 0.2);
  setColor(colour);
  setPointMarkerSize(6.0);
}
"""


class Shown(NamedTuple):
    """A layer that the viewer can show.

    Attributes
    ----------
    name : str
    source : str
        URL as neuroglancer takes it.
    volume : Volume or None
        What it shows; None for annotations.
    follows : str
        For annotations the layer of the segmentation that they follow.
    """

    name: str
    source: str
    volume: Volume | None = None
    follows: str = ""


def layer_of(layer: Shown) -> dict[str, Any]:
    """A layer of the viewer's state."""
    made: dict[str, Any] = {"type": "annotation", "source": layer.source, "name": layer.name}
    if layer.volume is not None:
        made["type"] = "segmentation" if layer.volume.labels else "image"
        if layer.volume.channels > 2:
            made |= {"channelDimensions": {"c^": [1, ""]}, "shader": COLOURS}
        return made
    if layer.follows:
        # of chosen bodies; all elements while none is chosen
        made |= {"linkedSegmentationLayer": {"body": layer.follows}, "filterBySegmentation": ["body"]}
    return made | {"shader": SHADER}


def state_of(layers: Iterable[Shown]) -> dict[str, Any]:
    """The viewer's state that shows volumes and annotations: all of the largest volume, from its middle.

    Parameters
    ----------
    layers : iterable of Shown
        In the order of drawing.

    Returns
    -------
    dict
        As neuroglancer reads it after ``#!``.
    """
    given = list(layers)
    volumes = [layer.volume for layer in given if layer.volume is not None]
    if not volumes:
        return {"layers": [layer_of(layer) for layer in given]}
    first = max(volumes, key=lambda volume: math.prod(volume.shape))
    metre = _METRES.get(first.units.lower(), 1e-9)
    sizes = [size * metre for size in first.voxel_size]
    longest = max(n * size for n, size in zip(first.shape, sizes, strict=True))
    chosen = [layer.name for layer in given if layer.volume is not None][-1]
    return {
        "dimensions": {axis: [size, "m"] for axis, size in zip("xyz", sizes, strict=True)},
        "position": [(a + b) / 2 for a, b in zip(first.start, first.stop, strict=True)],
        # canonical voxels per pixel: the smallest voxel side is one
        "crossSectionScale": max(longest / min(sizes) / 600, 0.05),
        "projectionScale": longest / min(sizes) * 1.5,
        "layers": [layer_of(layer) for layer in given],
        "layout": "4panel",
        "showSlices": False,
        "selectedLayer": {"layer": chosen},
    }


def sources(cards: Iterable[Card], host: str, uuid: str) -> list[Shown]:
    """What the viewer can show, with its sources: images, then segmentations, then annotations.

    Images as precomputed volumes: without loss, of any type, with all scales. Labelmaps through the viewer's DVID
    source, which finds their meshes; it takes the scales from the setting ``MaxDownresLevel`` and shows none without
    any, so that those are precomputed volumes as well. Annotations as precomputed ones, linked to the segmentation that
    they follow.
    """
    held = list(cards)
    labels = {card.name for card in held if card.volume is not None and card.volume.labels}
    shown = []
    for card in held:
        source = f"precomputed://{host}/api/node/{uuid}/{card.name}/precomputed"
        if card.volume is not None:
            if card.volume.labels and card.volume.scales:
                source = f"dvid://{host}/{uuid}/{card.name}"
            shown.append(Shown(card.name, source, card.volume))
        elif card.typename == "annotation" and not card.trouble:
            shown.append(Shown(card.name, source, follows=next((s for s in card.syncs if s in labels), "")))
    return sorted(shown, key=lambda layer: 2 if layer.volume is None else int(layer.volume.labels))


def viewer_link(state: Mapping[str, Any]) -> str:
    """Address of the viewer in this state, on this server."""
    text = msgspec.json.encode(state).decode()
    return f"{PAGE}#!{quote(text, safe='/:,{}[]')}"


def file_of(folder: Path, name: str, cache: str) -> Response | None:
    """A file of a folder, by a name of one segment; None where there is none."""
    if not re.fullmatch(r"\w[\w.-]*", name) or not (folder / name).is_file():
        return None
    return FileResponse(folder / name, headers={"Cache-Control": cache, "X-Content-Type-Options": "nosniff"})


@functools.lru_cache(maxsize=2)
def _mended(file: Path) -> bytes | None:
    """The viewer's code without a fault of it; None for code that hasn't got it.

    On its way through a state the viewer writes the address anew, once a second has passed. An annotation layer that
    isn't restored by then has no relationships, which its ``toJSON`` asks the length of; that error takes away the
    layer which is being restored at this moment, mostly the image. Slow machines see it at each cold start.
    """
    code = file.read_bytes()
    found = re.search(rb'=1===(\w)\.length&&"segments"===\1\[0\]\?void 0:\1', code)
    if found is None:
        return None
    fixed = found[0].replace(b".length", b"?.length").replace(b"[0]", b"?.[0]")
    return code[: found.start()] + fixed + code[found.end() :]


#: Runs before the viewer does. It would listen to what Python's server changes in it, over a connection that it holds
#: for as long as the page is open and some time after; a browser has six for a server, so that the seventh viewer of
#: one would wait for its first voxel until another is closed.
_DEAF = b"""<script>
window.EventSource = class {
  constructor() { setTimeout(() => this.onopen?.()); }
  close() {}
};
</script>"""


@functools.lru_cache(maxsize=2)
def _page(file: Path) -> bytes:
    """The viewer's page, which listens to no server."""
    return file.read_bytes().replace(b"<head>", b"<head>" + _DEAF, 1)


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
    if path in (PREFIX, PREFIX.rstrip("/"), PAGE.rstrip("/")):
        return RedirectResponse(viewer_link({}), 307)
    if path == PAGE:
        headers = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
        return Response(_page(folder / "index.html"), 200, headers, "text/html")
    if not path.startswith(PAGE):
        return None
    name = path.removeprefix(PAGE)
    cache = "max-age=31536000, immutable"  # the names of files change with what is in them
    found = file_of(folder, name, cache)
    mended = _mended(folder / name) if found is not None and re.fullmatch(r"main\.\w+\.js", name) else None
    if mended is None:
        return found
    return Response(mended, 200, {"Cache-Control": cache, "X-Content-Type-Options": "nosniff"}, "text/javascript")
