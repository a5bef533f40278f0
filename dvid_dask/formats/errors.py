"""The one error of this package.

.. code-block:: text

    ValueError
    └── FormatError    bytes that are not what their format says: refuse the request (HTTP 400), store nothing

Misuse by the calling code (a wrong shape, dtype or an unknown option) raises a plain ``ValueError`` or ``TypeError``.
"""

from __future__ import annotations

__all__ = ["FormatError"]


class FormatError(ValueError):
    """The bytes don't follow the format, or claim sizes that can't be true.

    Decoders raise nothing else for bad bytes, whatever the bytes are, and raise it before they allocate
    more than the bytes can justify.

    Examples
    --------
    >>> from dvid_dask.formats import label_blocks
    >>> label_blocks.decode_block(b"nonsense")
    Traceback (most recent call last):
    ...
    dvid_dask.formats.errors.FormatError: label block: 8 bytes, but the smallest block has 24
    """
