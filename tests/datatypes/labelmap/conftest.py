"""A key space in memory with the read and write calls of a real one, for tests of the index and the mapping alone."""

from __future__ import annotations

from bisect import bisect_left

import pytest

pytest.register_assert_rewrite("tests.datatypes.labelmap.reads", "tests.datatypes.labelmap.editors")


class DictSpace:
    """Ordered keys in a dict; counts the bytes that are put."""

    def __init__(self) -> None:
        self.data: dict[bytes, bytes] = {}
        self.written = 0
        self.read = 0

    def get(self, key):
        self.read += 1
        return self.data.get(key)

    def get_many(self, keys):
        return [self.get(k) for k in keys]

    def decoded(self, kind, keys, decode):
        return [decode(k, v)[0] for k, v in zip(keys, self.get_many(keys), strict=True)]

    def keys(self, prefix=b"", start=None, stop=None):
        ordered = sorted(self.data)
        for key in ordered[bisect_left(ordered, max(prefix, start or b"")) :]:
            if not key.startswith(prefix) or (stop is not None and key >= stop):
                return
            yield key

    def scan(self, prefix=b"", start=None, stop=None):
        for key in list(self.keys(prefix, start, stop)):
            yield key, self.data[key]

    def put(self, key, value):
        assert isinstance(key, bytes)
        assert isinstance(value, bytes)
        self.written += len(key) + len(value)
        self.data[key] = value

    def put_many(self, items):
        for key, value in items:
            self.put(key, value)

    def delete(self, key):
        self.data.pop(key, None)

    def delete_prefix(self, prefix):
        for key in list(self.keys(prefix)):
            del self.data[key]


@pytest.fixture
def space():
    return DictSpace()
