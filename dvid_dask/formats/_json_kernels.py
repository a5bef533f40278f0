"""A walk over the bytes of a JSON list or object, to where its items end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ._jit import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BAD", "walk"]

BAD = -1


@kernel
def walk(data: NDArray[np.uint8], every: int, ends: NDArray[np.int64]) -> tuple[int, int, int]:
    """Find the commas between items of the list or object that `data` is, and note each `every`-th.

    Parameters
    ----------
    data
        Begins with a bracket or brace.
    every
        Items between two commas that are noted.
    ends
        Gets their places; has room for ``len(data) // (2 * every) + 1``.

    Returns
    -------
    items, noted, end
        Number of items, or `BAD` where no bracket closes the first one; commas noted; the place of the closing one.
    """
    depth, commas, noted = 0, 0, 0
    text, escaped, filled = False, False, False
    for i in range(len(data)):
        c = data[i]
        if text:
            if escaped:
                escaped = False
            elif c == 0x5C:  # backslash
                escaped = True
            elif c == 0x22:  # quote
                text = False
        elif c == 0x22:
            text = True
            filled = True
        elif c == 0x5B or c == 0x7B:  # [ {
            filled = filled or depth > 0
            depth += 1
        elif c == 0x5D or c == 0x7D:  # ] }
            depth -= 1
            if depth == 0:
                return (commas + 1 if filled or commas else 0), noted, i
        elif c == 0x2C and depth == 1:  # ,
            commas += 1
            if commas % every == 0:
                ends[noted] = i
                noted += 1
        elif c > 0x20:
            filled = True
    return BAD, noted, len(data)
