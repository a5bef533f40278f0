"""Headers of V3D raw files."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvid_dask.formats.errors import FormatError
from dvid_dask.formats.v3draw import HEADER_BYTES, Header, parse_header

MAGIC = b"raw_image_stack_by_hpeng"
side = st.integers(1, 2**32 - 1)


@given(st.sampled_from("LB"), st.sampled_from([1, 2]), st.tuples(side, side, side, side))
def test_what_is_written_is_read(order, size, sides):
    data = MAGIC + order.encode() + struct.pack({"L": "<", "B": ">"}[order] + "H4I", size, *sides)
    header = parse_header(data + b"voxels")
    assert header.shape == sides[::-1]
    assert header.dtype == {1: "u1", 2: {"L": "<u2", "B": ">u2"}[order]}[size]
    assert header.file_bytes == HEADER_BYTES + size * sides[0] * sides[1] * sides[2] * sides[3]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        MAGIC,
        b"x" * 60,
        MAGIC + b"X" + struct.pack("<H4I", 1, 1, 1, 1, 1),
        MAGIC + b"L" + struct.pack("<H4I", 4, 1, 1, 1, 1),
        MAGIC + b"L" + struct.pack("<H4I", 1, 1, 0, 1, 1),
    ],
)
def test_what_is_none_is_refused(data):
    with pytest.raises(FormatError, match="V3D"):
        parse_header(data)


def test_sizes():
    header = Header("<u2", (3, 10, 480, 640))
    assert (header.row_bytes, header.plane_bytes) == (1280, 1280 * 480)
