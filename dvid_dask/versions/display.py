"""Small HTML tables for notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

__all__ = ["table"]


def table(title: str, heads: Sequence[str], rows: Iterable[Sequence[object]], limit: int = 50) -> str:
    """An HTML table with a caption; rows past `limit` are counted, not shown.

    Examples
    --------
    >>> table("T", ("a",), [("<x>",)])
    '<table><caption>T</caption><tr><th>a</th></tr><tr><td>&lt;x&gt;</td></tr></table>'
    """
    shown, more = [], 0
    for n, row in enumerate(rows):
        if n < limit:
            shown.append("<tr>" + "".join(f"<td>{escape(str(c))}</td>" for c in row) + "</tr>")
        else:
            more += 1
    if more:
        shown.append(f'<tr><td colspan="{len(heads)}">and {more} more</td></tr>')
    head = "".join(f"<th>{escape(h)}</th>" for h in heads)
    return f"<table><caption>{escape(title)}</caption><tr>{head}</tr>{''.join(shown)}</table>"
