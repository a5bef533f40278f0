"""What tests of several rooms share: a bucket of Google's, since its address is read once per process."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from .store.gcs_server import GcsServer


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[GcsServer]:
    """A server of buckets at ``gs://``, whatever they are called."""
    server = GcsServer()
    # tensorstore reads both once per process
    os.environ.update(TENSORSTORE_GCS_HTTP_URL=server.endpoint, GOOGLE_AUTH_TOKEN_FOR_TESTING="test")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def gcs_endpoint(gcs_server: GcsServer) -> str:
    return gcs_server.endpoint
