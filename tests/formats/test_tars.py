"""Tar files: read as tarfile writes them, in all its formats, and refused where tarfile would look away."""

from __future__ import annotations

import contextlib
import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvid_dask.formats.errors import FormatError
from dvid_dask.formats.tars import END, read_members, write_member

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def archive(files, format=tarfile.PAX_FORMAT, **changes):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for field, value in changes.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def read(data, most=1 << 20):
    return list(read_members(io.BytesIO(data), most))


names = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=30)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(names, st.binary(max_size=1500)), max_size=5))
def test_what_is_written_is_read_here_and_by_tarfile(files):
    data = b"".join([*(piece for file in files for piece in write_member(*file, 1_000_000_000)), END])
    assert read(data) == files
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert [(m.name, tar.extractfile(m).read(), m.mtime) for m in tar] == [(*f, 1_000_000_000) for f in files]


@pytest.mark.parametrize("format", FORMATS)
def test_all_formats_are_read(format):
    files = [("1.obj", b"a"), ("x" * 95 + ".o", b""), ("2.obj", b"b" * 1024)]
    if format != tarfile.USTAR_FORMAT:
        files.append(("y" * 300, b"long"))
    assert read(archive(files, format)) == files


def test_an_archive_of_nothing_is_whole():
    assert read(archive([])) == []


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_an_archive_cut_anywhere_is_refused(data):
    files = [("1.obj", b"a" * 700), ("2.obj", b"b" * 512), ("z" * 200, b"")]
    whole = b"".join([*(piece for file in files for piece in write_member(*file)), END])
    at = data.draw(st.integers(0, len(whole) - 513))  # the end mark's second half may lack
    with pytest.raises(FormatError):
        read(whole[:at])


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_archive_is_refused_or_read(data):
    whole = bytearray(archive([("1.obj", b"a" * 700), ("z" * 200, b"")]))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(FormatError):
        assert all(len(content) <= 1 << 20 for _, content in read(bytes(whole)))


@pytest.mark.parametrize(
    "type", [tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, b"S", b"D"]
)
def test_what_is_no_plain_file_is_refused(type):
    with pytest.raises(FormatError, match="no plain file"):
        read(archive([("1.obj", b"")], tarfile.GNU_FORMAT, type=type, linkname="/etc/passwd"))


def test_sparse_files_of_the_newer_kind_are_refused():
    with pytest.raises(FormatError):
        read(archive([("1.obj", b"0\n")], pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}))


def test_a_header_that_would_fill_the_memory_is_refused_unread():
    bomb = tarfile.TarInfo("x")
    bomb.type, bomb.size = tarfile.XHDTYPE, 1 << 40
    with pytest.raises(FormatError, match="extended header"):
        read(bomb.tobuf(tarfile.GNU_FORMAT))


def test_a_file_that_claims_more_than_is_taken_is_refused_unread():
    bomb = tarfile.TarInfo("1.obj")
    bomb.size = 1 << 40
    with pytest.raises(FormatError, match="at most 100"):
        read(bomb.tobuf(tarfile.GNU_FORMAT), most=100)
    with pytest.raises(FormatError, match="at most 100"):
        read(archive([("1.obj", b"x")], pax_headers={"size": str(1 << 40)}), most=100)


def test_compressed_archives_are_refused():
    import gzip

    with pytest.raises(FormatError, match="compressed"):
        read(gzip.compress(archive([("1.obj", b"x")])))


def test_what_the_source_raises_comes_through():
    class Broken:
        def read(self, n):
            raise KeyError("gone") if n > 5 else ValueError

    with pytest.raises(KeyError, match="gone"):
        list(read_members(Broken(), 10))

    class Late:
        def __init__(self):
            self.data = io.BytesIO(archive([("1.obj", b"x" * 600_000)]))

        def read(self, n):
            if self.data.tell() > 300_000:
                raise ValueError("the client left")
            return self.data.read(n)

    with pytest.raises(ValueError, match="^the client left$"):
        list(read_members(Late(), 1 << 20))
