"""Objects of one folder put into another without passing through this machine where that can be.

On a local disk a file gets a second name (a hard link): it takes no space, and deleting either folder leaves the other
whole. Within one bucket service the service copies, where fsspec's package for it is installed (extra ``cloud``). All
else is read and written.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from dataclasses import dataclass
from typing import Any

from dvid_dask.ops.folders import plain_url

__all__ = ["PutObjects"]

_BUCKETS = ("gs", "s3")


@dataclass(frozen=True)
class PutObjects:
    """Puts objects of a folder under the same names into another: each appears whole, in place of an older one.

    What the first folder doesn't have is removed from the second. It may be repeated.

    Attributes
    ----------
    source, target
        URLs of `directory_url`.
    drafts
        URL of a folder on the same disk as the target, for what isn't complete.
    """

    source: str
    target: str
    drafts: str

    def __call__(self, names: list[str]) -> int:
        """Put these names; how many there were."""
        if self._local(self.source) and self._local(self.target):
            return sum(self._link(name) for name in names)
        system = self._service()
        if system is not None:
            return sum(self._copy(system, name) for name in names)
        return self._carry(names)

    @staticmethod
    def _local(url: str) -> bool:
        return url.startswith("file://")

    def _service(self) -> Any | None:
        """The file system of a bucket service that holds both folders; None where there is none."""
        scheme = self.source.partition("://")[0]
        if scheme not in _BUCKETS or not self.target.startswith(f"{scheme}://") or "?" in self.source + self.target:
            return None
        import fsspec

        try:
            return fsspec.filesystem(scheme)
        except ImportError:
            return None

    def _link(self, name: str) -> bool:
        source, target, drafts = (plain_url(u).removeprefix("file://") for u in (self.source, self.target, self.drafts))
        old, new = source + name, target + name
        if not os.path.exists(old):
            with contextlib.suppress(FileNotFoundError):
                os.remove(new)
            return False
        if os.path.exists(new) and os.path.samefile(old, new):
            return True
        os.makedirs(drafts, exist_ok=True)
        os.makedirs(os.path.dirname(new), exist_ok=True)
        draft = drafts + uuid.uuid4().hex
        try:
            os.link(old, draft)
        except OSError:  # another disk, or one without links
            shutil.copyfile(old, draft)
        os.replace(draft, new)
        return True

    def _copy(self, system: Any, name: str) -> bool:
        try:
            system.cp_file(self.source + name, self.target + name)
        except FileNotFoundError:
            with contextlib.suppress(FileNotFoundError):
                system.rm_file(self.target + name)
            return False
        return True

    def _carry(self, names: list[str]) -> int:
        import tensorstore as ts

        source, target = (ts.KvStore.open(url).result() for url in (self.source, self.target))
        found = 0
        for name in names:  # one after the other: a shard may have a hundred megabytes
            read = source.read(name).result()
            target.write(name, read.value if read.state == "value" else None).result()
            found += read.state == "value"
        return found
