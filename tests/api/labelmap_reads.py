"""Every read of a labelmap over HTTP, compared with the model's answer.

`get` is a function (path and query, body) -> (status, body) on the instance's URL, so that any client can be behind it.
"""

from __future__ import annotations

import gzip
import json

import numpy as np

from dvid_dask.formats import (
    binary_blocks,
    block_stream,
    coarse,
    compressed_segmentation,
    dvid_pb2,
    images,
    label_blocks,
    label_index,
    rles,
)
from dvid_dask.formats.compression import lz4_decompress
from tests.datatypes.labelmap.model import RETIRED
from tests.datatypes.labelmap.reads import (
    UNKNOWN,
    all_bounds,
    assert_runs,
    index_value,
    padded,
    plain,
    sparse_reference,
)


def client_get(client, path):
    """`get` of starlette's test client."""

    def get(keyword, body=b""):
        answer = client.request("GET", f"{path}/{keyword}", content=body)
        return answer.status_code, answer.content

    return get


def check_http(get, model, *, bodies=3):
    """All endpoints say what the model says."""

    def ok(keyword, body=b""):
        status, content = get(keyword, body)
        assert status == 200, (keyword, status, content[:300])
        return content

    def obj(keyword, body=b""):
        return json.loads(ok(keyword, body))

    check_voxels(ok, obj, model)
    check_blocks(ok, model)
    check_lists(get, ok, obj, model)
    check_index(get, ok, obj, model)
    check_mapping(ok, obj, model)
    check_log(ok, obj, model)
    for body in model.bodies()[:bodies]:
        check_sparse(get, ok, model, body)


def xyz(zyx):
    return "_".join(str(int(v)) for v in reversed(tuple(zyx)))


def check_voxels(ok, obj, model):
    for scale in range(model.grid.levels + 1):
        offset, svs = padded(model, scale)
        bodies = model.as_bodies(svs)
        where = f"raw/0_1_2/{xyz(svs.shape)}/{xyz(offset)}?scale={scale}"
        for dense, query in ((svs, "&supervoxels=true"), (bodies, "")):
            data = ok(f"{where}{query}")
            assert data == dense.tobytes()
            assert gzip.decompress(ok(f"{where}{query}&compression=gzip")) == data
            assert lz4_decompress(ok(f"{where}{query}&compression=lz4"), len(data)) == data
        cube = ok(f"raw/0_1_2/8_8_8/{xyz(offset)}?scale={scale}&compression=google")
        assert (compressed_segmentation.decode(cube, (8, 8, 8)) == bodies[:8, :8, :8]).all()
        for dims, axes in (("xy", (2, 1)), ("xz", (2, 0)), ("yz", (1, 0))):
            size = "_".join(str(svs.shape[a]) for a in axes)
            ((normal),) = {0, 1, 2} - set(axes)
            middle = svs.shape[normal] // 2
            at = offset.copy()
            at[normal] += middle
            image = images.decode_image(ok(f"raw/{dims}/{size}/{xyz(at)}?scale={scale}"))
            assert (labels_of_image(image) == bodies.take(middle, normal)).all()
        rng = np.random.default_rng(scale)
        points = rng.integers(0, svs.shape, (20, 3))
        asked = json.dumps((points + offset)[:, ::-1].tolist()).encode()
        assert obj(f"labels?scale={scale}", asked) == bodies[tuple(points.T)].tolist()
        assert obj(f"labels?scale={scale}&supervoxels=true", asked) == svs[tuple(points.T)].tolist()
        point = points[0]
        assert obj(f"label/{xyz(point + offset)}?scale={scale}") == {"Label": int(bodies[tuple(point)])}


def labels_of_image(image):
    """The ids that a 16-bit RGBA image carries: eight bytes a pixel, least significant first."""
    if image.dtype == np.uint64:
        return image
    assert image.dtype == np.uint16
    return np.ascontiguousarray(image.astype(">u2")).view("<u8")[..., 0]


def check_blocks(ok, model):
    grid = model.grid
    box = f"blocks/{xyz(grid.shape)}/{xyz(grid.offset)}"
    asked = "specificblocks?blocks=" + ",".join(f"{x},{y},{z}" for z, y, x in sorted(model.stored))
    for supervoxels in (False, True):
        dense = model.voxels if supervoxels else model.as_bodies()
        for compression in ("", "lz4", "gzip", "blocks", "uncompressed"):
            options = f"supervoxels={str(supervoxels).lower()}" + (f"&compression={compression}" if compression else "")
            for data, default in ((ok(f"{box}?{options}"), "lz4"), (ok(f"{asked}&{options}"), "blocks")):
                seen = set()
                for x, y, z, payload in block_stream.iter_records(reader(data)):
                    block = block_stream.payload_to_block(payload, compression or default, grid.block)
                    here = np.array([z, y, x]) * grid.block - grid.offset
                    part = tuple(slice(h, h + b) for h, b in zip(here.tolist(), grid.block, strict=True))
                    assert (label_blocks.decode_block(block) == dense[part]).all()
                    seen.add((z, y, x))
                assert seen == model.stored


