"""The meaning of queries, posts and versions, said in the plainest way: a scan over dictionaries."""

from __future__ import annotations

import re

from hypothesis import strategies as st

FIELDS = ["type", "size", "tags", "note_user", "t_time", "flag"]


def elements(value):
    return [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, (str, int, float))]


def equal(a, b):
    return isinstance(a, bool) == isinstance(b, bool) and isinstance(a, str) == isinstance(b, str) and a == b


def fits(annotation, name, wanted):
    held = annotation.get(name)
    if isinstance(wanted, str) and len(wanted) == 8 and wanted.startswith("exists/"):
        return (held is not None) == (wanted[7] != "0")
    for item in wanted if isinstance(wanted, list) else [wanted]:
        for element in elements(held):
            if isinstance(item, str) and item.startswith("re/"):
                if isinstance(element, str) and re.search(item[3:], element):
                    return True
            elif isinstance(item, (str, int, float)) and equal(item, element):
                return True
    return False


def find(annotations, query):
    """Body ids, ascending; or in the order asked for if the query is for body ids alone."""
    objects = query if isinstance(query, list) else [query]
    bodies = []
    for each in objects:
        for name, value in each.items():
            wanted = value if isinstance(value, list) else [] if value is None else [value]
            if name != "bodyid" or any(isinstance(v, bool) or not isinstance(v, int) for v in wanted):
                bodies = None
            elif bodies is not None:
                bodies += wanted
    if bodies is not None:
        return [b for b in bodies if b in annotations]
    return [
        b for b in sorted(annotations) if any(all(fits(annotations[b], n, w) for n, w in q.items()) for q in objects)
    ]


def select(annotation, show="", fields=None):
    endings = {"user": ("_user",), "time": ("_time",), "all": ("_user", "_time")}.get(show, ())
    if fields is None:
        keep = {n for n in annotation if not n.endswith(("_user", "_time")) or (endings and n.endswith(endings))}
    else:
        keep = {"bodyid", *fields, *(f + e for f in fields for e in endings)}
    order = sorted(annotation, key=lambda n: (n.endswith(("_user", "_time")), n))
    return {n: annotation[n] for n in order if n in keep}


bodies = st.sampled_from([1, 2, 3, 9, 10, 2**53 + 1, 2**63, 2**64 - 1])
texts = st.sampled_from(["", "a", "KCg", "<KC&>", "re", "é\u2028", "exists/1"])
numbers = st.sampled_from([0, 1, -1, 7, 2**53, 2**53 + 1, 2**63, 2**64 - 1, -(2**63), 2.0, 2.5, 0.1])
scalars = st.one_of(texts, numbers, st.booleans())
values = st.one_of(
    scalars,
    st.lists(scalars, max_size=3),
    st.sampled_from([{}, {"a": [1]}, [[1], [2]], [None, 1]]),
)
asked = st.one_of(
    scalars,
    st.lists(st.one_of(scalars, st.sampled_from(["re/a", "re/^K"])), max_size=3),
    st.sampled_from(["exists/0", "exists/1", "re/", "re/^K", "re/[&>]", "re/C.$", "re/(?i)kcg", "re/^$", None, {}]),
)
demands = st.dictionaries(st.sampled_from(FIELDS), asked, max_size=2)
with_bodies = st.dictionaries(st.just("bodyid"), st.one_of(bodies, st.lists(bodies, max_size=3), asked), max_size=1)
objects = st.builds(lambda a, b: {**a, **b}, demands, with_bodies)
queries = st.one_of(objects, st.lists(objects, min_size=1, max_size=3))
