"""Volumes that stay with Google's BrainMaps service, seen through this server."""

from .datatype import GoogleVoxels
from .geometry import Geometry, scale_map
from .remote import list_volumes

__all__ = ["Geometry", "GoogleVoxels", "list_volumes", "scale_map"]
