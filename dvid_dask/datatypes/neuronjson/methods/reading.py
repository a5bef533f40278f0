"""Annotations as they are at a version: one by one, those that a query finds, all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from dvid_dask.datatypes.base import Datatype, Space
from dvid_dask.datatypes.neuronjson.library import Bodies, Table, forget, tables
from dvid_dask.datatypes.neuronjson.posting import field_of, moment_of
from dvid_dask.datatypes.neuronjson.query import parse_query
from dvid_dask.datatypes.neuronjson.record import NEURON, Selection, body_of, check_body, key_of
from dvid_dask.errors import BadRequest, NotFound
from dvid_dask.formats.distinct import distinct

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["Reading"]


class Reading(Datatype, Mapping[int, dict[str, Any]]):
    """Reads of a neuronjson."""

    __hash__ = Datatype.__hash__
    __eq__ = Datatype.__eq__

    # ------------------------------------------------------------------ reads of single annotations

    def get(self, body: int, default: Any = None, *, show: str = "", fields: Iterable[str] | None = None) -> Any:
        """The annotation of a body.

        Parameters
        ----------
        body : int
        default : object
            What to return if it has none.
        show : {"", "user", "time", "all"}
            Which stamps to show.
        fields : iterable of str, optional
            Only these fields; ``bodyid`` is always there.

        Returns
        -------
        dict
        """
        selection = Selection(show, fields)
        value = self.view().get(key_of(check_body(body)))
        return default if value is None else selection.decode(value)

    def __getitem__(self, body: int) -> dict[str, Any]:
        """The annotation of a body, without stamps.

        Raises
        ------
        NotFound
            It has none.
        """
        found: dict[str, Any] | None = self.get(body)
        if found is None:
            raise NotFound(f"body {body} has no annotation in {self.name!r} at version {self.version.uuid}")
        return found

    def exists(self, body: int) -> bool:
        """Whether a body has an annotation."""
        return self.view().get(key_of(check_body(body))) is not None

    def __contains__(self, body: object) -> bool:
        try:
            return self.exists(check_body(body))
        except BadRequest:
            return False

    def __iter__(self) -> Iterator[int]:
        """The ids of all annotated bodies, ascending."""
        return (body_of(key) for key in self.view().keys(NEURON))

    def __len__(self) -> int:
        """Number of annotations; walks all of them."""
        return sum(1 for _ in self)

    def bodies(self, first: int = 1, last: int = 2**64 - 1) -> Bodies:
        """Ids of annotated bodies from `first` to `last`, both included, ascending: uint64 (n,)."""
        return np.fromiter((body_of(key) for key in self._keys(self.view(), first, last)), np.uint64)

    @staticmethod
    def _span(first: int, last: int) -> tuple[bytes, bytes]:
        return key_of(first), key_of(last) + b"\0"

    def _keys(self, space: Space, first: int, last: int) -> Iterator[bytes]:
        return space.keys(NEURON, *self._span(first, last))

    def texts_of(self, bodies: Sequence[int], selection: Selection) -> Iterator[bytes | None]:
        """JSON of the annotations of bodies, in their order, from one state; None where there is none."""
        space, batch = self.view(), 1024
        wanted = [body and check_body(body) for body in bodies]  # 0 has none
        keys = (list(map(key_of, wanted[at : at + batch])) for at in range(0, len(wanted), batch))
        return (None if v is None else selection.apply(v) for part in keys for v in space.get_many(part))

    def texts_between(self, first: int, last: int, selection: Selection) -> Iterator[tuple[int, bytes]]:
        """Body ids from `first` to `last`, both included, with the JSON of their annotations, from one state."""
        pairs = self.view().scan(NEURON, *self._span(first, last))
        return ((body_of(key), selection.apply(value)) for key, value in pairs)

    # ------------------------------------------------------------------ reads of all

    def _tables(self, space: Space | None = None) -> Iterator[Table]:
        version = self.version

        def trees() -> Iterator[str]:
            state = self.repo.state()
            return (state.nodes[v].tree for v in state.first_parents(version.id) if self.info.versioned)

        name = version.datastore.url, self.info.data_uuid
        version.datastore.at_end(forget, name)
        return tables(space or self.view(), name, version.datastore.store, trees)

    def find_texts(self, query: Any, selection: Selection) -> Iterator[bytes]:
        """JSON of the annotations that a query finds; see `query`."""
        wanted = parse_query(query)
        if wanted.bodies is not None:
            return (text for text in self.texts_of(wanted.bodies, selection) if text is not None)
        return (text for table in self._tables() for text in table.texts(selection, table.find(wanted)))

    def query(self, query: Any, *, show: str = "", fields: Iterable[str] | None = None) -> list[dict[str, Any]]:
        """Annotations that a query finds, in order of their body ids.

        Parameters
        ----------
        query : dict or list of dict
            What members must be like: all those of a dictionary, and one dictionary of a list. A value, a list of
            values of which one is enough, ``"re/REGEX"``, ``"exists/0"`` or ``"exists/1"``. A member that is a list
            fits if one of its elements does. A query for nothing but ``bodyid`` answers in the order of the ids asked.
        show, fields
            As `get`.

        Raises
        ------
        BadRequest
        """
        found = self.find_texts(query, Selection(show, fields))
        return [msgspec.json.decode(text) for text in found]

    def query_bodies(self, query: Any) -> Bodies:
        """Ids of the bodies that a query finds: uint64 (n,); see `query`."""
        wanted = parse_query(query)
        if wanted.bodies is not None:
            values = self.view().get_many([key_of(body) for body in wanted.bodies])
            return np.array([b for b, v in zip(wanted.bodies, values, strict=True) if v is not None], np.uint64)
        found = [table.bodies[table.find(wanted)] for table in self._tables()]
        return np.concatenate([np.zeros(0, np.uint64), *found])

    def all_texts(self, selection: Selection) -> Iterator[bytes]:
        """JSON of all annotations, in order of their body ids, but of those of which only ``bodyid`` is left."""
        for table in self._tables():
            for body, text in zip(table.bodies.tolist(), table.texts(selection), strict=True):
                if selection.only_bodies or text != b'{"bodyid":%d}' % body:
                    yield text

    def fields(self) -> dict[str, int]:
        """Names of all members, ``bodyid`` and stamps too, and how many annotations have each."""
        counts: dict[str, int] = {}
        for table in self._tables():
            for name, count in table.field_counts().items():
                counts[name] = counts.get(name, 0) + count
        return dict(sorted(counts.items()))

    def field_times(self) -> dict[str, str]:
        """When each field was last set or removed: the latest of its stamps."""
        latest: dict[str, str] = {}
        for table in self._tables():
            names = [name for name in table.field_counts() if name.endswith("_time")]
            for name, (codes, texts) in zip(names, table.columns(names), strict=True):
                field = field_of(name)
                times = [msgspec.json.decode(texts[code]) for code in distinct(codes).tolist() if code]
                latest[field] = max([*times, latest.get(field, times[0])], key=_by_time)
        return latest

    def arrow(self, fields: Iterable[str] | None = None, *, query: Any = None, show: str = "") -> pa.Table:
        """Annotations as an Arrow table with a row for each body.

        Parameters
        ----------
        fields : iterable of str, optional
            Columns beside ``bodyid``; all fields if not given.
        query : optional
            Only what it finds; see `query`.
        show : {"", "user", "time", "all"}
            Which stamps are columns too.

        Returns
        -------
        pyarrow.Table
            ``bodyid`` is uint64. The type of another column is one that all its values have: integers, floats,
            booleans, texts, lists of these. Where there is none, as with objects, the column holds JSON texts.
        """
        return self.arrow_at(self.view(), Selection(show, fields), query)

    def arrow_at(self, space: Space, selection: Selection, query: Any = None) -> pa.Table:
        """As `arrow`, of a state got from `view`."""
        from dvid_dask.datatypes.neuronjson.frames import arrow_table

        return arrow_table(list(self._tables(space)), selection, None if query is None else parse_query(query))

    def arrow_batches(
        self, space: Space, selection: Selection, query: Any = None
    ) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        """As `arrow_at`, in batches of some thousand rows that are made one after the other."""
        from dvid_dask.datatypes.neuronjson.frames import arrow_batches

        return arrow_batches(list(self._tables(space)), selection, None if query is None else parse_query(query))

    def dataframe(self, fields: Iterable[str] | None = None, *, query: Any = None, show: str = "") -> pd.DataFrame:
        """Annotations as a pandas dataframe, indexed by ``bodyid``; see `arrow`. Its columns have Arrow's types."""
        from dvid_dask.datatypes.neuronjson.frames import to_pandas

        return to_pandas(self.arrow(fields, query=query, show=show))


def _by_time(time: str) -> tuple[float, str]:
    return moment_of(time), time
