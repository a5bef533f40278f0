"""multichan16 over HTTP; what DVID answers before a load is in test_conformance."""

import numpy as np
import pytest

from dvid_dask.formats.images import decode_image


@pytest.fixture
def stack(client, repo):
    """An image of three channels, and its URL."""
    url = client.instance(repo, "multichan16", "m", BlockSize="8,8,8")
    voxels = np.random.default_rng(0).integers(0, 4000, (8, 16, 24, 3), dtype=np.uint16)
    image = client.app.state.server.datastore.repos[repo]["master"]["m"]
    image.set_channels("uint16", 3)
    image.write(voxels, (0, 0, 0))
    image.mutate(lambda m, space: image.write_ranges(space, [(0, 4000), (100, 3000), (0, 0)]))
    return url, voxels


def test_info(client, stack):
    shown = client.get(f"{stack[0]}/info").json()["Extended"]
    assert shown["NumChannels"] == 3
    assert shown["Values"][1] == {"DataType": "uint16", "Label": "channel2"}
    assert client.post(f"{stack[0]}/info").json()["Extended"] == shown


@pytest.mark.parametrize("dims", ["xz", "0_2", "0,2"])
def test_slices(client, stack, dims):
    url, voxels = stack
    found = decode_image(client.get(f"{url}/{dims}/24_8/0_5_0").content)
    assert found.shape == (8, 24, 3)  # opaque
    wide = voxels[:, 5].astype(int)
    np.testing.assert_array_equal(found[..., 0], 255 * wide[..., 0] // 4000)
    np.testing.assert_array_equal(found[..., 1], np.clip(255 * np.maximum(wide[..., 1] - 100, 0) // 2900, 0, 255))
    np.testing.assert_array_equal(found[..., 2], np.minimum(255, 255 * wide[..., 2]))
    for channel in (1, 2, 3):
        one = decode_image(client.get(f"{url}/{dims}/24_8/0_5_0?channel={channel}").content)
        np.testing.assert_array_equal(one, voxels[:, 5, :, channel - 1])
    assert client.get(f"{url}/{dims}/24_8/0_5_0/jpg:90").headers["content-type"] == "image/jpeg"


def test_boxes(client, stack):
    url, voxels = stack
    whole = client.get(f"{url}/0_1_2/24_16_8/0_0_0").content
    np.testing.assert_array_equal(np.frombuffer(whole, "<u2").reshape(voxels.shape), voxels)
    one = client.get(f"{url}/vol/20_3_8/2_1_0?channel=2").content
    np.testing.assert_array_equal(np.frombuffer(one, "<u2").reshape(8, 3, 20), voxels[:, 1:4, 2:22, 1])


def test_one_channel_is_shown_as_it_is(client, repo):
    url = client.instance(repo, "multichan16", "m", BlockSize="8,8,8")
    image = client.app.state.server.datastore.repos[repo]["master"]["m"]
    image.set_channels("uint8", 1)
    voxels = np.arange(512, dtype=np.uint8).reshape(8, 8, 8)
    image.write(voxels, (0, 0, 0))
    np.testing.assert_array_equal(decode_image(client.get(f"{url}/xy/8_8/0_0_2").content), voxels[2])
    assert client.get(f"{url}/0_1_2/8_8_8/0_0_0?channel=1").content == voxels.tobytes()


def test_refusals(client, stack):
    url, _ = stack
    for path in (
        "xy/24_8/0_0_0?channel=4",
        "xy/24_8/0_0_0?channel=-1",
        "xy/24_8/0_0_0?channel=x",
        "xy/24_8/0_0_0?scale=1",
        "xy/24_8/0_0_0/gif",
        "xy/24_8/0_0",
        "xy/24_8",
        "xy/99999_99999/0_0_0",
        "0_1_2/9999_9999_9999/0_0_0",
        "0_1_2/24_8/0_0_0",
        "m2/24_8/0_0_0",
    ):
        assert client.get(f"{url}/{path}").status_code == 400, path
    assert client.post(f"{url}/0_1_2/24_16_8/0_0_0", content=b"0" * 24 * 16 * 8 * 6).status_code == 400
    assert client.delete(f"{url}/info").status_code == 400
