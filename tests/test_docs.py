"""The documentation can't drift: what the code has is in the reference, what the pages show runs."""

import importlib.util
import json
import re
import shlex
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page, language):
    return [text for kind, text in BLOCK.findall((ROOT / page).read_text()) if kind == language]


@pytest.fixture(scope="module")
def reference():
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site; a warning of mkdocs is an error."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def page(site, name):
    import html

    return html.unescape((site / name / "index.html").read_text())


def test_every_rest_route_is_in_the_reference(site, reference):
    from dvid_dask.api.faces import all_faces

    text = page(site, "reference/rest")
    for _, routes in reference.server_routes():
        assert routes
        for route in routes:
            assert f"<code>{route.method} {route.path}</code>" in text
    for typename, face in all_faces().items():
        assert typename in text
        for keyword, doors in face.doors.items():
            for method, door in doors.items():
                assert f"<code>{'any' if method == '*' else method} /{keyword}{door.args}</code>" in text


def test_every_rest_route_says_what_it_does(reference):
    from dvid_dask.api.faces import all_faces

    handlers = [route.handler for _, routes in reference.server_routes() for route in routes]
    for face in all_faces().values():
        handlers += [door.handler for doors in face.doors.values() for door in doors.values()]
    assert [h.__qualname__ for h in handlers if not (h.__doc__ or "").strip()] == []


def test_every_configuration_key_is_in_the_reference(site, reference):
    text = page(site, "reference/configuration")
    keys = list(reference.configuration_keys())
    assert ("server", "corsdomains", "list of strings") in keys
    for section, key, _ in keys:
        assert f"<code>{section}.{key}</code>" in text


def test_every_command_is_in_the_reference(site):
    from dvid_dask.cli import elements, images, labels, neurons, nodes, repos
    from dvid_dask.cli.app import app

    text = page(site, "reference/cli")
    for command in app.registered_commands:
        assert f"<code>dvid-dask {command.name}</code>" in text
    groups = {"repo": repos, "node": nodes, "labels": labels, "images": images, "neurons": neurons}
    groups["elements"] = elements
    for group, module in groups.items():
        for command in module.app.registered_commands:
            name = command.name or command.callback.__name__
            assert f"<code>dvid-dask {group} {name}</code>" in text


def test_no_placeholder_is_left(site):
    for built in site.rglob("*.html"):
        assert "<!-- generated:" not in built.read_text()


def test_links_of_the_readme_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / "README.md").read_text()):
        if "://" not in target:
            assert (ROOT / target).exists(), target


def run_python(code, folder):
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def readme_store(tmp_path_factory):
    """What the README's Python leaves behind, and what it printed."""
    folder = tmp_path_factory.mktemp("readme")
    (code,) = blocks("README.md", "python")
    return folder, run_python(code, folder)


def test_the_python_of_the_readme_runs(readme_store):
    folder, printed = readme_store
    assert (folder / "fly-store" / "format.json").exists()
    before, after = map(int, printed.splitlines()[0].split())
    assert 0 < before < after


