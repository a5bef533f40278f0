"""Datatypes by name.

A datatype registers its class here; the classes themselves live above this room, so they are found by name and
imported on first use.
"""

from __future__ import annotations

import importlib
import threading
from typing import TYPE_CHECKING, TypeVar

from dvid_dask.errors import BadRequest, did_you_mean

if TYPE_CHECKING:
    from dvid_dask.datatypes.base import Datatype

__all__ = ["declare", "lookup", "register", "typenames"]

T = TypeVar("T", bound="type[Datatype]")

_classes: dict[str, type[Datatype]] = {}
_modules: dict[str, str] = {}
_lock = threading.RLock()


def register(cls: T) -> T:
    """Make a datatype class known under its `typename`; usable as a decorator.

    Raises
    ------
    ValueError
        When the class has no name, or another class already has it.
    """
    name = getattr(cls, "typename", "")
    if not name:
        raise ValueError(f"{cls.__name__} has no typename: set the class variable before registering it")
    with _lock:
        held = _classes.get(name)
        if held is not None and (held.__module__, held.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"datatype {name!r} is already registered as {held.__module__}.{held.__qualname__}")
        _classes[name] = cls
    return cls


def declare(names: dict[str, str]) -> None:
    """Say which module registers which datatype (type name to module), to be imported on first use."""
    with _lock:
        _modules.update(names)


def typenames() -> list[str]:
    """Names of all datatypes of this build, sorted."""
    importlib.import_module("dvid_dask.datatypes")
    with _lock:
        return sorted({*_modules, *_classes})


def lookup(typename: str) -> type[Datatype]:
    """The class of a datatype.

    Raises
    ------
    BadRequest
        When this build has no such datatype.

    Examples
    --------
    >>> lookup("keyvalue").typeversion
    '0.2'
    >>> lookup("keyvalu")
    Traceback (most recent call last):
        ...
    dvid_dask.errors.BadRequest: unknown datatype 'keyvalu' (did you mean 'keyvalue'?)
    """
    found = _classes.get(typename)
    if found is not None:
        return found
    if typename not in _modules:
        importlib.import_module("dvid_dask.datatypes")
    module = _modules.get(typename)
    if module is not None:
        importlib.import_module(module)
    found = _classes.get(typename)
    if found is None:
        raise BadRequest(f"unknown datatype {typename!r}{did_you_mean(typename, typenames())}")
    return found
