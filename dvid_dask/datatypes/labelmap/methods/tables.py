"""Label index, mapping and log as dataframes, for notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.datatypes.labelmap.index import Index
from dvid_dask.datatypes.labelmap.mapping import Mapping
from dvid_dask.datatypes.labelmap.methods.bodies import Bodies

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Tables"]


class Tables(Bodies):
    """What a labelmap knows of its bodies, as `pandas.DataFrame`."""

    def body_table(self, start: int = 0, stop: int | None = None) -> pd.DataFrame:
        """All bodies with ids in [start, stop), in order of their ids. For millions see `dvid_dask.ops`.

        Returns
        -------
        pandas.DataFrame
            Index ``body``; columns ``voxels``, ``blocks``, ``supervoxels`` (how many), and of the last edit
            ``mutation``, ``time``, ``user``, ``app`` (0 and empty where there was none).

        Examples
        --------
        >>> import dvid_dask
        >>> v = dvid_dask.create("memory://").new_repo("fly")["master"]
        >>> seg = v.repo.new_instance("labelmap", "segmentation", {"BlockSize": "16,16,16"})
        >>> seg.write(np.repeat([5, 6], 2048).astype(np.uint64).reshape(16, 16, 16), (0, 0, 0))
        >>> seg.body_table()["voxels"].to_dict()
        {5: 2048, 6: 2048}
        """
        import pandas as pd

        rows = [
            (body, h.voxels, h.blocks, h.supervoxels, h.stamp.mutation, h.stamp.time, h.stamp.user, h.stamp.app)
            for body, h in Index(self.view()).scan(start, stop)
        ]
        columns = ["body", "voxels", "blocks", "supervoxels", "mutation", "time", "user", "app"]
        numbers = dict.fromkeys(("body", "mutation"), np.uint64) | dict.fromkeys(columns[1:4], np.int64)
        return pd.DataFrame(rows, columns=columns).astype(numbers).set_index("body")

    def supervoxel_table(self, body: int) -> pd.DataFrame:
        """The supervoxels of a body: index ``supervoxel``, column ``voxels``.

        Raises
        ------
        NotFound
            If there is no such body.
        """
        import pandas as pd

        held = self.supervoxels_of(body)
        return pd.DataFrame({"supervoxel": held.id, "voxels": held.voxels}).set_index("supervoxel")

    def index_table(self, body: int) -> pd.DataFrame:
        """Which supervoxel of a body has how many voxels in which block.

        Returns
        -------
        pandas.DataFrame
            Columns ``z``, ``y``, ``x`` (blocks of scale 0), ``supervoxel``, ``voxels``, and ``surface``, the mutation
            that last changed which supervoxels of the body are in the block. Sorted by block.

        Raises
        ------
        NotFound
            If there is no such body.
        """
        import pandas as pd

        self.header(body)
        rows = Index(self.view()).rows(body)
        z, y, x = rows.block_zyx.T
        columns = {"z": z, "y": y, "x": x, "supervoxel": rows.supervoxel, "voxels": rows.count, "surface": rows.surface}
        return pd.DataFrame(columns)

    def mapping_table(self) -> pd.DataFrame:
        """Supervoxels that belong to a body of another id: index ``supervoxel``, column ``body`` (0: retired)."""
        import pandas as pd

        pages = list(Mapping(self.view()).scan())
        nothing = np.empty(0, np.uint64)
        ids = np.concatenate([nothing, *(page[0] for page in pages)])
        bodies = np.concatenate([nothing, *(page[1] for page in pages)])
        return pd.DataFrame({"supervoxel": ids, "body": bodies}).set_index("supervoxel")

    def mutation_table(self) -> pd.DataFrame:
        """The mutation log of this version, in the order of the commits.

        Returns
        -------
        pandas.DataFrame
            Index ``mutation``; columns ``action``, ``user``, ``app``, ``time`` (UTC) and ``record``, DVID's record as a
            dict.
        """
        import pandas as pd

        rows: list[tuple[Any, ...]] = []
        for kept in self.history():
            action = str(kept.record.get("Action", "")).removesuffix("-complete")
            mutation = kept.record.get("MutationID", kept.id)
            rows.append((mutation, action, kept.user, kept.app, kept.time, kept.record))
        columns = ["mutation", "action", "user", "app", "time", "record"]
        table = pd.DataFrame(rows, columns=columns).astype({"mutation": np.uint64})
        table["time"] = pd.to_datetime(table["time"], utc=True)
        return table.set_index("mutation")
