"""DVID's REST API over a datastore, as a Starlette application.

>>> from dvid_dask.api import ServerConfig, create_app
"""

from __future__ import annotations

from .app import create_app
from .config import AuthConfig, ConfigError, KafkaConfig, ServerConfig, load_config, parse_config
from .kafka import KafkaPublisher
from .serve import serve

__all__ = [
    "AuthConfig",
    "ConfigError",
    "KafkaConfig",
    "KafkaPublisher",
    "ServerConfig",
    "create_app",
    "load_config",
    "parse_config",
    "serve",
]
