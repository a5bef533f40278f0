"""Images over HTTP: every endpoint against numpy, refusals that change nothing."""

import contextlib
import http.client
import io
import json
import struct
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import dvid_dask

from .conftest import server_process

LOW, HIGH = -(2**31), 2**31 - 1


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    store = tmp_path_factory.mktemp("imageblk") / "store"
    dvid_dask.create(str(store), compact="never").close()
    with server_process(store, admin_token="conformance") as process:
        yield process


def noise(shape, dtype="uint8", seed=0):
    dtype = np.dtype(dtype)
    rng = np.random.default_rng(seed)
    return np.frombuffer(rng.bytes(int(np.prod(shape)) * dtype.itemsize), dtype).reshape(shape)


VOXELS = noise((16, 24, 32))


@pytest.fixture
def gray(client, repo):
    """An image of 32 x 24 x 16 voxels in blocks of 8, and its URL."""
    url = client.instance(repo, "uint8blk", "gray", BlockSize="8,8,8", VoxelSize="4,4,8", Background="9")
    assert client.post(f"{url}/raw/0_1_2/32_24_16/0_0_0", content=VOXELS.tobytes()).status_code == 200
    return url


def picture(answer):
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def records(body):
    out, at = {}, 0
    while at < len(body):
        x, y, z, n = struct.unpack_from("<iiii", body, at)
        out[x, y, z] = body[at + 16 : at + 16 + n]
        at += 16 + n
    assert at == len(body)
    return out


def everything(client, url):
    """What a refused request must leave alone."""
    return (
        client.get(f"{url}/info").content,
        client.get(f"{url}/raw/0_1_2/80_80_80/-24_-24_-24").content,
        client.get(f"{url}/subvolblocks/80_80_80/-24_-24_-24").content,
    )


# ------------------------------------------------------------------ reading


def test_volumes(client, gray):
    answer = client.get(f"{gray}/raw/vol/10_9_8/-2_20_12")
    expected = np.zeros((8, 9, 10), np.uint8)
    expected[:4, :4, 2:] = VOXELS[12:, 20:, :8]
    assert answer.content == expected.tobytes()
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-length"] == "720"
    assert client.get(f"{gray}/isotropic/0_1_2/10_9_8/-2_20_12/jpg:90").content == expected.tobytes()
    tall = picture(client.get(f"{gray}/raw/0_1_2/32_24_2/0_0_0/jpeg"))
    assert tall.shape == (48, 32)


@pytest.mark.parametrize("format", ["", "/png", "/tif", "/tiff", "/bmp", "/png:3"])
def test_slices_of_any_plane_and_format(client, gray, format):
    if format == "/bmp":
        image = picture(client.get(f"{gray}/raw/xy/20_10/3_4_5{format}"))
        np.testing.assert_array_equal(image if image.ndim == 2 else image[..., 0], VOXELS[5, 4:14, 3:23])
        return
    for dims, expected in (
        ("xy", VOXELS[5, 4:14, 3:23]),
        ("0_2", VOXELS[5:15, 4, 3:23]),
        ("YZ", VOXELS[5:15, 4:24, 3]),
    ):
        np.testing.assert_array_equal(picture(client.get(f"{gray}/raw/{dims}/20_10/3_4_5{format}")), expected)


def test_isotropic_slices_enlarge_the_longer_edge(client, gray):
    image = picture(client.get(f"{gray}/isotropic/xz/32_32/0_7_0"))
    np.testing.assert_array_equal(image, np.repeat(VOXELS[:, 7], 2, axis=0))
    np.testing.assert_array_equal(picture(client.get(f"{gray}/isotropic/xy/5_4/1_2_3")), VOXELS[3, 2:6, 1:6])


