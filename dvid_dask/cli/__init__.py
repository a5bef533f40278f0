"""The command line ``dvid-dask``.

Each command does one thing and says so; a command that fails prints one line and exits with status 1.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its status."""
    from dvid_dask.cli.app import app
    from dvid_dask.cli.console import run

    sys.exit(run(app, sys.argv[1:] if arguments is None else arguments))
