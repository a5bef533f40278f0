"""The pages and the viewer in a real browser, headless: pixels of the canvas against the voxels that were stored.

Runs where Chromium and its driver are on the PATH.
"""

import json
import shutil
import time
from urllib.parse import unquote

import dask
import httpx2 as httpx
import numpy as np
import pytest
from imagecodecs import png_decode

import dvid_dask
from dvid_dask import ops
from dvid_dask.api.pages.viewer import SHADER

from ..conftest import server_process

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no Chromium: apt-get install chromium-driver"),
    pytest.mark.timeout(300),
]

WIDTH, HEIGHT = 900, 700

#: Places (x, y) in plane 32, none near another.
SYNAPSES = {(40, 40): "PreSyn", (90, 40): "PostSyn", (40, 90): "PostSyn", (90, 90): "Note"}


@pytest.fixture(scope="module")
def browser():
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--window-size={WIDTH},{HEIGHT}",
        "--hide-scrollbars", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
        "--ignore-gpu-blocklist", "--force-device-scale-factor=1", "--disable-background-networking",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A server with an image of waves, askew to all axes; eight bodies, each an octant, with meshes; synapses."""
    folder = tmp_path_factory.mktemp("browser") / "store"
    z, y, x = np.indices((128, 128, 128))
    gray = (128 + 60 * np.sin(x / 9 + z / 17) + 60 * np.cos(y / 13 - x / 40)).astype(np.uint8)
    z, y, x = z >= 64, y >= 64, x >= 64
    labels = (1 + x + 2 * y + 4 * z).astype(np.uint64)
    with dvid_dask.create(str(folder), compact="never") as datastore:
        repo = datastore.new_repo("octants", "eight bodies")
        repo.new_instance("uint8blk", "gray").write(gray, (0, 0, 0))
        seg = repo.new_instance("labelmap", "seg", {"MaxDownresLevel": "1"})
        seg.write(labels, (0, 0, 0))
        synapses = repo.new_instance("annotation", "synapses")
        synapses.set_syncs(["seg"])
        synapses.add([{"Pos": [x, y, 32], "Kind": kind} for (x, y), kind in SYNAPSES.items()])
        with dask.config.set(scheduler="threads"):
            ops.mesh(seg, repo.new_instance("keyvalue", "seg_meshes"), progress=False)
        root = repo["master"]
        root.commit("as made")
        seg = root.newversion()["seg"]
        seg.merge(1, [2])
        child = seg.version.uuid
        uuid = root.uuid
    with server_process(folder) as process:
        yield process.url, uuid, child, gray, labels


def opened(browser, url, state, seconds=90):
    browser.get("about:blank")  # a change of the fragment alone loads no page
    browser.get(f"{url}/neuroglancer/v/view/#!{json.dumps(state)}")
    until(browser, "return window.viewer !== undefined && viewer.isReady() && viewer.layerManager.managedLayers"
                   ".every(l => l.layer && l.layer.isReady)", seconds)  # fmt: skip
    time.sleep(0.5)  # one more frame


def until(browser, script, seconds=90):
    end = time.monotonic() + seconds
    while not browser.execute_script(script):
        assert time.monotonic() < end, browser.get_log("browser")
        time.sleep(0.2)


def picture(browser):
    return png_decode(browser.get_screenshot_as_png())[..., :3]


def panel(browser):
    """Left, top, width and height of the cross section."""
    return browser.execute_script(
        "const r = document.querySelector('.neuroglancer-rendered-data-panel').getBoundingClientRect();"
        "return [r.left, r.top, r.width, r.height]"
    )


def state_of(url, root, *layers):
    return {
        "dimensions": {axis: [8e-9, "m"] for axis in "xyz"},
        "position": [64, 64, 32.5],
        "crossSectionScale": 0.25,
        "showAxisLines": False,
        "showScaleBar": False,
        "showDefaultAnnotations": False,
        "layout": "xy",
        "layers": list(layers),
    }


def at_voxels(browser, shot, voxels):
    """Pixels at the middles of voxels (x, y) around the position, four pixels to a voxel."""
    left, top, width, height = panel(browser)
    columns = np.round(left + width / 2 + (voxels[:, 0] + 0.5 - 64) * 4).astype(int)
    rows = np.round(top + height / 2 + (voxels[:, 1] + 0.5 - 64) * 4).astype(int)
    return shot[rows, columns].astype(int), columns, rows


#: How the viewer is told of an instance, by the format that it reads.
SOURCES = {
    "dvid": "dvid://{url}/{version}/{name}",
    "zarr": "zarr3://{url}/api/node/{version}/{name}/zarr",
    "precomputed": "precomputed://{url}/api/node/{version}/{name}/precomputed",
}


@pytest.mark.parametrize("format", SOURCES)
def test_pixels_of_an_image_are_its_voxels(browser, served, format):
    url, root, _, gray, _ = served
    source = SOURCES[format].format(url=url, version=root, name="gray")
    layer = {"type": "image", "name": "gray", "source": source, "opacity": 1}
    layer["shaderControls"] = {"normalized": {"range": [0, 255]}}
    opened(browser, url, state_of(url, root, layer))
    voxels = np.stack(np.meshgrid(np.arange(14, 114, 4), np.arange(14, 114, 4)), -1).reshape(-1, 2)
    seen, _, _ = at_voxels(browser, picture(browser), voxels)
    stored = gray[32, voxels[:, 1], voxels[:, 0]].astype(int)
    assert stored.std() > 40
    apart = np.abs(seen - stored[:, None])
    # through its DVID source the viewer asks for images as JPEG
    assert apart.max() <= (8 if format == "dvid" else 1)
    assert apart.mean() < 1.5


@pytest.mark.parametrize("format", SOURCES)
def test_a_click_picks_the_body(browser, served, format):
    from selenium.webdriver import ActionChains

    url, root, child, _, labels = served
    for version, bodies in ((root, labels), (child, np.where(labels == 2, 1, labels))):
        source = SOURCES[format].format(url=url, version=version, name="seg")
        layer = {"type": "segmentation", "name": "seg", "source": source}
        opened(browser, url, state_of(url, version, layer))
        voxels = np.array([(40, 40), (90, 40), (40, 90), (90, 90)])
        seen, columns, rows = at_voxels(browser, picture(browser), voxels)
        here = bodies[32, voxels[:, 1], voxels[:, 0]]
        # one colour a body, and none twice
        colours = {int(body): tuple(colour) for body, colour in zip(here, seen.tolist(), strict=True)}
        assert [colours[int(body)] for body in here] == [tuple(c) for c in seen.tolist()]
        assert len(set(colours.values())) == len(set(here.tolist()))
        actions = ActionChains(browser)
        actions.w3c_actions.pointer_action.move_to_location(int(columns[1]), int(rows[1]))
        actions.pause(1.0).double_click().perform()
        chosen = f"return String(viewer.state.toJSON().layers[0].segments) === '{here[1]}'"
        until(browser, chosen, 20)


def test_annotations_are_where_they_were_put(browser, served):
    url, root, *_ = served
    source = f"precomputed://{url}/api/node/{root}/synapses/precomputed"
    opened(browser, url, state_of(url, root, {"type": "annotation", "name": "s", "source": source, "shader": SHADER}))
    places = np.array(list(SYNAPSES))
    colours = {"PreSyn": (255, 204, 51), "PostSyn": (77, 191, 255), "Note": (178, 178, 178)}
    wanted = [colours[kind] for kind in SYNAPSES.values()]
    wait_for(lambda: np.abs(at_voxels(browser, picture(browser), places)[0] - wanted).max() <= 2)
    between, _, _ = at_voxels(browser, picture(browser), places + 6)
    assert np.abs(between - between[0]).max() == 0  # nothing but the background


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.3)


def test_what_the_page_links_to_shows_meshes_and_synapses_of_a_body(browser, served):
    """All layers, by the page's own link: a body is chosen, and is there in three dimensions."""
    url, root, child, *_ = served
    for version in (root, child):
        browser.get(f"{url}/repo/{root}?at={version}")
        link = browser.find_element("css selector", "a.button").get_attribute("href")
        state = json.loads(unquote(link.split("#!")[1]))
        assert [layer["type"] for layer in state["layers"]] == ["image", "segmentation", "annotation"]
        assert state["layers"][2]["linkedSegmentationLayer"] == {"body": "seg"}
        assert state["layers"][2]["filterBySegmentation"] == ["body"]
        state |= {"layout": "3d", "showAxisLines": False, "showScaleBar": False, "showDefaultAnnotations": False}
        state["layers"][1] |= {"segments": ["1"], "segmentColors": {"1": "#ff0000"}}
        state["layers"][2]["visible"] = False
        opened(browser, url, state)
        assert browser.execute_script("return viewer.layerManager.managedLayers.length") == 3
        wait_for(lambda: reddish(browser) > 1000)


