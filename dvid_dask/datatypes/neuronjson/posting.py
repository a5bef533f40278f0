"""What becomes of an annotation when somebody posts to it, and when two branches that changed it are merged.

Each field carries two stamps, ``<field>_user`` and ``<field>_time``: who set it to its value, and when. A post changes
the fields that it names, and only those whose value differs get new stamps. A field that is posted as null goes; its
stamps stay and tell who removed it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from dvid_dask.errors import BadRequest

from .record import check_name, is_stamp, to_json

__all__ = ["check_post", "field_of", "merge_annotations", "moment_of", "post", "time_text"]

json_value = msgspec.json.decode

_RESERVED = ("bodyid_user", "bodyid_time")
_UNSTAMPED = {"bodyid", "user"}


def time_text(moment: datetime) -> str:
    """A stamp's time: local time to the second, with its offset (RFC 3339).

    Examples
    --------
    >>> from datetime import UTC, timedelta, timezone
    >>> time_text(datetime(2026, 3, 1, 12, 0, 0, 999, tzinfo=UTC))
    '2026-03-01T12:00:00Z'
    >>> time_text(datetime(2026, 3, 1, 12, tzinfo=timezone(timedelta(hours=-5))))
    '2026-03-01T12:00:00-05:00'
    """
    text = moment.isoformat(timespec="seconds")
    return text[:-6] + "Z" if text.endswith("+00:00") else text


def field_of(name: str) -> str:
    """The field that a member is or is a stamp of."""
    return name[:-5] if is_stamp(name) else name


def check_post(body: int, posted: Mapping[str, Any]) -> None:
    """Refuse what can't be an annotation of a body.

    Raises
    ------
    BadRequest
        ``bodyid`` is missing or another one, or is given stamps; a time is no text; a name is too long.
    """
    given = posted.get("bodyid")
    if given is None:
        raise BadRequest(f"an annotation needs its body id: expected 'bodyid': {body}")
    if isinstance(given, bool) or not isinstance(given, int) or given != body:
        raise BadRequest(f"'bodyid' is {given!r:.40}, but the annotation is posted to body {body}")
    for name in _RESERVED:
        if name in posted:
            raise BadRequest(f"{name!r} can't be set: body ids have no stamps")
    for name, value in posted.items():
        check_name(name)
        if name.endswith("_time") and value is not None and not isinstance(value, str):
            raise BadRequest(f"{name!r} is {value!r:.40}: a time is a text, as '2026-03-01T12:00:00Z'")


def _same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, dict)):
        return to_json(a) == to_json(b)  # == takes True for 1
    return bool(a == b)


def post(
    old: Mapping[str, Any] | None,
    posted: Mapping[str, Any],
    *,
    user: str,
    time: str,
    replace: bool = False,
    conditional: Collection[str] = (),
) -> dict[str, Any]:
    """The annotation after a post.

    Parameters
    ----------
    old : mapping or None
        What there is, with stamps.
    posted : mapping
        What was posted, tidied; None removes a field.
    user, time : str
        For the stamps of what changes, where the post has none of its own.
    replace : bool
        Fields that aren't posted go.
    conditional : collection of str
        Fields that keep their value where they have one; without effect if all is replaced.

    Examples
    --------
    >>> old = {"bodyid": 1, "a": 1, "a_user": "ann", "a_time": "T0"}
    >>> post(old, {"bodyid": 1, "a": 1, "b": 2}, user="bob", time="T")
    {'bodyid': 1, 'a': 1, 'a_user': 'ann', 'a_time': 'T0', 'b': 2, 'b_user': 'bob', 'b_time': 'T'}
    >>> post({"bodyid": 1, "a": 1}, {"bodyid": 1, "a": None}, user="bob", time="T")
    {'bodyid': 1, 'a_user': 'bob', 'a_time': 'T'}
    """
    gone = {name for name, value in posted.items() if value is None}
    before = {name: value for name, value in (old or {}).items() if name not in gone}
    if old is None:
        changed = posted.keys() - gone
        changed |= {name[:-5] for name in changed if name.endswith("_user")}
    else:
        changed = {
            name
            for name, value in posted.items()
            if value is not None and (name not in before or is_stamp(name) or not _same(before[name], value))
        }
    out: dict[str, Any] = {} if replace else dict(before)
    kept = set() if replace else {name for name in conditional if name in before and name in posted}
    out.update({name: value for name, value in posted.items() if value is not None and name not in kept})
    for name in gone:
        if not is_stamp(name):
            for stamp, value in ((name + "_user", user), (name + "_time", time)):
                if stamp not in gone:
                    out[stamp] = posted.get(stamp, value)
    for name in changed - kept - gone - _UNSTAMPED:
        if not is_stamp(name):
            for stamp, value in ((name + "_user", user), (name + "_time", time)):
                given = posted.get(stamp)
                out[stamp] = value if given is None else given
    if replace and old is not None:
        for name in posted.keys() - gone - {"bodyid"}:
            if not is_stamp(name):
                for stamp, value in ((name + "_user", user), (name + "_time", time)):
                    if stamp not in out:
                        out[stamp] = before.get(stamp, value)
    return out


# ---------------------------------------------------------------------- branches


def merge_annotations(
    base: Mapping[str, Any] | None, ours: Mapping[str, Any], theirs: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Three-way merge, field by field; a field goes together with its stamps.

    A field that one side changed becomes as it is there, removed fields included. If both set it to the same value, the
    later stamps stay; who corrected stamps alone yields to who set another value.

    Returns
    -------
    dict
        The merged annotation. Of fields that both sides set to different values it has ours.
    list of str
        Names of those fields.

    Examples
    --------
    >>> merge_annotations({"a": 1, "b": 1}, {"a": 2, "b": 1}, {"a": 1})
    ({'a': 2}, [])
    >>> merge_annotations({"a": 1}, {"a": 2}, {"a": 3, "b": 4})
    ({'a': 2, 'b': 4}, ['a'])
    """
    old = base or {}
    out: dict[str, Any] = {}
    conflicts: list[str] = []
    for field in dict.fromkeys(field_of(name) for each in (old, ours, theirs) for name in each):
        before, mine, other = (_unit(each, field) for each in (old, ours, theirs))
        chosen = mine
        if mine == before:
            chosen = other
        elif other != before:
            if mine.get(field) == other.get(field):
                chosen = max(mine, other, key=lambda unit: _moment(unit.get(field + "_time")))
            elif mine.get(field) == before.get(field):
                chosen = other
            elif other.get(field) != before.get(field):
                conflicts.append(field)
        out.update({name: json_value(text) for name, text in chosen.items()})
    return out, conflicts


def _unit(annotation: Mapping[str, Any], field: str) -> dict[str, bytes]:
    names = (field, field + "_user", field + "_time")
    return {name: to_json(annotation[name]) for name in names if name in annotation}


def _moment(text: bytes | None) -> float:
    return moment_of(json_value(text)) if text else -math.inf


def moment_of(time: object) -> float:
    """Seconds since 1970 of a stamp's time; minus infinity if it is none.

    Examples
    --------
    >>> moment_of("1970-01-01T01:00:00Z"), moment_of("yesterday")
    (3600.0, -inf)
    """
    try:
        moment = datetime.fromisoformat(time) if isinstance(time, str) else None
        return -math.inf if moment is None else (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return -math.inf
