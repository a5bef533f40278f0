"""Lock files that killed writers leave behind in a local store.

tensorstore writes ``X`` by locking ``X.__lock``, writing to it and renaming it. Whoever holds the lock may remove the
file; whoever waits for it looks again, once it has it, whether the file is still the one of that name.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

SUFFIX = ".__lock"
_LINUX_SETLK = 37  # F_OFD_SETLK
# struct flock of 64-bit Linux: type, whence, start, length, pid
_WHOLE = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)


def lock_files(folder: Path) -> Iterator[Path]:
    """Iterate over the lock files below a store's folder."""
    for place, _, names in os.walk(folder):
        for name in names:
            if name.endswith(SUFFIX):
                yield Path(place, name)


def remove_stale(path: Path) -> bool:
    """Remove a lock file that nobody holds; tell whether it was removed."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        try:
            fcntl.fcntl(descriptor, getattr(fcntl, "F_OFD_SETLK", _LINUX_SETLK), _WHOLE)
        except OSError:
            return False  # held: its writer lives
        try:
            if not os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return False  # became a data file meanwhile, or another's lock
            os.unlink(path)
        except FileNotFoundError:
            return False
        return True
    finally:
        os.close(descriptor)