@pytest.mark.parametrize(
    ("typename", "dtype", "tail"),
    [("uint16blk", "<u2", ()), ("uint32blk", "<u4", ()), ("uint64blk", "<u8", ()), ("float32blk", "<f4", ()),
     ("rgba8blk", "u1", (4,))],
)  # fmt: skip
def test_wider_types_by_every_way(client, repo, typename, dtype, tail):
    url = client.instance(repo, typename, "image", BlockSize="4,4,4", VoxelSize="8,8,16", Background="7")
    voxels = noise((4, 4, 12, *tail), dtype)
    size = voxels[0, 0, 0].nbytes
    assert client.post(f"{url}/raw/0_1_2/12_4_4/0_0_0", content=voxels.tobytes()).status_code == 200
    assert client.get(f"{url}/raw/0_1_2/12_4_4/0_0_0").content == voxels.tobytes()
    # blocks are counted in voxels, not in bytes
    blocks = noise((2, 4, 4, 4, *tail), dtype, seed=1)
    assert client.post(f"{url}/blocks/1_0_0/2", content=blocks.tobytes()).status_code == 200
    assert client.get(f"{url}/blocks/1_0_0/2").content == blocks.tobytes()
    assert client.get(f"{url}/blocks/2_0_0/2").content == blocks[1].tobytes() + b"\7" * 64 * size
    assert client.get(f"{url}/raw/0_1_2/8_4_4/4_0_0").content == np.concatenate(list(blocks), axis=2).tobytes()
    found = records(client.get(f"{url}/specificblocks?blocks=2,0,0,9,9,9&compression=uncompressed").content)
    assert found == {(2, 0, 0): blocks[1].tobytes()}
    for path in ("raw/xy/4_4/0_0_0", "isotropic/xz/4_4/0_0_0", "arb/0_0_0/24_0_0/0_24_0/8"):
        assert client.get(f"{url}/{path}").headers["content-type"] == "image/png"


def test_arbitrary_planes_show_wide_values_too(client, repo):
    url = client.instance(repo, "uint16blk", "image", BlockSize="4,4,4", VoxelSize="8,8,8")
    voxels = noise((4, 4, 4), "<u2")
    client.post(f"{url}/raw/0_1_2/4_4_4/0_0_0", content=voxels.tobytes())
    np.testing.assert_array_equal(picture(client.get(f"{url}/arb/0_0_8/24_0_8/0_24_8/8")), voxels[1])
    np.testing.assert_array_equal(picture(client.post(f"{url}/arb/0_0_8/24_0_8/0_24_8/8/png")), voxels[1])


def test_block_streams(client, gray):
    found = records(client.get(f"{gray}/subvolblocks/16_8_16/24_16_0?compression=uncompressed").content)
    assert found == {(3, 2, z): VOXELS[8 * z : 8 * z + 8, 16:24, 24:32].tobytes() for z in range(2)}
    packed = records(client.get(f"{gray}/specificblocks?blocks=0,0,0").content)
    assert struct.unpack("<I", packed[0, 0, 0][:4]) == (512,)
    assert client.get(f"{gray}/specificblocks").content == b""
    warmed = client.get(f"{gray}/specificblocks?blocks=0,0,0&prefetch=on")
    assert (warmed.content, warmed.headers["content-type"]) == (b"", "application/octet-stream")
    # a box as large as can be
    side = 2**31 - 8
    assert len(records(client.get(f"{gray}/subvolblocks/{side}_{side}_{side}/0_0_0").content)) == 24


def test_scales_are_read_where_they_are(make_client):
    with dvid_dask.create("memory://", compact="never") as datastore:
        image = datastore.new_repo().new_instance("uint8blk", "gray", {"blocksize": "8,8,8"})
        coarse = noise((8, 8, 8))
        image.mutate(lambda m, space: image.bulk_write(space, coarse, (0, 0, 0), 2))
        client, url = make_client(datastore), f"/api/node/{image.version.uuid}/gray"
        assert client.get(f"{url}/raw/0_1_2/8_8_8/0_0_0?scale=2").content == coarse.tobytes()
        np.testing.assert_array_equal(picture(client.get(f"{url}/raw/xy/8_8/0_0_3?scale=2")), coarse[3])
        found = records(client.get(f"{url}/subvolblocks/8_8_8/0_0_0?scale=2&compression=uncompressed").content)
        assert found == {(0, 0, 0): coarse.tobytes()}
        assert client.get(f"{url}/raw/0_1_2/8_8_8/0_0_0?scale=0").content == bytes(512)
        for scale in ("1", "32", "-1", "x"):
            assert client.get(f"{url}/raw/0_1_2/8_8_8/0_0_0?scale={scale}").status_code == 400
        assert client.post(f"{url}/raw/0_1_2/8_8_8/0_0_0?scale=2", content=bytes(512)).status_code == 400


