"""Keys against arithmetic on Python's integers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvid_dask.formats import coordinates as co
from dvid_dask.formats.errors import FormatError

from . import reference as ref

int32 = st.integers(-(2**31), 2**31 - 1)
blocks32 = st.lists(st.tuples(int32, int32, int32), max_size=20)
small = st.integers(-(2**20) + 1, 2**20 - 1)


def morton(z, y, x):
    code = 0
    for bit in range(32):
        for place, c in enumerate((x, y, z)):
            code |= ((c + 2**31) >> bit & 1) << (3 * bit + place)
    return code


@settings(max_examples=100, deadline=None)
@given(blocks32)
def test_morton(zyx):
    codes = [morton(*c) for c in zyx]
    keys = co.morton_encode(zyx)
    assert [int.from_bytes(k.tobytes(), "big") for k in keys] == codes
    high, low = co.morton_words(zyx)
    assert [int(h) << 64 | int(w) for h, w in zip(high, low, strict=True)] == codes
    assert co.morton_decode(keys).tolist() == [list(c) for c in zyx]
    assert co.morton_decode(keys.tobytes()).tolist() == [list(c) for c in zyx]
    assert [codes[i] for i in co.morton_argsort(zyx)] == sorted(codes)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(small, small, small), max_size=20))
def test_packed(zyx):
    def field(v):
        return abs(v) | (v < 0) << 20

    packed = co.pack_blocks(zyx)
    assert packed.tolist() == [field(z) << 42 | field(y) << 21 | field(x) for z, y, x in zyx]
    assert co.unpack_blocks(packed).tolist() == [list(c) for c in zyx]


@settings(max_examples=50, deadline=None)
@given(blocks32)
def test_dvid_keys(zyx):
    keys = co.block_keys(zyx)
    assert [k.tobytes() for k in keys] == [b"".join((c + 2**31).to_bytes(4, "big") for c in zyx_) for zyx_ in zyx]
    assert co.decode_block_keys(keys).tolist() == [list(c) for c in zyx]


def test_worked_examples():
    assert co.pack_blocks([[3, 2, 2]])[0] == 13194143727618 == 0x0C0000400002
    assert co.pack_blocks([[-3, -2, -1]])[0] == 0x40000E0000500001
    assert co.block_keys([[3, 2, 1]]).tobytes().hex() == "800000038000000280000001"
    assert co.block_keys([[-1, 0, 5]]).tobytes().hex() == "7fffffff8000000080000005"


def test_recorded():
    for v in ref.vectors("block-index"):
        zyx = v["coord"][::-1]
        assert co.block_keys([zyx]).tobytes().hex() == v["izyx_hex"]
        assert co.unpack_blocks([v["encoded"]])[0].tolist() == v["decoded"][::-1]
        if v["coord"] == v["decoded"]:
            assert co.pack_blocks([zyx])[0] == v["encoded"]
        else:  # DVID cuts off what doesn't fit
            with pytest.raises(ValueError):
                co.pack_blocks([zyx])


def test_what_is_no_coordinate():
    for bad in ([[2**20, 0, 0]], [[0, -(2**20), 0]]):
        with pytest.raises(ValueError):
            co.pack_blocks(bad)
    with pytest.raises(ValueError):
        co.morton_encode([[2**31, 0, 0]])
    with pytest.raises(ValueError):
        co.block_keys([[0, 0, -(2**31) - 1]])
    with pytest.raises(TypeError):
        co.morton_encode([[0.5, 0, 0]])
    for decode in (co.morton_decode, co.decode_block_keys):
        with pytest.raises(FormatError):
            decode(bytes(13))
    assert co.morton_encode(np.empty((0, 3), np.int32)).shape == (0, 12)
