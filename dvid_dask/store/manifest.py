"""A tree's manifest: a few hundred bytes that name its root in the pool, and its earlier generations."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import tensorstore as ts

from .errors import BadStore, NewerFormat

#: Name of the manifest in a tree's ref folder. Beside it, for stores of numbered manifests, lie NUMBERED + 16 hex
#: digits.
NAME = "manifest.ocdbt"
NUMBERED = "manifest."


@dataclass(frozen=True, slots=True)
class Root:
    """Root of one generation: where its node lies, how high above the leaves, how many keys it spans."""

    location: str | None
    height: int
    keys: int
    value_bytes: int


@dataclass(frozen=True)
class Manifest:
    """A decoded manifest."""

    document: dict[str, Any]

    @property
    def generation(self) -> int:
        """Number of the newest generation."""
        return int(self.document["versions"][-1]["generation_number"])

    @cached_property
    def root(self) -> Root:
        """Root of the newest generation."""
        return root_of(self.document["versions"][-1])

    @property
    def version_nodes(self) -> list[str]:
        """Locations of the version tree's nodes that the manifest itself names, oldest first."""
        return [node["location"] for node in self.document["version_tree_nodes"]]

    def continues(self, earlier: Manifest) -> bool:
        """Tell whether this one is later in the same history, as far as its list of generations shows."""
        last = earlier.document["versions"][-1]
        return any(version == last for version in self.document["versions"])

    def single(self, generation: int) -> bytes:
        """Encode a manifest that holds the newest root alone, as the given generation."""
        last = dict(self.document["versions"][-1], generation_number=generation)
        return bytes(ts.ocdbt.undump_manifest({**self.document, "versions": [last], "version_tree_nodes": []}))


def root_of(version: dict[str, Any]) -> Root:
    """Read the root out of one entry of a list of versions."""
    root = version["root"]
    statistics = root["statistics"]
    return Root(
        root.get("location"), version["root_height"], statistics["num_keys"], statistics["num_indirect_value_bytes"]
    )


@lru_cache(maxsize=256)
def decode(data: bytes) -> Manifest:
    """Decode a manifest.

    Raises
    ------
    BadStore
        The bytes are no manifest.
    """
    memory = ts.KvStore.open({"driver": "memory"}, context=ts.Context()).result()
    memory.write(NAME, data).result()
    try:
        document = ts.ocdbt.dump(memory).result()
    except ValueError as error:
        raise BadStore(
            f"a manifest of {len(data)} bytes can't be decoded; restore it from a backup ({error})"
        ) from error
    if not document.get("versions"):
        raise BadStore("a manifest names no generation; restore it from a backup")
    return Manifest(document)


_MAGIC = bytes.fromhex("0cdb3a2a")
_VERSION = 0


def check(data: bytes, what: str) -> None:
    """Refuse what is no manifest of a format we know, by its first bytes (big-endian magic, length, version).

    Raises
    ------
    BadStore
        It is none, or truncated.
    NewerFormat
        tensorstore has moved on to a newer one.
    """
    if len(data) < 13 or data[:4] != _MAGIC:
        raise BadStore(f"{what}: its manifest, {len(data)} bytes, is damaged or not ours; restore it from a backup")
    if int.from_bytes(data[4:12], "little") != len(data):
        raise BadStore(
            f"{what}: its manifest says {int.from_bytes(data[4:12], 'little')} bytes and has {len(data)}; "
            "restore it from a backup"
        )
    if data[12] != _VERSION:
        raise NewerFormat(
            f"{what}: its manifest is of format {data[12]}, this release reads {_VERSION}; install a newer release"
        )
