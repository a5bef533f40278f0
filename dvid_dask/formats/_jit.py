"""The one way compiled loops are declared here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit

__all__ = ["U", "kernel"]

F = TypeVar("F", bound=Callable[..., Any])

U = np.uintp
"""Index type of hot loops: a signed index costs a wrap-around test that keeps the compiler from vectorising."""


def kernel(function: F) -> F:
    """Compile on first call, release the GIL while running, keep the machine code on disk."""
    return cast(F, njit(nogil=True, cache=True)(function))
