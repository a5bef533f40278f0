"""A process that merges two versions of a segmentation over and over, to be killed."""

from __future__ import annotations

import os
import sys


def main(url: str, a: str, b: str) -> None:
    import dvid_dask
    from dvid_dask.datatypes.labelmap.merges import carrying

    carrying._BLOCKS, carrying._ROWS = 1, 2  # many commits, so that a kill comes between some
    ds = dvid_dask.open(url, compact="never")
    repo = ds[a].repo
    repo.merge([a, b])
    while True:
        os.write(1, b"merging\n")
        os.write(1, f"merged {repo.merge([a, b]).uuid}\n".encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
