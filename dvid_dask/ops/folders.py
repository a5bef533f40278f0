"""The ledger of a job that writes into a folder: a small store beside what it writes, gone when the job ends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import unquote

from dvid_dask.errors import Conflict
from dvid_dask.ops.job import ScratchLedger
from dvid_dask.store import Store, StoreNotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["end_job", "ledger_at", "plain_url", "write_whole"]


def plain_url(url: str) -> str:
    """A URL of `directory_url` as fsspec and stores take it: in names of local files ``%`` means itself.

    Examples
    --------
    >>> plain_url("file:///data/fly%20brain/"), plain_url("gs://bucket/a%20b/")
    ('file:///data/fly brain/', 'gs://bucket/a%20b/')
    """
    return f"file://{unquote(url.removeprefix('file://'))}" if url.startswith("file://") else url


def ledger_at(
    url: str, name: str, begin: Callable[[], None], *, replace: bool, about: Mapping[str, Any] | None = None
) -> ScratchLedger:
    """The ledger of a job, begun now or by an earlier run of it.

    Parameters
    ----------
    url
        Of its store, from `directory_url`, with a slash at the end.
    name
        From `job_name`.
    begin
        Called before a job begins that no earlier run had begun; may refuse.
    replace
        What to do where another job was left unfinished: forget it, or raise.
    about
        What is noted when the job begins; ``ledger.begin({})`` tells it.

    Raises
    ------
    Conflict
        If another job was left unfinished there.
    """
    place = plain_url(url)
    try:
        store = Store.open(place)
    except StoreNotFound:
        begin()
        store = Store.create(place)
    else:
        others = [t for t in store.trees() if t.startswith("scratch-") and t != f"scratch-{name}"]
        if others and not replace:
            raise Conflict(
                f"{url} is of an unfinished export of something else: give another destination, or remove what is there"
            )
        if others:
            begin()
            for tree in others:
                store.drop_tree(tree)
    ledger = ScratchLedger(store, name)
    ledger.begin(dict(about or {"op": "export"}))
    return ledger


def end_job(ledger: ScratchLedger, url: str) -> None:
    """Remove the ledger, and all below a URL: its store, or a folder around it."""
    import tensorstore as ts

    ledger.drop()  # handles of this process must not remember it: the next job may begin at the same URL
    ts.KvStore.open(url).result().delete_range(ts.KvStore.KeyRange()).result()
    if url.startswith("file://"):
        import shutil

        shutil.rmtree(plain_url(url).removeprefix("file://"), ignore_errors=True)


@contextlib.contextmanager
def write_whole(url: str, drafts: str) -> Iterator[IO[bytes]]:
    """A file to write that appears, in place of an older one, when it is complete; on disks and in buckets.

    Parameters
    ----------
    url
        Of the file, as `plain_url` makes it.
    drafts
        As well, of a folder on the same disk, for what a killed process leaves: below that of the ledger it goes with
        the job.
    """
    import fsspec

    fs, path = fsspec.core.url_to_fs(url)
    if not _is_local(fs):  # an upload is seen when it ends
        with fs.open(path, "wb") as file:
            yield file
        return
    import os
    import uuid

    folder = fsspec.core.url_to_fs(drafts)[1]
    os.makedirs(folder, exist_ok=True)
    draft = os.path.join(folder, uuid.uuid4().hex)
    try:
        with open(draft, "wb") as file:
            yield file
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(draft)
        raise


def _is_local(fs: Any) -> bool:
    protocols = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
    return "file" in protocols
