"""Annotations as neuroglancer's precomputed format has them, of one state of an instance.

=========================  ===================================================================================
``info``                   what there is: bounds, properties, levels
``spatial<k>/<x>_<y>_<z>``  elements of a box of space that are shown from level k on; few in all of level 0
``by_id/<id>``             one of them, with the body that it is in
``body/<body>``            all elements of a body, where the instance follows a segmentation
``lines/...``              the same of the relations ``PostSynTo``: a line from the presynaptic element to this one
=========================  ===================================================================================

Nothing is prepared: a box of a level is made from the blocks of elements in it. To keep that cheap where a box has very
many blocks, a level takes the elements of just some blocks, and of those just some elements, both chosen by a hash of
where they are; the next level takes more of both, the finest all that are left. So each element is in one level.

An id tells the position: 21 bits for each of z, y and x. That is the same at every version.

Source: https://github.com/google/neuroglancer/blob/master/src/datasource/precomputed/annotations.md.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from dvid_dask.datatypes import LABEL_VOLUMES
from dvid_dask.datatypes.annotation import Annotation
from dvid_dask.datatypes.annotation import keys as element_keys
from dvid_dask.datatypes.annotation.blocks import elements_at, in_blocks
from dvid_dask.datatypes.annotation.elements import Elements, find
from dvid_dask.datatypes.annotation.kinds import KINDS, RELATION_NUMBER
from dvid_dask.datatypes.annotation.lists import Lists
from dvid_dask.datatypes.imageblk import ImageBlk
from dvid_dask.errors import BadRequest
from dvid_dask.formats.distinct import distinct, distinct_rows
from dvid_dask.formats.precomputed_annotations import Property, encode_each, encode_many, encode_one, property_id

from .volume import NANOMETRES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from dvid_dask.datatypes.base import Datatype

__all__ = ["AnnotationsPlan", "AnnotationsView"]

#: Elements of a box of space, about, beyond which there is a finer level.
LIMIT = 5000
#: Blocks that are read for a box of space, about.
BLOCKS = 2048
#: Blocks that tell which numbers elements have, and numbers that are shown of them at most.
SAMPLE, MANY = 64, 8

_BITS = 21
_BIAS = 1 << (_BITS - 1)
_SPATIAL = re.compile(r"spatial(\d{1,2})/(\d{1,8})_(\d{1,8})_(\d{1,8})")
_NUMBERED = re.compile(r"(by_id|body|presynaptic_body|postsynaptic_body)/(\d{1,20})")
_POST_SYN_TO, _PRE_SYN_TO = RELATION_NUMBER["PostSynTo"], RELATION_NUMBER["PreSynTo"]
_KIND = Property("kind", "uint8", KINDS)


class _Level(NamedTuple):
    """A level: its boxes, and which part of blocks and of their elements it and all coarser ones have, of 2**32."""

    side: tuple[int, int, int]  # blocks, z, y, x
    grid: tuple[int, int, int]
    blocks: int
    elements: int


class AnnotationsPlan(msgspec.Struct, frozen=True):
    """What decides which boxes there are and what an id means: the same plan for several states makes them alike.

    Attributes
    ----------
    block
        Voxels of a block of elements, z, y, x.
    first, extent
        Its first block, and how many there are along each axis.
    bias
        Position whose id is 0.
    levels
        Boxes of each level.
    numbers
        Names of the properties of elements that are shown as numbers, and what they are called.
    """

    block: tuple[int, int, int]
    first: tuple[int, int, int]
    extent: tuple[int, int, int]
    bias: tuple[int, int, int]
    levels: list[_Level]
    numbers: dict[str, str]

    def covers(self, other: AnnotationsPlan) -> bool:
        """Whether all elements that another plan was made for have a place in this one, with the same properties."""
        low, high = (np.array(self.first), np.array(self.first) + self.extent)
        first, stop = np.array(other.first), np.array(other.first) + other.extent
        inside = bool((first >= low).all() and (stop <= high).all())
        return inside and (self.block, self.numbers) == (other.block, other.numbers)


class AnnotationsView:
    """What lies at each path; see the module.

    Parameters
    ----------
    instance : Annotation
        At a version; one state of it is read.
    plan : AnnotationsPlan, optional
        Of another state, whose boxes and ids are to be kept; it must cover this one's.

    Examples
    --------
    >>> import dvid_dask
    >>> repo = dvid_dask.create("memory://").new_repo("fly")
    >>> synapses = repo.new_instance("annotation", "synapses")
    >>> synapses.add([{"Pos": [10, 20, 30], "Kind": "PreSyn", "Prop": {"conf": "0.9"}}])
    1
    >>> view = AnnotationsView(synapses)
    >>> [p["id"] for p in view.info()["properties"]]
    ['conf', 'kind']
    >>> len(view.get("spatial0/0_0_0")[0])
    36
    """

    def __init__(self, instance: Datatype, plan: AnnotationsPlan | None = None) -> None:
        if not isinstance(instance, Annotation):
            raise BadRequest(f"{instance.name!r} is a {instance.typename}: it has no elements")
        self.instance = instance
        self.space = instance.view()
        self.token = self.space.token
        self.block = np.array(instance.block_shape, np.int64)
        self.source = instance.source
        self._source_space = None if self.source is None else self.source.view()
        if plan is not None:
            self._first, self._extent = np.array(plan.first, np.int64), np.array(plan.extent, np.int64)
            self._bias, self._levels = np.array(plan.bias, np.int64), plan.levels
            self._numbers = {name: Property(made, "float32") for name, made in plan.numbers.items()}

    @property
    def plan(self) -> AnnotationsPlan:
        """What decides which boxes and ids there are."""
        return AnnotationsPlan(
            block=_point(self.block),
            first=_point(self._first),
            extent=_point(self._extent),
            bias=_point(self._bias),
            levels=self._levels,
            numbers={name: number.id for name, number in self._numbers.items()},
        )

    # ------------------------------------------------------------------ where elements are

    @functools.cached_property
    def blocks(self) -> NDArray[np.int32]:
        """Blocks that have elements, in the order of z, y, x."""
        parts = [np.empty((0, 3), np.int32)]
        found = iter(self.space.keys(element_keys.BLOCK))
        while some := list(itertools.islice(found, 1 << 16)):
            parts.append(element_keys.blocks_of(some))
        return np.concatenate(parts)

    @functools.cached_property
    def _sample(self) -> Elements:
        blocks = self.blocks
        chosen = blocks[distinct(np.linspace(0, len(blocks) - 1, min(SAMPLE, len(blocks))).astype(int))]
        return in_blocks(self.space, chosen)[0]

    @functools.cached_property
    def _first(self) -> NDArray[np.int64]:
        """The first block."""
        return self.blocks.min(axis=0).astype(np.int64) if len(self.blocks) else np.zeros(3, np.int64)

    @functools.cached_property
    def _extent(self) -> NDArray[np.int64]:
        """Blocks from the first to the last."""
        return self.blocks.max(axis=0) - self._first + 1 if len(self.blocks) else np.ones(3, np.int64)

    @functools.cached_property
    def _bias(self) -> NDArray[np.int64]:
        low, high = self._first * self.block, (self._first + self._extent) * self.block
        if (low >= -_BIAS).all() and (high <= _BIAS).all():
            return np.full(3, -_BIAS)
        if (high - low > 2 * _BIAS).any():
            raise BadRequest(f"elements of {self.instance.name!r} are further apart than {2 * _BIAS} voxels: no ids")
        return low

    @functools.cached_property
    def per_block(self) -> float:
        """Elements of a block that has any, about."""
        return max(1.0, len(self._sample) / max(1, min(SAMPLE, len(self.blocks))))

    @functools.cached_property
    def _levels(self) -> list[_Level]:
        blocks, extent = self.blocks - self._first, self._extent
        per_block = self.per_block
        side = 1 << math.ceil(math.log2(int(extent.max())))
        levels = []
        while True:
            cells = len(distinct_rows(blocks // side)) if len(blocks) else 1
            held = max(1.0, len(blocks) / cells)  # blocks of a box that has any
            last = held * per_block <= LIMIT or side == 1
            of_blocks = 1.0 if last else min(1.0, BLOCKS / held)
            of_elements = 1.0 if last else min(1.0, LIMIT / (held * of_blocks * per_block))
            z, y, x = (int(-(-n // side)) for n in extent)
            levels.append(_Level((side,) * 3, (z, y, x), int(of_blocks * 2**32), int(of_elements * 2**32)))
            if last:
                return levels
            side //= 2

    # ------------------------------------------------------------------ what they have

    @functools.cached_property
    def _numbers(self) -> dict[str, Property]:
        """Properties of elements that are numbers, by the name that they have there."""
        found: dict[str, bool] = {}
        for text in set(self._sample.prop.each()):
            for name, value in (msgspec.json.decode(text) or {}).items():
                found[name] = found.get(name, True) and not math.isnan(_float(value))
        made: dict[str, Property] = {}
        taken = {_KIND.id}
        for name in sorted(name for name, numbers in found.items() if numbers):
            made_id = property_id(name)
            if made_id is not None and made_id not in taken and len(made) < MANY:
                taken.add(made_id)
                made[name] = Property(made_id, "float32")
        return made

    def _properties(self, held: Elements) -> list[tuple[Property, NDArray[Any]]]:
        chosen = list(self._numbers.items())
        table = np.full((len(held.prop.text), len(chosen)), np.nan, np.float32)
        for i in distinct(held.prop.number).tolist() if chosen else ():
            prop = msgspec.json.decode(held.prop.text[i]) or {}
            table[i] = [_float(prop.get(name)) for name, _ in chosen]
        numbers = [(p, table[held.prop.number, at]) for at, (_, p) in enumerate(chosen)]
        return [*numbers, (_KIND, held.kind)]

    def ids(self, zyx: NDArray[np.int32]) -> NDArray[np.uint64]:
        """Ids of elements by their places (n, 3; z, y, x)."""
        at = (zyx.astype(np.int64) - self._bias).astype(np.uint64)
        bits = np.uint64(_BITS)
        ids: NDArray[np.uint64] = at[:, 0] << (bits + bits) | at[:, 1] << bits | at[:, 2]
        return ids

    def _position(self, number: int) -> NDArray[np.int64]:
        mask = (1 << _BITS) - 1
        return np.array([number >> 2 * _BITS, number >> _BITS & mask, number & mask], np.int64) + self._bias

    def bodies(self, zyx: NDArray[np.int32]) -> NDArray[np.uint64]:
        """The body at each place (n, 3; z, y, x); 0 for none, and where no segmentation is followed."""
        if self.source is None or self._source_space is None:
            return np.zeros(len(zyx), np.uint64)
        return self.source.labels_in(self._source_space, zyx)[0]

    # ------------------------------------------------------------------ paths

    def get(self, path: str) -> tuple[bytes, str] | None:
        """What lies at a path, and its media type; None where nothing does."""
        lines = path.startswith("lines/")
        path = path.removeprefix("lines/")
        if path == "info":
            return msgspec.json.encode(self.info(lines=lines)), "application/json"
        found = _SPATIAL.fullmatch(path)
        if found:
            number, x, y, z = (int(part) for part in found.groups())
            data = self.box(number, (z, y, x), lines=lines)
        else:
            found = _NUMBERED.fullmatch(path)
            wanted = 0 if found is None else int(found[2])
            if found is None or wanted >= 2**64:
                return None
            if found[1] == "by_id":
                data = self._one(wanted, lines) if wanted < 2 ** (3 * _BITS) else None
            else:
                data = self._related(found[1], wanted, lines) if wanted else None
        return None if data is None else (data, "application/octet-stream")

    def info(self, *, lines: bool = False) -> dict[str, Any]:
        """The ``info``, of points or of lines."""
        low = self._first * self.block
        high = low + self._extent * self.block
        spatial = []
        for number, level in enumerate(self._levels):
            size = (np.array(level.side) * self.block)[::-1]
            spatial.append(
                {
                    "key": f"spatial{number}",
                    "grid_shape": list(level.grid[::-1]),
                    "chunk_size": [float(v) for v in size],
                    "limit": LIMIT,
                }
            )
        relations = self._relations(lines)
        return {
            "@type": "neuroglancer_annotations_v1",
            "dimensions": {a: [s * 1e-9, "m"] for a, s in zip("xyz", self.nanometres[::-1], strict=True)},
            "lower_bound": [float(v) for v in low[::-1]],
            "upper_bound": [float(v) for v in high[::-1]],
            "annotation_type": "LINE" if lines else "POINT",
            "properties": [p.to_json() for p in [*self._numbers.values(), _KIND]],
            "relationships": [{"id": name.replace("_", " "), "key": name} for name in relations],
            "by_id": {"key": "by_id"},
            "spatial": spatial,
        }

    def _relations(self, lines: bool) -> list[str]:
        if self.source is None:
            return []
        return ["presynaptic_body", "postsynaptic_body"] if lines else ["body"]

    @property
    def nanometres(self) -> list[float]:
        """Size of a voxel, z, y, x: of the segmentation that it follows, else of any volume of the version."""
        version = self.instance.version
        volumes: list[Any] = [self.source, *(version[name] for name in version)]
        for volume in volumes:
            if isinstance(volume, ImageBlk) or getattr(volume, "typename", "") in LABEL_VOLUMES:
                units = [u.rstrip("s") for u in volume.voxel_units]
                return [float(s) * NANOMETRES.get(u, 1.0) for s, u in zip(volume.voxel_size, units, strict=True)]
        return [8.0] * 3

    # ------------------------------------------------------------------ content

    def cells(self, number: int, blocks: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """The boxes of a level in which blocks (n, 3; z, y, x) lie, each once."""
        side = np.array(self._levels[number].side)
        cells: NDArray[np.int64] = distinct_rows((blocks.astype(np.int64) - self._first) // side)
        return cells

    def box(self, number: int, cell: Sequence[int], *, lines: bool = False) -> bytes | None:
        """The elements of a box of a level (z, y, x); None where the level has no such box."""
        if number >= len(self._levels):
            return None
        level = self._levels[number]
        if any(at >= n for at, n in zip(cell, level.grid, strict=True)):
            return None
        low = self._first + np.array(cell, np.int64) * level.side
        blocks = self.blocks
        # sorted by z: of a box only those are looked at
        a, b = np.searchsorted(blocks[:, 0], [low[0], low[0] + level.side[0]])
        part = blocks[a:b]
        part = part[((part >= low) & (part < low + level.side)).all(axis=1)]
        ranks = _hash(part)
        part, ranks = part[ranks < level.blocks], ranks[ranks < level.blocks]
        chosen = []
        for at in range(0, len(part), BLOCKS):
            held, borders = in_blocks(self.space, part[at : at + BLOCKS])
            own = _hash(held.zyx)
            shown = own < level.elements
            if number:
                coarser = self._levels[number - 1]
                block = np.repeat(ranks[at : at + BLOCKS], np.diff(borders))
                shown &= ~((block < coarser.blocks) & (own < coarser.elements))
            chosen.append(held[shown])
        held = Elements.join(chosen)
        # viewers draw as many from the beginning as they have room for
        return self._many(held[np.argsort(_hash(held.zyx), kind="stable")], lines)

    def _many(self, held: Elements, lines: bool) -> bytes:
        ends = held.zyx
        if lines:
            ends, there = self._presynaptic(held)
            held, ends = held[there], ends[there]
        xyz = held.zyx[:, ::-1] + np.float32(0.5)
        coordinates = np.concatenate([ends[:, ::-1] + np.float32(0.5), xyz], axis=1) if lines else xyz
        return encode_many(coordinates, self._properties(held), self.ids(held.zyx))

    @staticmethod
    def _presynaptic(held: Elements) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Where the first ``PostSynTo`` of each leads, and whether it has one."""
        ends, there = held.zyx.copy(), np.zeros(len(held), np.bool_)
        chosen = held.rel_kind == _POST_SYN_TO
        owners, first = np.unique(held.rel_owner[chosen], return_index=True)
        ends[owners], there[owners] = held.rel_to[chosen][first], True
        return ends, there

    def of_body(self, body: int) -> bytes | None:
        """The elements of a body; None where no segmentation is followed."""
        return self._related("body", body, False)

    def each(self, held: Elements) -> Iterator[bytes]:
        """Each of some elements by itself, with the body that it is in."""
        bodies = [self.bodies(held.zyx)] if self._relations(False) else []
        return encode_each(held.zyx[:, ::-1] + np.float32(0.5), self._properties(held), bodies)

    def _one(self, number: int, lines: bool) -> bytes | None:
        at = self._position(number)
        if (np.abs(at) >= 2**31).any():
            return None
        held = self._at(at.reshape(1, 3).astype(np.int32))
        if not len(held):
            return None
        coordinates, relations = held.zyx, [self.bodies(held.zyx)]
        if lines:
            ends, there = self._presynaptic(held)
            if not there[0]:
                return None
            coordinates, relations = np.concatenate([ends, held.zyx]), [self.bodies(ends), relations[0]]
        return encode_one(
            coordinates[:, ::-1] + np.float32(0.5),
            self._properties(held),
            [bodies[bodies != 0] for bodies in relations[: len(self._relations(lines))]],
        )

    def _at(self, zyx: NDArray[np.int32]) -> Elements:
        """The elements at positions; those where there is one."""
        held = elements_at(self.space, zyx, self.block.tolist())
        places = find(held.zyx, zyx)
        return held[places[places >= 0]]

    def _related(self, name: str, body: int, lines: bool) -> bytes | None:
        if name not in self._relations(lines):
            return None
        held = Elements.join(list(Lists(self.space, element_keys.label).scan(body)))
        if not lines:
            return self._many(held, lines)
        held = self._at(held.zyx)  # lists have no relationships
        if name == "presynaptic_body":
            to = held.rel_to[held.rel_kind == _PRE_SYN_TO]
            held = self._at(distinct_rows(to)) if len(to) else Elements.none()
            ends, there = self._presynaptic(held)
            held = held[there & (self.bodies(ends) == np.uint64(body))]
        return self._many(held, lines)


def _point(values: NDArray[np.int64]) -> tuple[int, int, int]:
    z, y, x = (int(v) for v in values)
    return z, y, x


def _float(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return math.nan
    return number if abs(number) < 3e38 else math.nan


def _hash(zyx: NDArray[np.int32]) -> NDArray[np.uint64]:
    """A number below 2**32 for each place, as good as random."""
    with np.errstate(over="ignore"):
        h = np.zeros(len(zyx), np.uint64)
        for axis in range(3):
            h ^= zyx[:, axis].astype(np.int64).astype(np.uint64)
            h *= np.uint64(0x9E3779B97F4A7C15)
            h ^= h >> np.uint64(29)
            h *= np.uint64(0xBF58476D1CE4E5B9)
            h ^= h >> np.uint64(32)
    return h >> np.uint64(32)
