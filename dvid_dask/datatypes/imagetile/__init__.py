"""Tiles of an image: pictures of one size in xy, xz and yz at several scales, put there or made from an image."""

from .datatype import ImageTile
from .levels import Level, Levels, default_levels, parse_levels

__all__ = ["ImageTile", "Level", "Levels", "default_levels", "parse_levels"]
