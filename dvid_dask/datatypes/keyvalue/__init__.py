"""Bytes by name, per version. The datatype keyvalue."""

from .datatype import KeyValue, ValueWriter
from .values import Value

__all__ = ["KeyValue", "Value", "ValueWriter"]