def test_properties(client, gray):
    info = client.get(f"{gray}/info").json()
    assert info["Extents"] == {"MinPoint": [0, 0, 0], "MaxPoint": [31, 23, 15]}
    metadata = client.get(f"{gray}/metadata")
    assert metadata.content.endswith(b"}\n")
    assert metadata.json()["Axes"][2] == {
        "Label": "Z",
        "Resolution": 8,
        "Units": "nanometers",
        "Size": 16,
        "Offset": 0,
    }
    assert client.post(f"{gray}/metadata").json() == metadata.json()
    assert client.post(f"{gray}/extents", json={"MaxPoint": [5, 6, 7]}).status_code == 200
    assert client.get(f"{gray}/info").json()["Extents"] == {"MinPoint": [0, 0, 0], "MaxPoint": [5, 6, 7]}
    assert client.post(f"{gray}/resolution", json=[1, 2, 3]).status_code == 200
    assert client.get(f"{gray}/info").json()["Extended"]["VoxelSize"] == [1, 2, 3]
    assert client.get(f"{gray}/rawkey").content == b""
    key = bytes.fromhex(client.get(f"{gray}/rawkey?x=1&y=2&z=-3").json()["Key"])
    assert key.endswith(b"/c/4999999997/5000000002/5000000001")
    help_text = client.get(f"{gray}/help").text
    assert all(word in help_text for word in ("subvolblocks", "compression=uncompressed", "roi=NAME"))


# ------------------------------------------------------------------ refusals


BAD_READS = [
    "raw",
    "raw/xy",
    "raw/xy/8_8",
    "raw/yx/8_8/0_0_0",
    "raw/arb/8_8/0_0_0",
    "raw/xy/8_8_8/0_0_0",
    "raw/xy/8_8/0_0",
    "raw/xy/8_-8/0_0_0",
    "raw/xy/0_8/0_0_0",
    "raw/xy/8_8/0_0_0/gif",
    "raw/xy/8_8/0_0_0/jpg:high",
    "raw/xy/8_8/0_0_99999999999",
    "raw/xy/1e3_8/0_0_0",
    f"raw/xy/8_8/{HIGH - 6}_0_0",
    "raw/xy/2000000000_2000000000/0_0_0",
    "raw/xy/70000_2/0_0_0/jpg",
    "raw/0_1_2/2000_2000_2000/0_0_0",
    "raw/0_1_2/8_8_8/0_0_0?scale=9",
    "raw/0_1_2/1_300_300/0_0_0/jpg",
    f"raw/0_1_2/8_8_8/{LOW - 1}_0_0",
    "isotropic/xz/8_2147483647/0_0_0",
    "arb/0_0_0/8_0_0/0_8_0",
    "arb/0_0_0/8_0/0_8_0/8",
    "arb/0_0_0/nan_0_0/0_8_0/8",
    "arb/0_0_0/inf_0_0/0_8_0/8",
    "arb/0_0_0/1e300_0_0/0_8_0/8",
    "arb/0_0_0/8_0_0/0_8_0/0",
    "arb/0_0_0/8_0_0/0_8_0/-1",
    "arb/0_0_0/8e5_0_0/0_8e5_0/1e-3",
    "arb/0_0_0/8_0_0/0_8_0/8/gif",
    "blocks",
    "blocks/0_0_0",
    "blocks/0_0/1",
    "blocks/0_0_0/x",
    "blocks/0_0_0/-1",
    "blocks/0_0_0/100000000",
    f"blocks/{HIGH}_0_0/1",
    "subvolblocks",
    "subvolblocks/8_8_8",
    "subvolblocks/8_8_4/0_0_0",
    "subvolblocks/8_8_8/0_0_1",
    "subvolblocks/8_8_8/0_0_0?compression=jpeg",
    "subvolblocks/8_8_8/0_0_0?compression=zip",
    "specificblocks?blocks=1,2",
    "specificblocks?blocks=1,2,x",
    "specificblocks?blocks=1,2,3,",
    "specificblocks?blocks=1,2,3000000000",
    "specificblocks?blocks=0,0,0&compression=zip",
    "raw/xy/8_8/0_0_0?roi=nosuch",
    "raw/xy/8_8/0_0_0?roi=gray",
    "raw/0_1_2/8_8_8/0_0_0?roi=nosuch&attenuation=3",
    "rawkey/1",
    "extents",
    "resolution",
    "nosuchthing",
]


