"""Queries: what a member of an annotation must be like, all of them together, or one such list of demands or another.

===========================  ==================================================================================
a query asks for             and finds annotations whose member
===========================  ==================================================================================
a number, text or boolean    is equal to it, or is a list with such an element
a list of those              is equal to one of them, or is a list with such an element
``"re/REGEX"``, also in a    is a text, or a list with a text, in which the regular expression (RE2's syntax) is
list                         found somewhere; ``^`` and ``$`` bind it to the ends
``"exists/1"``               is there
``"exists/0"``               is not there
===========================  ==================================================================================

Members that are objects, or lists within lists, are only found by ``exists``. 2 and 2.0 are equal, 1 and true are not.
The demands of one object hold together; of several objects one must hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from dvid_dask.errors import BadRequest

from .record import MAX_BODY, check_name, tidy

__all__ = ["AnyOf", "Demand", "Exists", "Query", "elements", "find_regex", "parse_query"]

_REGEX: Final = "re/"
_EXISTS: Final = "exists/"
#: Longest regular expression, in characters.
MAX_REGEX: Final = 10_000
#: Most values, demands and regular expressions, over a whole query: each demand looks at all annotations.
MAX_VALUES: Final = 5_000_000
MAX_DEMANDS: Final = 10_000
MAX_REGEXES: Final = 1_000


@dataclass(frozen=True, slots=True)
class Exists:
    """The member is there, or it isn't."""

    there: bool


@dataclass(slots=True)
class AnyOf:
    """The member is, or holds, one of these."""

    numbers: set[int | float] = field(default_factory=set)
    texts: set[str] = field(default_factory=set)
    booleans: set[bool] = field(default_factory=set)
    regexes: list[str] = field(default_factory=list)

    def add(self, value: Any) -> None:
        """Take one more value; those that nothing is equal to are left out."""
        if isinstance(value, bool):
            self.booleans.add(value)
        elif isinstance(value, (int, float)):
            self.numbers.add(value)
        elif isinstance(value, str):
            if value.startswith(_REGEX):
                self.regexes.append(_checked(value[len(_REGEX) :]))
            else:
                self.texts.add(value)


Demand: TypeAlias = Exists | AnyOf


@dataclass(frozen=True, slots=True)
class Query:
    """One of the mappings in `any_of` must hold, each of them with all its demands."""

    any_of: list[dict[str, Demand]]
    #: The ids in their order, if the query asks for nothing but ``bodyid``.
    bodies: list[int] | None

    @property
    def fields(self) -> list[str]:
        """The members that are looked at."""
        return list(dict.fromkeys(name for demands in self.any_of for name in demands))


def parse_query(query: Any) -> Query:
    """A query from an object or a list of objects.

    Raises
    ------
    BadRequest
        It is neither, or a list of nothing; a regular expression isn't one; it asks for too much.

    Examples
    --------
    >>> parse_query({"type": ["PN", "re/^KC"], "group": 7}).any_of[0]["group"].numbers
    {7}
    >>> parse_query([{"bodyid": 5}, {"bodyid": [3, 4]}]).bodies
    [5, 3, 4]
    """
    objects = [query] if isinstance(query, Mapping) else query
    if not isinstance(objects, Sequence) or isinstance(objects, (str, bytes)) or not objects:
        raise BadRequest("a query is a JSON object, or a list of at least one")
    if not all(isinstance(each, Mapping) for each in objects):
        raise BadRequest("a query is a JSON object, or a list of objects alone")
    tidied = [tidy(each) for each in objects]
    if sum(len(v) if isinstance(v, list) else 1 for each in tidied for v in each.values()) > MAX_VALUES:
        raise BadRequest(f"a query may hold {MAX_VALUES} values at most")
    for each in tidied:
        for name in each:
            check_name(name)
    bodies = _bodies_alone(tidied)
    if bodies is not None:
        return Query([{"bodyid": AnyOf(numbers=set(bodies))}], bodies)
    if sum(map(len, tidied)) > MAX_DEMANDS or len(tidied) > MAX_DEMANDS:
        raise BadRequest(f"a query may make {MAX_DEMANDS} demands at most: ask for a list of values in one of them")
    any_of = [{name: _demand(value) for name, value in each.items()} for each in tidied]
    regexes = sum(len(d.regexes) for demands in any_of for d in demands.values() if isinstance(d, AnyOf))
    if regexes > MAX_REGEXES:
        raise BadRequest(f"a query may hold {MAX_REGEXES} regular expressions at most: join them with |")
    return Query(any_of, None)


def _bodies_alone(objects: Sequence[Mapping[str, Any]]) -> list[int] | None:
    bodies: list[int] = []
    for each in objects:
        for name, value in each.items():
            wanted = value if isinstance(value, list) else [] if value is None else [value]
            if name != "bodyid" or any(isinstance(item, bool) or not isinstance(item, int) for item in wanted):
                return None
            bodies += [item for item in wanted if 0 < item <= MAX_BODY]
    return bodies


def _demand(value: Any) -> Demand:
    if isinstance(value, str) and len(value) == len(_EXISTS) + 1 and value.startswith(_EXISTS):
        return Exists(value[-1] != "0")
    wanted = AnyOf()
    for item in value if isinstance(value, list) else [value]:
        wanted.add(item)
    return wanted


def _checked(regex: str) -> str:
    if len(regex) > MAX_REGEX:
        raise BadRequest(f"a regular expression of {len(regex)} characters: {MAX_REGEX} are possible")
    find_regex(pa.array([""], pa.large_string()), regex)
    return regex


def find_regex(texts: pa.Array, regex: str) -> pa.Array:
    """In which texts a regular expression is found. RE2: the time is linear in the text, whatever the expression.

    Raises
    ------
    BadRequest
        It isn't one.
    """
    try:
        return pc.match_substring_regex(texts, regex)
    except pa.ArrowInvalid as error:
        raise BadRequest(f"{regex[:200]!r} is no regular expression: {error}") from None


def elements(text: bytes) -> Iterator[Any]:
    """What of a member's JSON can be asked for: itself, or its elements.

    Examples
    --------
    >>> list(elements(b"5")), list(elements(b'["a", 2, [3], null]')), list(elements(b"{}"))
    ([5], ['a', 2], [])
    """
    value = msgspec.json.decode(text)
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, (str, int, float)):
            yield item
