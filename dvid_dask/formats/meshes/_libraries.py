"""The optional libraries that meshes need."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["LIBRARIES", "library"]

LIBRARIES = ("skimage.measure", "pyfqmr", "DracoPy", "trimesh")


def library(name: str) -> Any:
    """A module of an optional library.

    Raises
    ------
    ImportError
        It isn't installed; the message says what to type.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"meshes need {name.partition('.')[0]}: pip install 'dvid-dask[mesh]' ({error})") from error
