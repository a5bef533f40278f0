"""``python -m dvid_dask.cli`` is the same as ``dvid-dask``."""

from dvid_dask.cli import main

if __name__ == "__main__":
    main()