def reader(data):
    import io

    return io.BytesIO(data)


def check_lists(get, ok, obj, model):
    bodies = model.bodies()
    sizes = [model.body_size(b) for b in bodies]
    assert obj("existing-labels") == bodies
    assert np.frombuffer(ok("listlabels"), "<u8").tolist() == bodies
    listed = np.frombuffer(ok("listlabels?sizes=true"), "<u8").reshape(-1, 2)
    assert listed.tolist() == [[b, n] for b, n in zip(bodies, sizes, strict=True)]
    if bodies:
        some = np.frombuffer(ok(f"listlabels?start={bodies[-1]}&number=3"), "<u8").tolist()
        assert some == bodies[-1:]
    assert obj("sizes", json.dumps([*bodies, UNKNOWN, 0]).encode()) == [*sizes, 0, 0]
    svs = [s for s in model.supervoxel_ids() if model.body(s)]
    assert obj("sizes?supervoxels=true", json.dumps([*svs, UNKNOWN]).encode()) == [*map(model.size, svs), 0]
    for body, size in zip(bodies, sizes, strict=True):
        members = model.supervoxels(body)
        assert obj(f"size/{body}") == {"voxels": size}
        assert sorted(obj(f"supervoxels/{body}")) == members
        both = obj(f"supervoxel-sizes/{body}")
        assert dict(zip(both["supervoxels"], both["sizes"], strict=True)) == {s: model.size(s) for s in members}
        told = obj(f"lastmod/{body}")
        mutation, user, app = model.stamps.get(body, (0, "", ""))
        assert (told["mutation id"], told["last mod user"], told["last mod app"]) == (mutation, user, app)
        assert bool(told["last mod time"]) == bool(mutation)
    for sv in svs[:3]:
        assert obj(f"size/{sv}?supervoxels=true") == {"voxels": model.size(sv)}
    gone = [UNKNOWN, *sorted((set(svs) | set(model.mapping)) - set(bodies))[:3]]
    for keyword in ("size", "supervoxels", "supervoxel-sizes", "lastmod", "index", "sparsevol", "sparsevol-size"):
        for body in gone:
            assert get(f"{keyword}/{body}")[0] == 404, (keyword, body)
        assert get(f"{keyword}/0")[0] == 400
    retired = [s for s, b in model.mapping.items() if b == RETIRED]
    for sv in retired[:3]:
        assert get(f"size/{sv}?supervoxels=true")[0] == 400
        assert get(f"sparsevol/{sv}?supervoxels=true")[0] == 400


def check_index(get, ok, obj, model):
    rows = model.rows()
    bodies = list(rows)
    asked = json.dumps([*bodies, UNKNOWN]).encode()
    many = list(label_index.decode_indices(ok("indices", asked)))
    packed = list(label_index.iter_records(ok("indices-compressed", asked)))
    assert [i.label for i in many] == [n for n, _ in packed] == [*bodies, UNKNOWN]
    assert len(many[-1].supervoxel) == 0
    assert packed[-1][1] is None
    for body, index, (_, other) in zip(bodies, many, packed, strict=False):
        single = label_index.decode_index(ok(f"index/{body}"))
        # google's own reader of the same bytes
        message = dvid_pb2.LabelIndex.FromString(ok(f"index/{body}"))
        counted = sum(n for counts in message.blocks.values() for n in counts.counts.values())
        assert counted == sum(rows[body].values())
        for found in (index, other, single):
            assert found.label == body
            held = zip(found.block_zyx.tolist(), found.supervoxel.tolist(), found.count.tolist(), strict=True)
            assert {(*b, s): n for b, s, n in held} == rows[body]
            assert (found.last_mutid, found.last_mod_user, found.last_mod_app) == model.stamps.get(body, (0, "", ""))
        facts = obj(f"index/{body}?metadata-only=true")
        assert facts["num_voxels"] == counted
        assert facts["last_mutid"] == found.last_mutid
        blocks = np.array(sorted({k[:3] for k in rows[body]}))
        size = obj(f"sparsevol-size/{body}")
        assert (size["voxels"], size["numblocks"]) == (counted, len(blocks))
        assert size["minvoxel"][::-1] == (blocks.min(0) * model.grid.block).tolist()
        assert size["maxvoxel"][::-1] == ((blocks.max(0) + 1) * model.grid.block - 1).tolist()
    for body in bodies[:2]:
        at = model
        while at.parent is not None and index_value(at, body) == index_value(at.parent, body):
            at = at.parent
        assert ok(f"index-version/{body}").decode() == at.uuid
    assert get(f"index-version/{UNKNOWN}")[0] == 400


