"""``dvid-dask move-base``: where the volume is now that an instance stands on."""

from __future__ import annotations

from typing import Annotated

import typer

from dvid_dask.cli.console import Selector, StoreArgument, find_version, open_store, say
from dvid_dask.cli.volumes import InstanceArgument

__all__ = ["move_base"]


def move_base(
    store: StoreArgument,
    version: Selector,
    instance: InstanceArgument,
    source: Annotated[
        str | None,
        typer.Argument(metavar="SOURCE", help="Where the volume is now.  [default: where it was]", show_default=False),
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Data set of an HDF5 file.", show_default=False)] = None,
) -> None:
    """Say where an adopted volume is now, or that what lies at its place now is the same volume. For all versions."""
    from dvid_dask import ops

    base = ops.move_base(find_version(open_store(store), version)[instance], source, dataset=dataset)
    say(f"{instance!r} stands on {base.shown_url}")
