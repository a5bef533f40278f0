"""Places for stores: folders, memory, and buckets behind their real protocols."""

from __future__ import annotations

import itertools
import logging
import os
import urllib.request
from collections.abc import Callable, Iterator

import pytest

from dvid_dask.store import Store

_serial = itertools.count()


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    # the AWS library in tensorstore reads these once per process
    os.environ.update(AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test", AWS_EC2_METADATA_DISABLED="true")
    endpoint = f"http://{host}:{port}"
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/bucket", method="PUT")).close()
    yield endpoint
    server.stop()


@pytest.fixture(params=["local", "memory", "s3", "gcs"])
def url(request: pytest.FixtureRequest, tmp_path) -> str:
    """A free place, on each backend in turn."""
    kind = request.param
    name = f"store-{next(_serial)}"
    if kind == "local":
        return str(tmp_path / name)
    if kind == "memory":
        return f"memory://{name}"
    if kind == "s3":
        return f"s3://bucket/{name}?endpoint={request.getfixturevalue('s3_endpoint')}&region=us-east-1"
    request.getfixturevalue("gcs_endpoint")
    return f"gs://bucket/{name}"


@pytest.fixture
def store(url: str) -> Store:
    return Store.create(url)


@pytest.fixture
def local(tmp_path) -> Store:
    return Store.create(tmp_path / "store")


@pytest.fixture
def data_files() -> Callable[[Store], list[str]]:
    """Lists a store's data files."""
    return lambda store: store._where.list("data/")