def check_mapping(ok, obj, model):
    asked = sorted({0, 1, UNKNOWN, *model.mapping, *model.supervoxel_ids(), *model.bodies()})
    data = json.dumps(asked).encode()
    assert obj("mapping", data) == [model.looked_up(s) for s in asked]
    assert obj("mapping?nolookup=true", data) == [model.looked_up(s, False) for s in asked]
    entries = sorted((s, b) for s, b in model.mapping.items() if s != b)
    lines = ok("mappings").decode().splitlines()
    assert sorted(tuple(map(int, line.split())) for line in lines) == entries
    pairs = np.frombuffer(ok("mappings?format=binary"), "<u8").reshape(-1, 2)
    assert sorted(map(tuple, pairs.tolist())) == entries
    if model.max_label:
        assert obj("maxlabel") == {"maxlabel": model.max_label}
    assert obj("nextlabel") == {"nextlabel": model.ids.next}
    info = obj("info")
    corners = {"MinPoint": None, "MaxPoint": None}
    if model.extents is not None:
        corners = {k: list(v[::-1]) for k, v in zip(corners, model.extents, strict=True)}
    assert info["Extents"] == corners
    assert info["Extended"]["MaxRepoLabel"] == model.ids.next - 1


def check_log(ok, obj, model):
    assert [plain(r) for r in obj("mutations")] == [plain(r) for r in model.log]
    root = model
    while root.parent is not None:
        root = root.parent
    every, at = [], model
    while at is not None:
        every += [plain(r) for r in at.log]
        at = at.parent
    assert [plain(r) for r in obj(f"mutations-range/{root.uuid}/{model.uuid}")] == every


def check_sparse(get, ok, model, body):
    for scale in range(model.grid.levels + 1):
        mask, blocks = sparse_reference(model, body, False, scale)
        offset, block = np.array(model.grid.offset) >> scale, np.array(model.grid.block)
        for bounds in all_bounds(body + scale, offset, mask.shape):
            sides = {f"min{a}": v for a, v in zip("zyx", bounds.low, strict=True) if v is not None}
            sides |= {f"max{a}": v for a, v in zip("zyx", bounds.high, strict=True) if v is not None}
            query = "".join(f"&{k}={v}" for k, v in sides.items())
            low = [-(2**31) if v is None else v for v in bounds.low]
            high = [2**31 - 1 if v is None else v for v in bounds.high]
            there = any(touches(b, block, low, high) for b in blocks)
            where = f"sparsevol/{body}?scale={scale}{query}"
            if not there:
                assert get(where)[0] == 404
                continue
            clipped = mask.copy()
            for axis in range(3):
                at = np.arange(mask.shape[axis]) + offset[axis]
                clipped &= np.expand_dims((low[axis] <= at) & (at <= high[axis]), [a for a in range(3) if a != axis])
            plain_rles = ok(where)
            assert_runs(rles.decode_rles(plain_rles) if plain_rles else np.empty((0, 4), np.int32), offset, clipped)
            assert gzip.decompress(ok(f"{where}&compression=gzip")) == plain_rles
            assert lz4_decompress(ok(f"{where}&compression=lz4"), 1 << 24) == plain_rles
            assert_runs(rles.decode_srles(ok(f"{where}&format=srles")), offset, clipped)
            whole = mask_of(mask, blocks, block, offset, low, high)
            assert_runs(rles.decode_rles(ok(f"{where}&exact=false") or rles.encode_rles([])), offset, whole)
            assert_runs(binary_blocks.to_rles(ok(f"{where}&format=blocks")), offset, whole)
            if scale == 0:
                found = coarse.decode_coarse(ok(f"sparsevol-coarse/{body}?{query[1:]}"))
                kept = {b for b in blocks if touches(b, block, low, high)}
                assert set(map(tuple, found.tolist())) == kept
                ((label, listed),) = coarse.iter_coarse_records(ok(f"sparsevols-coarse/{body}/{body}?{query[1:]}"))
                assert label == body
                assert set(map(tuple, coarse.blocks_from_rles(listed).tolist())) == kept
    (z, y, x), *_ = np.argwhere(model.as_bodies() == np.uint64(body)).tolist()
    point = np.array([z, y, x]) + model.grid.offset
    assert ok(f"sparsevol-by-point/{xyz(point)}") == ok(f"sparsevol/{body}")


def touches(b, block, low, high):
    """Whether a block has a voxel within inclusive bounds."""
    return all(a // n <= c <= z // n for a, z, n, c in zip(low, high, block.tolist(), b, strict=True))


def mask_of(mask, blocks, block, offset, low, high):
    """The part of a mask in those blocks that touch the bounds."""
    out = np.zeros_like(mask)
    for b in blocks:
        if touches(b, block, low, high):
            start = np.array(b) * block - offset
            box = tuple(slice(max(0, v), max(0, v + n)) for v, n in zip(start.tolist(), block.tolist(), strict=True))
            out[box] = mask[box]
    return out