def reddish(browser):
    """How many pixels are red."""
    return int((picture(browser).astype(int) @ [2, -1, -1] > 100).sum())


def test_many_viewers_of_one_server(browser, served):
    """None takes the connections that others need: a browser has six for a server."""
    url, root, *_ = served
    source = SOURCES["precomputed"].format(url=url, version=root, name="seg")
    state = state_of(url, root, {"type": "segmentation", "name": "seg", "source": source})
    first = browser.current_window_handle
    try:
        for _ in range(8):
            browser.switch_to.new_window("tab")
            opened(browser, url, state, 30)
    finally:
        for tab in browser.window_handles:
            browser.switch_to.window(tab)
            if tab != first:
                browser.close()
        browser.switch_to.window(first)


def test_a_merge_shows_at_once(browser, served):
    """The viewer is on the open version while somebody merges: loaded again, both bodies have one colour."""
    url, root, child, _, labels = served
    source = SOURCES["precomputed"].format(url=url, version=child, name="seg")
    state = state_of(url, child, {"type": "segmentation", "name": "seg", "source": source})
    voxels = np.array([(40, 90), (90, 90)])
    before = httpx.post(f"{url}/api/node/{child}/newversion", timeout=30)
    assert before.status_code != 200  # it is open
    opened(browser, url, state)
    left, right = at_voxels(browser, picture(browser), voxels)[0].tolist()
    assert left != right
    assert httpx.post(f"{url}/api/node/{child}/seg/merge", json=[3, 4], timeout=30).status_code == 200
    opened(browser, url, state)
    again, other = at_voxels(browser, picture(browser), voxels)[0].tolist()
    assert again == other == left
    assert httpx.post(f"{url}/api/node/{child}/seg/cleave/3", json=[4], timeout=30).status_code == 200


def test_pages(browser, served):
    url, root, *_ = served
    browser.get(url)
    assert "octants" in browser.find_element("tag name", "main").text
    browser.find_element("css selector", "a.card").click()
    assert browser.find_element("tag name", "h1").text == "octants"
    until(browser, "return [...document.images].every(i => { i.loading = 'eager'; return i.complete; })", 30)
    assert browser.execute_script("return [...document.images].map(i => i.naturalWidth > 0)") == [True] * 3
    for width in (360, 1280):
        metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    link = browser.find_element("css selector", "a.button").get_attribute("href")
    assert f"dvid://{url}/" in unquote(link)
    assert f"precomputed://{url}/" in unquote(link)
    browser.find_element("css selector", "a.button").click()
    until(browser, "return window.viewer !== undefined && viewer.isReady()")
    assert not [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
