"""Runs that somebody gave, checked and in the one form that edits take; runs that somebody asked for, as bytes."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

import numpy as np

from dvid_dask.errors import BadRequest
from dvid_dask.formats import rles

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import ArrayLike, NDArray

__all__ = ["MAX_RUNS", "counted_runs", "prepare_runs"]

MAX_RUNS = 1 << 26

_SPOOL = 32 << 20


def prepare_runs(runs: ArrayLike, *, distinct: bool = False, empty: bool = False) -> NDArray[np.int32]:
    """Runs as a split needs them: int32 (n, 4) x, y, z, length, sorted and without overlap.

    Parameters
    ----------
    runs
        In any order.
    distinct
        Refuse runs that overlap, rather than join them.
    empty
        Whether there may be none.

    Raises
    ------
    BadRequest
        If there is no voxel, too many runs, or a run that can't be.
    """
    given = np.asarray(runs)
    if given.ndim != 2 or given.shape[1] != 4 or given.dtype.kind not in "iu":
        raise BadRequest(f"runs are integers (n, 4): x, y, z, length; got {given.dtype} of shape {given.shape}")
    if empty and not len(given):
        return np.empty((0, 4), np.int32)
    if not len(given):
        raise BadRequest("a split needs at least one voxel, and these runs have none")
    if len(given) > MAX_RUNS:
        raise BadRequest(f"{len(given)} runs; a split takes at most {MAX_RUNS}")
    wide = given.astype(np.int64)
    if int(wide[:, 3].min()) < 1:
        raise BadRequest("a run has a length of 0 or less")
    ends = wide[:, :3].copy()
    ends[:, 0] += wide[:, 3] - 1
    if int(wide[:, :3].min()) < -(1 << 31) or max(int(ends.max()), int(wide[:, 3].max())) >= 1 << 31:
        raise BadRequest("a run leaves the range of signed 32-bit coordinates")
    normal = rles.normalize(wide.astype(np.int32))
    if distinct and int(normal[:, 3].sum(dtype=np.int64)) != int(wide[:, 3].sum()):
        raise BadRequest("runs overlap: each voxel may be named once")
    return normal


def counted_runs(parts: Iterable[NDArray[np.int32]], *, empty: bool = False) -> Iterator[bytes]:
    """Runs behind DVID's header that counts them. Many of them wait in a file.

    Parameters
    ----------
    parts
        int32 (n, 4) x, y, z, length each.
    empty
        Whether there is a header where there is no run; else nothing at all.

    Raises
    ------
    BadRequest
        If there are more runs than the header can say.
    """
    with tempfile.SpooledTemporaryFile(_SPOOL) as spool:
        count = 0
        for part in parts:
            count += len(part)
            spool.write(rles.encode_srles(part))
        if not count and not empty:
            return
        if count >= 1 << 32:
            raise BadRequest(f"the label has {count} runs, more than the header can say: ask for runs alone, or a part")
        yield rles.encode_rles(np.empty((0, 4), np.int32))[:8] + count.to_bytes(4, "little")
        spool.seek(0)
        while chunk := spool.read(1 << 20):
            yield chunk
