"""Bodies as NanoVDB files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from dvid_dask.cli.console import Selector, StoreArgument, find_version, open_store, say
from dvid_dask.cli.volumes import InstanceArgument, Scheduler, Workers, cluster
from dvid_dask.errors import BadRequest

__all__ = ["export_bodies", "fvdb", "list_of_ids"]

HowValues = Annotated[
    str,
    typer.Option(
        help="How the image's values are kept: apart (FILE-IMAGE.bin, in index order), channel (behind the index grid) "
        "or voxels (in the grid itself)."
    ),
]
OfSupervoxels = Annotated[bool, typer.Option("--supervoxels", help="The ids are supervoxels.")]
Scale = Annotated[int, typer.Option(help="0 is full resolution.", min=0, max=255)]
Compress = Annotated[bool, typer.Option("--compress", help="With NanoVDB's codec ZIP.")]
ImageOption = Annotated[
    str | None, typer.Option(help="Image whose values belong to the voxels.", metavar="INSTANCE", show_default=False)
]


def fvdb(
    store: StoreArgument,
    version: Selector,
    instance: InstanceArgument,
    label: Annotated[int, typer.Argument(metavar="LABEL", help="Body.", show_default=False, min=1)],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What to write, as body.nvdb.", show_default=False)],
    image: ImageOption = None,
    values: HowValues = "apart",
    supervoxels: OfSupervoxels = False,
    scale: Scale = 0,
    name: Annotated[str, typer.Option(help="Of the grid.  [default: label_LABEL]", show_default=False)] = "",
    compress: Compress = False,
    raw: Annotated[bool, typer.Option("--raw", help="Only the grid, without a file's header.")] = False,
) -> None:
    """Write a body as a NanoVDB file."""
    from dvid_dask.datatypes.imageblk import ImageBlk
    from dvid_dask.datatypes.labelmap import LabelMap

    at = find_version(open_store(store, read_only=True), version)
    seg, gray = at[instance], None if image is None else at[image]
    if not isinstance(seg, LabelMap):
        raise BadRequest(f"{instance!r} is a {seg.info.typename}, not a labelmap")
    if gray is not None and not isinstance(gray, ImageBlk):
        raise BadRequest(f"{image!r} is a {gray.info.typename}, not an image")
    if compress and raw:
        raise typer.BadParameter("--compress and --raw exclude each other: only a file says how it is compressed")
    how: Any = values if gray is not None else "channel"
    made = seg.nanovdb(label, supervoxels=supervoxels, scale=scale, name=name, image=gray, values=how)
    written = [file]
    if how == "apart" and made.values is not None:
        written.append(file.with_name(f"{file.stem}-{image}.bin"))
        written[1].write_bytes(made.values.astype(made.values.dtype.newbyteorder("<"), copy=False).tobytes())
    with open(file, "wb") as out:
        for piece in made.pieces(raw=raw, compress=compress):
            out.write(piece)
    say(f"wrote {made.leaves.voxels:,} voxels of {made.name} to {' and '.join(map(str, written))}")


def export_bodies(
    store: StoreArgument,
    version: Selector,
    instance: InstanceArgument,
    destination: Annotated[
        str,
        typer.Argument(metavar="DESTINATION", help="Path or URL of a folder that is new or empty.", show_default=False),
    ],
    bodies: Annotated[
        str | None,
        typer.Option(
            help="Ids: 5,7,9, or a text file with one a line.  [default: all bodies]", metavar="IDS", show_default=False
        ),
    ] = None,
    min_voxels: Annotated[int, typer.Option(help="Leave out bodies with fewer voxels.", min=0)] = 0,
    image: ImageOption = None,
    values: HowValues = "channel",
    supervoxels: OfSupervoxels = False,
    scale: Scale = 0,
    compress: Compress = False,
    workers: Workers = 0,
    scheduler: Scheduler = None,
) -> None:
    """Write bodies as NanoVDB files, one for each. A run that was killed goes on when started again."""
    from dvid_dask import ops

    at = find_version(open_store(store, read_only=True), version)
    how: Any = values
    with cluster(workers, scheduler):
        report = ops.export_bodies(
            at[instance],
            destination,
            None if bodies is None else list_of_ids(bodies, "--bodies"),
            min_voxels=min_voxels,
            supervoxels=supervoxels,
            scale=scale,
            image=None if image is None else at[image],
            values=how,
            compress=compress,
        )
    say(str(report))


def list_of_ids(text: str, option: str) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Ids as ``5,7,9``, or the lines of a file."""
    given = Path(text).read_text().split() if Path(text).is_file() else text.split(",")
    try:
        return np.array([int(part) for part in given], np.uint64)
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{option} {text[:80]!r} is no list of ids, nor a file with one a line") from None
