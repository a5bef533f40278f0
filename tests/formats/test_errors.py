"""Who may catch what."""

import importlib
import pkgutil

from dvid_dask import formats
from dvid_dask.formats.errors import FormatError


def test_a_format_error_is_a_value_error():
    assert issubclass(FormatError, ValueError)


def test_the_room_is_mapped_and_stands_alone():
    """Every module is in the map of the package, exports what it says, and imports nothing above it."""
    for info in pkgutil.iter_modules(formats.__path__):
        module = importlib.import_module(f"{formats.__name__}.{info.name}")
        for name in getattr(module, "__all__", ()):
            assert hasattr(module, name), f"{info.name}.{name}"
        if info.name.startswith("_") or info.name == "errors":
            continue
        assert f"`{info.name}`" in (formats.__doc__ or ""), info.name
