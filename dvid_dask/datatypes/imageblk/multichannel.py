"""Images of several channels: multichan16. DVID's own can no longer be filled; this one can."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from dvid_dask.datatypes.base import Space, TxSpace, register
from dvid_dask.errors import BadRequest
from dvid_dask.versions.records import InstanceInfo

from .image import ImageBlk
from .layout import Layout
from .settings import MAX_BLOCK_BYTES, parse_settings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.boxes import Box
    from dvid_dask.versions.version import Version

__all__ = ["MAX_CHANNELS", "Multichan16"]

MAX_CHANNELS = 64
_RANGES = b"r"


@register
class Multichan16(ImageBlk):
    """Fluorescence images: a volume of 8- or 16-bit values in several channels, and their composite in colour.

    What a voxel is, is known once the instance was given its channels: by `set_channels`, or by loading a file
    (`dvid_dask.ops.load_v3draw`). From then on it is an image as others are, with a last axis of channels where there
    is more than one.

    Examples
    --------
    >>> import dvid_dask, numpy as np
    >>> stack = dvid_dask.create("memory://").new_repo().new_instance("multichan16", "stack")
    >>> stack.set_channels("uint16", 2)
    >>> stack.write(np.arange(32 * 32 * 32 * 2, dtype=np.uint16).reshape(32, 32, 32, 2), (0, 0, 0))
    >>> stack.composite((0, 1), (2, 1), (0, 0, 0)).tolist()
    [[[0, 0, 0, 255], [0, 0, 0, 255]]]
    """

    typename = "multichan16"
    typeurl = "github.com/janelia-flyem/dvid/datatype/multichan16"
    typeversion = "0.1"
    value_type = "uint16"
    labels: tuple[str, ...] = ()

    def __init__(self, version: Version, info: InstanceInfo) -> None:
        super().__init__(version, info)
        self._channels_known()

    def _channels_known(self) -> None:
        held = self.info.settings
        self.value_type = held.get("DataType") or "uint16"
        self.labels = tuple(f"channel{i + 1}" for i in range(held.get("NumChannels", 0)))

    # ------------------------------------------------------------------ settings

    @classmethod
    def parse_settings(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """As other images, but never over a base; the channels come later."""
        if config.get("base"):
            raise BadRequest("setting Base: multichan16 holds what was loaded into it; adopt each channel as an image")
        return {**parse_settings(config, "uint16", 1), "DataType": "", "NumChannels": 0}

    @property
    def layout(self) -> Layout:
        """How voxels are stored.

        Raises
        ------
        BadRequest
            The channels aren't known yet.
        """
        if not self.labels:
            raise BadRequest(f"{self.name!r} has no channels yet: load a file into it (dvid-dask images load-v3draw)")
        return super().layout

    def set_channels(self, dtype: str, count: int) -> None:
        """Say what a voxel is, at all versions. It can't be changed later.

        Parameters
        ----------
        dtype
            uint8 or uint16.
        count
            Number of channels.

        Raises
        ------
        BadRequest
            Another type, too many channels, or not those that the instance has.
        """
        if dtype not in ("uint8", "uint16"):
            raise BadRequest(f"{self.name!r} takes channels of uint8 or uint16, not {dtype}")
        if not 1 <= count <= MAX_CHANNELS:
            raise BadRequest(f"{count} channels: {self.name!r} takes 1 to {MAX_CHANNELS}")
        if self.labels and (dtype, count) != (self.value_type, len(self.labels)):
            raise BadRequest(
                f"{self.name!r} has {len(self.labels)} channels of {self.value_type}, not {count} of {dtype}: "
                "make another instance"
            )
        x, y, z = self.info.settings["BlockSize"]
        size = Layout(dtype, count, (z, y, x)).block_bytes
        if size > MAX_BLOCK_BYTES:
            raise BadRequest(
                f"a block of {x} x {y} x {z} voxels in {count} channels holds {size} bytes; at most {MAX_BLOCK_BYTES}: "
                "make an instance with a smaller BlockSize"
            )
        if not self.labels:
            self.update_settings(DataType=dtype, NumChannels=count)
            self._channels_known()

    def _properties(self, extents: Box | None) -> dict[str, Any]:
        shown = super()._properties(extents)
        return {**shown, "Values": shown["Values"] or None, "NumChannels": len(self.labels)}

    def describe(self) -> dict[str, Any]:
        """As all types."""
        return {"Base": self.base(), "Extended": self.extended()}

    # ------------------------------------------------------------------ channels and composite

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The least and the largest value of each channel when this version's were loaded; else all of the type."""
        return self._read_ranges(self.view()) or [(0, int(np.iinfo(self.dtype).max))] * len(self.labels)

    @staticmethod
    def _read_ranges(space: Space | TxSpace) -> list[tuple[int, int]] | None:
        value = space.get(_RANGES)
        return None if value is None else msgspec.json.decode(value, type=list[tuple[int, int]])

    @staticmethod
    def write_ranges(space: TxSpace, ranges: Sequence[tuple[int, int]]) -> None:
        """Note the least and the largest value of each channel, inside a mutation."""
        space.put(_RANGES, msgspec.json.encode(ranges))

    def composite(
        self, axes: tuple[int, int], size: Sequence[int], offset: Sequence[int], scale: int = 0
    ) -> NDArray[np.uint8]:
        """A slice in colour: the first three channels in red, green and blue, each stretched over its range.

        Parameters
        ----------
        axes, size, offset, scale
            As `read_slice`.

        Returns
        -------
        NDArray[uint8]
            (height, width, 4); the last is opacity, 255.
        """
        voxels = self.read_slice(axes, size, offset, scale)
        channels = voxels if voxels.ndim == 3 else voxels[..., np.newaxis]
        out = np.zeros((*channels.shape[:2], 4), np.uint8)
        out[..., 3] = 255
        for i, (low, high) in enumerate(self.ranges[:3]):
            above = np.clip(channels[..., i].astype(np.int64) - low, 0, None)
            out[..., i] = np.minimum(255, 255 * above // max(1, high - low))
        return out

    def read_channel(
        self, axes: tuple[int, int], size: Sequence[int], offset: Sequence[int], channel: int, scale: int = 0
    ) -> NDArray[Any]:
        """A slice of one channel, the first being 1; otherwise as `read_slice`."""
        index = self.channel_index(channel)
        voxels = self.read_slice(axes, size, offset, scale)
        return voxels if voxels.ndim == 2 else np.ascontiguousarray(voxels[..., index])

    def channel_index(self, channel: int) -> int:
        """Where a channel, the first being 1, is in the last axis.

        Raises
        ------
        BadRequest
            There is no such channel.
        """
        if not 1 <= channel <= len(self.labels):
            raise BadRequest(f"{self.name!r} has no channel {channel}: there are 1 to {len(self.labels)}")
        return channel - 1

    def describe_change(self, key: bytes) -> Any:
        """As images; the ranges of channels."""
        return {"ranges": True} if key == _RANGES else super().describe_change(key)
