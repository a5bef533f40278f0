"""The drawing of a version DAG: newest version on top, a lane for each line of descent, as in a log of git."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

__all__ = ["Drawing", "Edge", "draw"]

#: Pixels from row to row, from lane to lane, and of the free border.
ROW, LANE, BORDER = 44, 18, 16


class Edge(NamedTuple):
    """A line from a version to a parent: an SVG path, and the lane whose colour it has."""

    path: str
    lane: int


class Drawing(NamedTuple):
    """Where things are.

    Attributes
    ----------
    lanes, rows : dict
        Lane and row of each version, by id, newest first.
    edges : list of Edge
    width, height : int
        Pixels.
    """

    lanes: dict[int, int]
    rows: dict[int, int]
    edges: list[Edge]
    width: int
    height: int

    def place(self, vid: int) -> tuple[int, int]:
        """Centre of a version's dot."""
        return _x(self.lanes[vid]), _y(self.rows[vid])


def _x(lane: int) -> int:
    return BORDER + LANE * lane


def _y(row: int) -> int:
    return ROW * row + ROW // 2


def draw(parents: Mapping[int, Sequence[int]]) -> Drawing:
    """Lay out versions, given the parents of each; a version's id is larger than those of its parents.

    Parents that aren't among the versions are left out, with lines that run to the lower border.

    Examples
    --------
    A branch that is merged back:

    >>> drawing = draw({1: [], 2: [1], 3: [1], 4: [2, 3]})
    >>> drawing.lanes
    {4: 0, 3: 1, 2: 0, 1: 0}
    >>> len(drawing.edges)
    4
    """
    order = sorted(parents, reverse=True)
    rows = {vid: row for row, vid in enumerate(order)}
    waiting: list[int | None] = []  # what each lane leads to
    lanes: dict[int, int] = {}
    begun: list[tuple[int, int, int]] = []  # child, parent, lane of the line between

    def free() -> int:
        for lane, held in enumerate(waiting):
            if held is None:
                return lane
        waiting.append(None)
        return len(waiting) - 1

    widest = 0
    for vid in order:
        leading = [lane for lane, held in enumerate(waiting) if held == vid]
        lane = leading[0] if leading else free()
        for other in leading:
            waiting[other] = None
        lanes[vid] = lane
        for n, parent in enumerate(parents[vid]):
            if n == 0:
                line = lane
            else:
                # a line that leads there already is joined, unless it is another's of this very version
                line = next((k for k, held in enumerate(waiting) if held == parent and k != lane), -1)
                line = line if line >= 0 else free()
            waiting[line] = parent
            begun.append((vid, parent, line))
        widest = max(widest, len(waiting))
        while waiting and waiting[-1] is None:
            waiting.pop()

    height = ROW * len(order)
    edges = [
        Edge(_path(_x(lanes[child]), _y(rows[child]), _x(line), *_end(lanes, rows, parent, line, height)), line)
        for child, parent, line in begun
    ]
    return Drawing(lanes, rows, edges, 2 * BORDER + LANE * max(widest - 1, 0), height)


def _end(lanes: Mapping[int, int], rows: Mapping[int, int], parent: int, line: int, height: int) -> tuple[int, int]:
    return (_x(lanes[parent]), _y(rows[parent])) if parent in rows else (_x(line), height)


def _path(x0: int, y0: int, between: int, x1: int, y1: int) -> str:
    """From a child to the lane of the line in one row, down it, and to the parent in the last row."""
    path, at = f"M{x0} {y0}", y0
    if between != x0:
        path += f"C{x0} {y0 + ROW // 2} {between} {y0 + ROW // 2} {between} {y0 + ROW}"
        at = y0 + ROW
    if x1 == between:
        return path + (f"V{y1}" if y1 > at else "")
    if y1 - ROW > at:
        path += f"V{y1 - ROW}"
        at = y1 - ROW
    return path + f"C{between} {(at + y1) // 2} {x1} {(at + y1) // 2} {x1} {y1}"
