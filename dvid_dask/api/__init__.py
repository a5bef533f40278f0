"""DVID's REST API over a datastore, as a Starlette application.

>>> from dvid_dask.api import ServerConfig, create_app
"""

from __future__ import annotations

from .app import create_app
from .config import ConfigError, ServerConfig, load_config, parse_config
from .serve import serve

__all__ = ["ConfigError", "ServerConfig", "create_app", "load_config", "parse_config", "serve"]
