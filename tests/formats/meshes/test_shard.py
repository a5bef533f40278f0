"""Shards of meshes: what is put in comes out, by our reader and by tensorstore's."""

from __future__ import annotations

import numpy as np
import pytest
import tensorstore as ts
from hypothesis import given, settings
from hypothesis import strategies as st

from dvid_dask.formats.errors import FormatError
from dvid_dask.formats.meshes.multires import Manifest
from dvid_dask.formats.meshes.shard import (
    decode_shard,
    encode_shard,
    mesh_sharding,
    shard_name,
    shard_of,
    sharding_json,
)
from dvid_dask.formats.sharding import Sharding


def manifest(size):
    three = np.ones(3, np.float32)
    return Manifest(three, three, np.ones(1, np.float32), [np.zeros((1, 3), np.uint32)], [np.array([size], np.uint32)])


shardings = st.builds(Sharding, st.integers(0, 3), st.integers(0, 4), st.integers(0, 5))


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.integers(1, 2**64 - 1), st.binary(min_size=1, max_size=50), max_size=30), shardings)
def test_meshes_come_back(tmp_path_factory, meshes, sharding):
    folder = tmp_path_factory.mktemp("shards")
    shards = {}
    for label, fragments in sorted(meshes.items()):
        shards.setdefault(shard_of(label, sharding), []).append((label, manifest(len(fragments)).encode(), fragments))
    for number, held in shards.items():
        data = encode_shard(held, sharding)
        assert decode_shard(data, sharding) == {label: (m, f) for label, m, f in held}
        (folder / shard_name(number, sharding)).write_bytes(data)
    spec = {"driver": "neuroglancer_uint64_sharded", "base": folder.as_uri() + "/", "metadata": sharding_json(sharding)}
    theirs = ts.KvStore.open(spec).result()
    for label, fragments in meshes.items():
        assert theirs.read(label.to_bytes(8, "big")).result().value == manifest(len(fragments)).encode()


def test_how_many_shards():
    assert mesh_sharding(0).shard_bits == mesh_sharding(1000).shard_bits == 0
    assert mesh_sharding(10**12).shard_bits == 12
    assert 500 < 10**5 / 2 ** mesh_sharding(10**5).shard_bits < 1100


def test_what_is_no_shard():
    sharding = Sharding(0, 2, 0)
    data = encode_shard([(7, manifest(3).encode(), b"abc")], sharding)
    for bad in (b"", data[:-1], b"\xff" * 100, data[:64] + data[70:]):
        with pytest.raises(FormatError):
            decode_shard(bad, sharding)
