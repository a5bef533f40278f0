"""Which ids are new: counters of the whole repository, reserved durably before the commit that uses the ids.

==================  =================================================================================
``label-UUID``      the id after the largest ever written or handed out
``nextlabel-UUID``  0, or the next id of a range an administrator chose (`NextLabels.start_from`)
``ceiling-UUID``    0, or the last id of that range
==================  =================================================================================

UUID is the instance's data UUID. Ids are never handed out twice, whatever crashes; some may be skipped. A process that
draws often reserves some ahead, so ids of several processes are interleaved; but each is larger than all labels of the
version it is drawn for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dvid_dask.errors import BadRequest

if TYPE_CHECKING:
    from dvid_dask.versions import Repo

__all__ = ["RESERVED", "NextLabels"]

RESERVED = 2**64 - 1
"""An id that is never handed out."""


class NextLabels:
    """The label counters of one instance in all versions of its repository."""

    def __init__(self, repo: Repo, data_uuid: str) -> None:
        self._labels = repo.numbers(f"label-{data_uuid}", start=1)
        self._chosen = repo.numbers(f"nextlabel-{data_uuid}", start=0)
        self._ceiling = repo.counter(f"ceiling-{data_uuid}", start=0)

    @property
    def largest(self) -> int:
        """The largest id written or handed out in any version, not counting a chosen range.

        Ids that another process has reserved count as handed out.
        """
        return self._labels.unused - 1

    @property
    def chosen(self) -> int:
        """The last id used up of a chosen range; 0 where none was chosen."""
        return max(0, self._chosen.unused - 1)

    @property
    def next(self) -> int:
        """The id that this process would hand out next."""
        return self._chosen.value or self._labels.value

    def allocate(self, n: int = 1, *, above: int = 0) -> tuple[int, int]:
        """Hand out `n` consecutive ids; first and last.

        Parameters
        ----------
        n
            How many.
        above
            The largest label of the version they are for: they are larger, unless they come from a chosen range.

        Raises
        ------
        BadRequest
            If `n` is not positive, or the ids would pass the ceiling or reach 2**64 - 1.
        """
        if n < 1:
            raise BadRequest(f"{n} ids were asked for; at least 1 is possible")
        at = self._chosen.value
        if not at:
            at = max(self._labels.value, above + 1)
            if at + n > RESERVED:
                raise BadRequest(f"{n} ids from {at} on would reach the reserved id {RESERVED}")
            first = self._labels.allocate(n, above=above, limit=RESERVED)
            return first, first + n - 1
        ceiling = self._ceiling.value
        if at + n > RESERVED:
            raise BadRequest(f"{n} ids from {at} on would reach the reserved id {RESERVED}")
        if ceiling and at + n > ceiling + 1:
            raise BadRequest(f"{n} ids from {at} on would pass the ceiling of {ceiling}")
        first = self._chosen.allocate(n, limit=min(RESERVED, ceiling + 1) if ceiling else RESERVED)
        return first, first + n - 1

    def raise_to(self, label: int) -> None:
        """No id up to `label` will be handed out from now on."""
        if label > 0:
            self._labels.raise_to(min(label + 1, RESERVED))

    def lower_to(self, label: int) -> None:
        """Make `label` the largest id, also if more were handed out: those may be handed out again. For repairs."""
        self._labels.set(min(label + 1, RESERVED))

    def start_from(self, label: int, ceiling: int | None = None) -> None:
        """Hand out ids after `label` from now on; nothing checks whether they are unused.

        Parameters
        ----------
        label
            1 to 2**64 - 2.
        ceiling
            Last id to hand out; 0 for none, None to keep what there is.

        Raises
        ------
        BadRequest
            If the label can't be used or lies above the ceiling.
        """
        if not 1 <= label < RESERVED:
            raise BadRequest(f"label {label} can't be the next label's predecessor: expected 1 to {RESERVED - 1}")
        limit = self._ceiling.value if ceiling is None else ceiling
        if limit and label > limit:
            raise BadRequest(f"label {label} is above the ceiling of {limit}")
        if ceiling is not None:
            self._ceiling.set(ceiling)
        self._chosen.set(label + 1)
