"""A picture that stands for a missing tile: which one it is, and how large."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["placeholder"]

_GREY, _BLACK, _WHITE = 160, 0, 255


def placeholder(width: int, height: int, axes: str, lines: Sequence[str]) -> NDArray[np.uint8]:
    """White, with grey lines along its edges and through its middle, the axes' letters, and some text.

    Parameters
    ----------
    width, height
        Pixels.
    axes
        Letters of the axes of width and height.
    lines
        Of text.

    Returns
    -------
    NDArray[uint8]
        (y, x).

    Examples
    --------
    >>> picture = placeholder(64, 32, "xy", ["tile 0,0,7"])
    >>> picture.shape, int(picture[1, 40]), int(picture[0, 0])
    ((32, 64), 255, 160)
    """
    picture = Image.new("L", (width, height), _WHITE)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, width - 1, height - 1), outline=_GREY)
    draw.line((width // 2, 0, width // 2, height - 1), fill=_GREY)
    draw.line((0, height // 2, width - 1, height // 2), fill=_GREY)
    font = ImageFont.load_default(12)
    draw.text((width // 2 + 4, height // 2 - 16), axes[0], fill=_BLACK, font=font)
    draw.text((width // 2 + 4, height - 18), axes[1], fill=_BLACK, font=font)
    draw.multiline_text((6, 6), "\n".join(lines), fill=_BLACK, font=font)
    return np.asarray(picture, np.uint8)
