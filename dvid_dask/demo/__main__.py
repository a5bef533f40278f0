"""``python -m dvid_dask.demo``: the tour that ``make demo`` gives."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def main() -> int:
    """Parse the arguments and run the tour."""
    parser = argparse.ArgumentParser(prog="python -m dvid_dask.demo", description=__doc__)
    parser.add_argument(
        "--store", type=Path, default=Path("demo-output/store"), help="where the store goes (%(default)s)"
    )
    parser.add_argument("--picture", type=Path, default=Path("demo-output/demo.png"), help="the picture (%(default)s)")
    parser.add_argument("--size", type=int, default=256, help="edge of the volume in voxels (%(default)s)")
    parser.add_argument("--seed", type=int, default=7, help="of the random numbers (%(default)s)")
    parser.add_argument(
        "--workers", type=int, default=min(4, os.cpu_count() or 1), help="worker processes (%(default)s)"
    )
    arguments = parser.parse_args()
    if arguments.size < 64 or arguments.workers < 1:
        parser.error("--size is at least 64, --workers at least 1")

    from rich.console import Console

    from dvid_dask.demo.tour import TourError, tour

    try:
        shape = (arguments.size,) * 3
        tour(arguments.store, arguments.picture, shape, arguments.seed, arguments.workers, Console())
    except (TourError, ImportError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
