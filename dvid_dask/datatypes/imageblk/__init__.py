"""Images in blocks, per version: uint8blk, uint16blk, uint32blk, uint64blk, float32blk, rgba8blk and multichan16."""

from .events import BlocksWritten
from .image import (
    Float32Blk,
    ImageBlk,
    Rgba8Blk,
    Uint8Blk,
    Uint16Blk,
    Uint32Blk,
    Uint64Blk,
)
from .multichannel import MAX_CHANNELS, Multichan16
from .pinned import PinnedImage
from .planes import ArbitraryPlane, isotropic_size

__all__ = [
    "ArbitraryPlane",
    "BlocksWritten",
    "Float32Blk",
    "ImageBlk",
    "MAX_CHANNELS",
    "Multichan16",
    "PinnedImage",
    "Rgba8Blk",
    "Uint8Blk",
    "Uint16Blk",
    "Uint32Blk",
    "Uint64Blk",
    "isotropic_size",
]
