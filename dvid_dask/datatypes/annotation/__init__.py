"""Annotations: points with kinds, tags and relationships, found by box, label and tag. The datatype annotation."""

from .datatype import Annotation
from .elements import Elements, Texts
from .kinds import KINDS, RELATIONS

__all__ = ["KINDS", "RELATIONS", "Annotation", "Elements", "Texts"]