@pytest.mark.parametrize("path", BAD_READS)
def test_bad_reads_are_answered_400(client, gray, path):
    answer = client.get(f"{gray}/{path}")
    assert answer.status_code == 400, answer.content[:200]
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_attenuation_outside_a_region_of_interest_is_checked(client, repo, gray):
    client.instance(repo, "roi", "region")
    for attenuation in ("0", "8", "x"):
        answer = client.get(f"{gray}/raw/xy/8_8/0_0_0?roi=region&attenuation={attenuation}")
        assert answer.status_code == 400
    # without a region nobody reads it
    assert client.get(f"{gray}/raw/xy/8_8/0_0_0?attenuation=x").status_code == 200


@pytest.mark.parametrize("side", [8, 4, 2])
def test_a_region_of_interest_masks_reads_and_writes_block_by_block(client, repo, gray, side):
    """Also in blocks of another size than the image's: then what counts is the block's middle voxel."""
    region = client.instance(repo, "roi", "region", BlockSize=f"{side},{side},{side}")
    n = 8 // side
    # the blocks of the region that hold the middle of every other block of the image, and no more
    middle = n // 2
    spans = [[z * n + middle, y * n + middle, x * n + middle] for z in range(2) for y in range(3) for x in (0, 2)]
    assert client.post(f"{region}/roi", json=[[*span, span[2]] for span in spans]).status_code == 200
    masked = np.frombuffer(client.get(f"{gray}/raw/0_1_2/32_24_16/0_0_0?roi=region").content, np.uint8)
    odd = (np.arange(32) // 8 % 2 == 1)[None, None, :]
    np.testing.assert_array_equal(masked.reshape(VOXELS.shape), np.where(odd, 9, VOXELS))
    new = noise(VOXELS.shape, seed=5)
    assert client.post(f"{gray}/raw/0_1_2/32_24_16/0_0_0?roi=region", content=new.tobytes()).status_code == 200
    kept = np.frombuffer(client.get(f"{gray}/raw/0_1_2/32_24_16/0_0_0").content, np.uint8)
    np.testing.assert_array_equal(kept.reshape(VOXELS.shape), np.where(odd, VOXELS, new))


BAD_WRITES = [
    ("raw/0_1_2/8_8_8/0_0_1", 512),
    ("raw/0_1_2/8_8_4/0_0_0", 256),
    ("raw/0_1_2/8_8_8/-4_0_0", 512),
    ("raw/0_1_2/8_8_8/0_0_0", 511),
    ("raw/0_1_2/8_8_8/0_0_0", 513),
    ("raw/0_1_2/8_8_8/0_0_0", 0),
    ("raw/0_1_2/8_8_8", 512),
    ("raw/xy/8_8/0_0_0", 64),
    ("raw/0_1_2/8_8_8/x_0_0", 512),
    ("raw/0_1_2/0_8_8/0_0_0", 0),
    (f"raw/0_1_2/16_8_8/{HIGH - 7}_0_0", 1024),
    ("raw/0_1_2/2000000_2000000_2000000/0_0_0", 512),
    ("raw/0_1_2/8_8_8/0_0_0?roi=nosuch", 512),
    ("isotropic/0_1_2/8_8_8/0_0_0", 512),
    ("blocks/0_0_0/2", 1023),
    ("blocks/0_0_0/2", 1025),
    ("blocks/0_0_0/0", 512),
    ("blocks/0_0_0/-1", 512),
    ("blocks/0_0_0/x", 512),
    (f"blocks/{HIGH // 8}_0_0/2", 1024),
    ("subvolblocks/8_8_8/0_0_0", 512),
    ("specificblocks?blocks=0,0,0", 512),
    ("info", 2),
    ("extents", 3),
    ("resolution", 3),
]


@pytest.mark.parametrize(("path", "size"), BAD_WRITES)
def test_bad_writes_are_answered_400_and_change_nothing(client, gray, path, size):
    before = everything(client, gray)
    for body in (b"\7" * size, iter([b"\7" * size])):  # of an announced length, and chunked
        assert client.post(f"{gray}/{path}", content=body).status_code == 400
    assert everything(client, gray) == before


@pytest.mark.parametrize(
    ("keyword", "body"),
    [
        ("extents", b"not json"),
        ("extents", b'{"MinPoint":[0.5,0,0],"MaxPoint":[1,1,1]}'),
        ("extents", b'{"MinPoint":[0,0],"MaxPoint":[1,1]}'),
        ("extents", b'{"MinPoint":[9,9,9],"MaxPoint":[1,1,1]}'),
        ("extents", b'{"MinPoint":[0,0,0],"MaxPoint":[1,1,2147483648]}'),
        ("extents", b"[" * 100_000),
        ("resolution", b"{}"),
        ("resolution", b'["a","b","c"]'),
        ("resolution", b"[1,2]"),
        ("resolution", b"[1,2,0]"),
        ("resolution", b"[1,2,1e999]"),
    ],
)
def test_bad_properties_change_nothing(client, gray, keyword, body):
    before = everything(client, gray)
    assert client.post(f"{gray}/{keyword}", content=body).status_code == 400
    assert everything(client, gray) == before


def test_a_committed_version_is_not_written(client, repo, gray):
    client.commit(repo)
    before = everything(client, gray)
    for path, body in (("raw/0_1_2/8_8_8/0_0_0", bytes(512)), ("blocks/0_0_0/1", bytes(512)), ("extents", b"{}")):
        assert client.post(f"{gray}/{path}", content=body).status_code == 400
    assert everything(client, gray) == before
    child = gray.replace(repo, client.child(repo))
    assert client.post(f"{child}/raw/0_1_2/8_8_8/0_0_0", content=bytes(512)).status_code == 200
    assert everything(client, gray) == before
    assert everything(client, child) != before


def test_only_get_and_post(client, gray):
    before = everything(client, gray)
    for method in ("PUT", "DELETE", "PATCH"):
        assert client.request(method, f"{gray}/raw/0_1_2/8_8_8/0_0_0", content=bytes(512)).status_code == 400
    assert everything(client, gray) == before


def test_the_throttle_refuses_a_second_heavy_request(client, gray, make_client):
    state = client.app.state.server
    state.throttle.take()
    try:
        for path in ("raw/0_1_2/8_8_8/0_0_0", "subvolblocks/8_8_8/0_0_0", "arb/0_0_0/8_0_0/0_8_0/8"):
            assert client.get(f"{gray}/{path}?throttle=on").status_code == 503
            assert client.get(f"{gray}/{path}").status_code == 200
        assert client.post(f"{gray}/raw/0_1_2/8_8_8/0_0_0?throttle=true", content=bytes(512)).status_code == 503
    finally:
        state.throttle.give_back()
    assert client.get(f"{gray}/raw/0_1_2/8_8_8/0_0_0?throttle=on").status_code == 200


WORDS = st.one_of(
    st.sampled_from(["xy", "0_1_2", "8_8", "8_8_8", "0_0_0", "-8_0_0", "jpg:5", "png", "1", "-1", "2147483647", "nan"]),
    st.text(st.characters(blacklist_categories=["Cs"]), max_size=12),
    st.lists(st.integers(-(2**33), 2**33), min_size=1, max_size=4).map(lambda v: "_".join(map(str, v))),
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    method=st.sampled_from(["GET", "POST"]),
    keyword=st.sampled_from(
        ["raw", "isotropic", "arb", "blocks", "subvolblocks", "specificblocks", "extents", "rawkey"]
    ),
    words=st.lists(WORDS, max_size=5),
    query=st.dictionaries(
        st.sampled_from(["scale", "roi", "compression", "blocks", "x", "attenuation"]), WORDS, max_size=2
    ),
    body=st.binary(max_size=600),
)
def test_garbage_never_breaks_the_server(client, gray, method, keyword, words, query, body):
    path = "/".join([gray, keyword, *(urllib.parse.quote(word, safe="") for word in words)])
    # the test client raises what a handler didn't mean to raise
    answer = client.request(method, path, params=query, content=body if method == "POST" else None)
    assert answer.status_code in (200, 301, 400, 404)


# ------------------------------------------------------------------ a real server: memory, broken bodies


@contextlib.contextmanager
def connect(process):
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", process.port, timeout=120)) as connection:
        yield connection


def ask(connection, method, path, body=None):
    connection.request(method, path, body)
    answer = connection.getresponse()
    return answer.status, answer.read()


def make(connection, **given):
    root = json.loads(ask(connection, "POST", "/api/repos?admintoken=conformance", "{}")[1])["root"]
    body = json.dumps({"typename": "uint8blk", "dataname": "gray", **given})
    assert ask(connection, "POST", f"/api/repo/{root}/instance", body)[0] == 200
    return f"/api/node/{root}/gray"


@pytest.fixture
def connection(server):
    with connect(server) as opened:
        yield opened


def test_a_volume_larger_than_memory_allows_streams(server, connection):
    url = make(connection, BlockSize="64,64,64")
    part = noise((64, 256, 512))
    assert ask(connection, "POST", f"{url}/raw/0_1_2/512_256_64/0_0_0", part.tobytes())[0] == 200
    before = server.memory()
    connection.request("GET", f"{url}/raw/0_1_2/1024_1024_1024/0_0_0")
    answer = connection.getresponse()
    assert int(answer.headers["Content-Length"]) == 1 << 30
    assert answer.read(512) == part[0, 0].tobytes()
    peak, taken = 0, 512
    while chunk := answer.read(1 << 22):
        taken += len(chunk)
        if taken % (1 << 26) < 1 << 22:
            peak = max(peak, server.memory())
    assert taken == 1 << 30
    # two slabs, what goes through the socket, and what the allocator keeps: a quarter of the volume at most
    assert peak - before < 1 << 28


def test_a_client_that_leaves_in_the_middle_changes_nothing(server, connection):
    url = make(connection)
    before = ask(connection, "GET", f"{url}/info")[1]
    for sent in (0, 1000, 1 << 20, (1 << 21) - 1):
        with server.connect() as sock:
            head = f"POST {url}/raw/0_1_2/128_128_128/0_0_0 HTTP/1.1\r\nHost: x\r\nContent-Length: {1 << 21}\r\n\r\n"
            sock.sendall(head.encode() + bytes(sent))
    assert ask(connection, "GET", f"{url}/info")[1] == before
    assert ask(connection, "GET", f"{url}/subvolblocks/128_128_128/0_0_0") == (200, b"")
    assert ask(connection, "POST", f"{url}/raw/0_1_2/128_128_128/0_0_0", bytes(1 << 21))[0] == 200
    # a reader that leaves doesn't trouble the next one either
    with server.connect() as sock:
        sock.sendall(f"GET {url}/raw/0_1_2/1024_1024_512/0_0_0 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        sock.recv(1000)
    assert ask(connection, "GET", f"{url}/raw/0_1_2/2_2_2/0_0_0") == (200, bytes(8))


def test_concurrent_posts_all_land(server, connection):
    url = make(connection)

    def one(i):
        body = np.full((32, 32, 32), i + 1, np.uint8).tobytes()
        with connect(server) as mine:
            return ask(mine, "POST", f"{url}/raw/0_1_2/32_32_32/{32 * i}_0_0", body)[0]

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(one, range(16))) == {200}
    line = ask(connection, "GET", f"{url}/raw/0_1_2/512_1_1/0_0_0")[1]
    assert list(line[::32]) == list(range(1, 17))
    assert json.loads(ask(connection, "GET", f"{url}/info")[1])["Extents"]["MaxPoint"] == [511, 31, 31]
