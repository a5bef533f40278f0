"""Volumes that others keep: read where they lie, whatever their format, to ingest them or to adopt them in place."""

from __future__ import annotations

from .base import Base, BaseScale, holds_labels
from .images import find_images
from .naming import is_below, named_url
from .opening import open_volume
from .urls import directory_url
from .volume import Volume

__all__ = [
    "Base",
    "BaseScale",
    "Volume",
    "directory_url",
    "find_images",
    "holds_labels",
    "is_below",
    "named_url",
    "open_volume",
]