def test_the_rest_of_the_readme_runs(readme_store):
    """Each curl line, as a request to the server that the block starts."""
    folder, _ = readme_store
    lines = blocks("README.md", "bash")[-1].splitlines()
    assert lines[0] == "dvid-dask serve fly-store &"
    assert lines[1] == "api=http://127.0.0.1:8000/api"
    assert lines.pop() == "kill %1"
    command = [sys.executable, "-m", "dvid_dask.cli", "serve", "fly-store", "--port", "0"]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, text=True
    ) as server:
        try:
            url = next(word for word in server.stdout.readline().split() if word.startswith("http://"))
            answers = {line: curl(line.replace("$api", f"{url}/api"), folder) for line in lines[2:]}
        finally:
            server.terminate()
            server.wait(30)
    assert len(answers) >= 8
    (repo,) = json.loads(next(text for line, text in answers.items() if "$api/repos/info" in line)).values()
    assert repo["Alias"] == "fly"
    assert (folder / "box.raw").stat().st_size == 8 * 64**3
    assert (folder / "slice.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads(answers["curl $api/node/:master/segmentation/size/1"])["voxels"] > 0


def curl(line, folder):
    """What a line with the few options of curl that the README uses does."""
    words = shlex.split(line)
    assert words.pop(0) == "curl"
    options = {}
    while len(words) > 1:
        option = words.pop(0)
        assert option in ("-o", "-X", "-d", "--retry", "--retry-connrefused"), line
        options[option] = "" if option == "--retry-connrefused" else words.pop(0)
    body = options["-d"].encode() if "-d" in options else None
    request = urllib.request.Request(words[0], data=body, method=options.get("-X", "GET"))
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            content = answer.read()
    except urllib.error.HTTPError as error:
        pytest.fail(f"{line}\n{error.code} {error.read().decode(errors='replace')}")
    if "-o" in options:
        (folder / options["-o"]).write_bytes(content)
    return content.decode(errors="replace")


def test_the_tutorial_runs(tmp_path):
    code = "\n".join(blocks("docs/tutorial.md", "python"))
    printed = run_python(code, tmp_path)
    assert "LockedVersion" in printed
    assert "synthetic, seed 2" in printed


def test_the_page_on_bulk_changes_runs(tmp_path):
    printed = run_python("\n".join(blocks("docs/howto/bulk.md", "python")), tmp_path)
    assert "3 {1: 3, 4: 1, 5: 2, 7: 1, 8: 1}" in printed
    assert "[1, 5, 8, 9, 70]" in printed
    assert "1 2\n[[3, 72, 71]]" in printed


def test_the_page_on_images_runs(tmp_path):
    printed = run_python("\n".join(blocks("docs/howto/images.md", "python")), tmp_path)
    assert "(3,) (64, 128, 128)" in printed
    assert "[0, 1, 2] True" in printed
    assert "(128, 128)" in printed


def test_the_page_on_neurons_runs(tmp_path):
    printed = run_python("\n".join(blocks("docs/howto/neurons.md", "python")), tmp_path)
    assert "[101] []" in printed
    assert "'dee')]" in printed
    assert '"traced" is not one of' in printed
    assert printed.splitlines()[-1] == str(sum(b for b in range(1000, 3000) if b % 7 == 3))


def test_the_page_on_regions_runs(tmp_path):
    printed = run_python("\n".join(blocks("docs/howto/regions.md", "python")), tmp_path)
    assert "20 284 220 264" in printed
    assert f"\n{80 * 128 * 250}\n" in printed


def test_the_page_on_values_runs(tmp_path):
    printed = run_python("\n".join(blocks("docs/howto/keyvalue.md", "python")), tmp_path)
    assert "['KC', 'MBON']\n1.0\n['skeletons/1.swc', 'skeletons/2.swc'] b'left' 10" in printed
    assert "8000000 b'" in printed


def test_the_page_on_counts_runs(tmp_path):
    printed = run_python("\n".join(blocks("docs/howto/labelsz.md", "python")), tmp_path)
    assert "PostSyn  PreSyn  Gap  Note  AllSyn" in printed
    assert printed.splitlines()[-1] == "True"


def test_the_page_on_older_label_types_runs(tmp_path):
    printed = run_python("\n".join(blocks("docs/howto/older-labels.md", "python")), tmp_path).splitlines()
    assert printed[-1] == "True"
    assert printed[:2] == ["73724 [9 9 9 9 1 1]", "95904 [78 78 78 78 78 78]"]


SYNAPSES = """
import numpy as np
import dvid_dask

repo = dvid_dask.create("memory://").new_repo("fly")
seg = repo.new_instance("labelmap", "segmentation", {"BlockSize": "64,64,64"})
seg.write(np.full((128, 384, 1280), 7, np.uint64), (0, 0, 0))
seg.write(np.full((64, 64, 64), 8, np.uint64), (0, 0, 0))
area = repo.new_instance("roi", "alpha-lobe", {"BlockSize": "64,64,64"})
area.replace([[1, 5, 18, 18]])
body, offset_zyx, shape_zyx = 7, (90, 330, 1200), (10, 20, 20)
"""


def test_the_page_on_annotations_runs(tmp_path):
    first, *others = blocks("docs/howto/annotations.md", "python")
    many = [code for code in others if "synapses.listed" in code]
    first = first.replace(
        "synapses.undo(mutation)", "mutation = list(synapses.undoable())[-1].id; synapses.undo(mutation)"
    )
    end = "print(synapses.count(body), len(synapses.elements()))"
    printed = run_python("\n".join([SYNAPSES, first, *many, end]), tmp_path)
    assert printed == "{'Unknown': 0, 'PostSyn': 1, 'PreSyn': 1, 'Gap': 0, 'Note': 0} 2\n"


def test_the_new_synced_type_of_the_page_on_synced_data_works(tmp_path):
    (code,) = blocks("docs/design/synced-data.md", "python")
    use = """
touched = repo.new_instance("touched", "edits")
touched.set_syncs(["segmentation"])
mutation = seg.merge(7, [8])
print({int.from_bytes(key[1:], "big"): int(value) == mutation for key, value in touched.view().scan()})
"""
    assert run_python("\n".join([SYNAPSES, code, use]), tmp_path) == "{7: True, 8: True}\n"


def test_the_notebook_runs(tmp_path):
    """Its code cells, one after the other, as a script."""
    cells = json.loads((ROOT / "notebooks" / "first_look.ipynb").read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    run_python("import matplotlib\nmatplotlib.use('Agg')\n" + code, tmp_path)
