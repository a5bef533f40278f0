"""Blobs: DVID's references, idempotent, shared."""

from __future__ import annotations

import base64
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvid_dask.errors import BadRequest
from dvid_dask.versions import blobs


@pytest.mark.parametrize(
    ("data", "ref"),
    [
        (b"hello", "8UtYSGSD2U9wgDh5jClpfw=="),
        (b"Hello", "8jryOmSD2U9wgDjDXsQcnw=="),
        (bytes(range(256)), "PIVp-WOIHkeyjziMC8_xjQ=="),
        (b"\0", "0ijLaRAajK94kStwTkoUfw=="),
        (b"a blob", "saO-WoI8ZL9txZFaDdLuTw=="),
        (b"late blob", "43smD48DsdkCnpSs7Vd8Mg=="),
    ],
)
def test_references_are_dvids(ds, data, ref):
    assert ds.put_blob(data) == ref
    assert ds.get_blob(ref) == data


@given(st.integers(0, 2**32), st.integers(4096, 4200))
@settings(max_examples=20, deadline=None)
def test_the_compiled_hash_is_the_plain_one(seed, size):
    data = random.Random(seed).randbytes(size)
    state = 0x6C62272E07BB014262B821756295C58D
    for byte in data:
        state = state * ((1 << 88) + 0x13B) % 2**128 ^ byte
    assert blobs.fnv1_128(data) == state


def test_unknown_empty_and_malformed(ds):
    assert ds.get_blob("AAAAAAAAAAAAAAAAAAAAAA==") is None
    assert ds.get_blob(ds.put_blob(b"")) is None
    for bad in ("not*base64", "ä", "abc", "8UtYSGSD2U9wgDh5jClpfw"):
        with pytest.raises(BadRequest):
            ds.get_blob(bad)


def test_the_same_bytes_are_written_once(ds):
    tree = ds.store.tree("blobs")
    ds.put_blob(b"x" * 1000)
    token = tree.view(0).token
    ds.put_blob(b"x" * 1000)
    assert tree.view(0).token == token


def test_large_blobs(ds):
    data = bytes(3_000_000)
    ref = ds.put_blob(data)
    assert len(base64.urlsafe_b64decode(ref)) == 16
    assert ds.get_blob(ref) == data
