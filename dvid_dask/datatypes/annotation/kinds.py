"""Kinds of elements and of relationships, and the small numbers that stand for them in what is stored."""

from __future__ import annotations

from typing import Final

from dvid_dask.datatypes.events import KINDS

__all__ = ["KINDS", "KIND_NUMBER", "RELATIONS", "RELATION_NUMBER"]

RELATIONS: Final = ("UnknownRelationship", "PostSynTo", "PreSynTo", "ConvergentTo", "GroupedWith")
"""Kinds of relationships; a number is a place here."""

KIND_NUMBER: Final = {name: number for number, name in enumerate(KINDS)}
RELATION_NUMBER: Final = {name: number for number, name in enumerate(RELATIONS)}
