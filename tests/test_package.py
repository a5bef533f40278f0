"""The wheel built from this tree holds all it needs: installed by itself, away from the checkout, it does its work.

The fresh environment sees only the wheel and what the wheel's metadata asks for: the distributions of the running
environment are linked in one by one, along the declared requirements. So nothing is downloaded, and a dependency that
is used but not declared is missing there, as it would be for a stranger.
"""

import os
import subprocess
import sys
import sysconfig
import textwrap
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def run(*command, cwd, **kwargs):
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, **kwargs
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, cwd=ROOT)
    (built,) = out.glob("*.whl")
    return built


def requirements(wheel):
    """The distributions that the wheel declares, and those that they do, by name."""
    with zipfile.ZipFile(wheel) as archive:
        metadata = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        text = archive.read(metadata).decode()
    declared = [line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("Requires-Dist:")]
    found = {}
    todo = [(Requirement(text), frozenset()) for text in declared]
    while todo:
        requirement, extras = todo.pop()
        if requirement.marker and not any(requirement.marker.evaluate({"extra": e}) for e in extras or {""}):
            continue
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in found:
            continue
        found[key] = here = distribution(requirement.name)
        todo += [(Requirement(r), frozenset(requirement.extras)) for r in here.requires or ()]
    return {name: dist for (name, _), dist in found.items()}


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """A fresh virtual environment with the wheel installed."""
    home = tmp_path_factory.mktemp("stranger")
    run(sys.executable, "-m", "venv", "--without-pip", home / "venv", cwd=home)
    python = home / "venv" / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).strip())
    for source in {Path(sysconfig.get_path("purelib")), Path(sysconfig.get_path("platlib"))}:
        for dist in requirements(wheel).values():
            tops = {Path(file).parts[0] for file in dist.files or () if Path(file).parts[0] != ".."}
            for top in tops - {"__pycache__"}:
                if (source / top).exists() and not (site / top).exists():
                    (site / top).symlink_to(source / top)
    run(
        sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check",
        "install", "--no-deps", "--no-index", wheel, cwd=home,
    )  # fmt: skip
    return home, python


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"dvid_dask"}
    assert "dvid_dask/py.typed" in names
    assert not [n for n in names if n.endswith((".pyc", ".nbi", ".nbc")) or "__pycache__" in n]
    packages = {p.parent.relative_to(ROOT).as_posix() for p in (ROOT / "dvid_dask").rglob("__init__.py")}
    assert packages == {n.rpartition("/")[0] for n in names if n.endswith("/__init__.py")}


def test_only_what_is_declared_is_there(environment):
    home, python = environment
    for name in ("pytest", "hypothesis", "moto", "mypy"):
        distribution(name)  # here it is
        done = subprocess.run([python, "-c", f"import {name}"], cwd=home, capture_output=True, text=True, timeout=60)
        assert "ModuleNotFoundError" in done.stderr
    with pytest.raises(PackageNotFoundError):
        distribution("dvid-dask-no-such-thing")


def test_every_module_imports(environment):
    home, python = environment
    script = """
        import dvid_dask, importlib, pkgutil, sys
        assert "stranger" in dvid_dask.__file__, dvid_dask.__file__
        for module in pkgutil.walk_packages(dvid_dask.__path__, "dvid_dask."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    """
    run(python, "-c", textwrap.dedent(script), cwd=home)


def test_it_works_away_from_the_checkout(environment):
    """Make a store, write to it in Python, serve it, read it over HTTP."""
    home, python = environment
    command = python.parent / "dvid-dask"
    assert run(command, "--version", cwd=home).startswith("dvid-dask ")
    run(command, "init", home / "store", cwd=home)
    root = run(command, "repo", "new", home / "store", "fly", cwd=home).strip()
    run(command, "node", "new-instance", home / "store", root, "labelmap", "seg", cwd=home)
    script = """
        import json, signal, subprocess, sys, urllib.request
        import fsspec
        import numpy as np
        import dvid_dask

        command, store, root = sys.argv[1:]
        assert fsspec.get_filesystem_class("dviddask").__module__ == "dvid_dask.filesystem"
        labels = np.arange(64**3, dtype=np.uint64).reshape(64, 64, 64) // 1000
        seg = dvid_dask.open(store, compact="never")[root]["seg"]
        seg.write(labels, (0, 0, 0))
        server = subprocess.Popen([command, "serve", store, "--port", "0"], stdout=subprocess.PIPE, text=True)
        url = next(word for word in server.stdout.readline().split() if word.startswith("http://"))
        with urllib.request.urlopen(f"{url}/api/node/{root}/seg/raw/0_1_2/64_64_64/0_0_0") as answer:
            read = np.frombuffer(answer.read(), "<u8").reshape(64, 64, 64)
        assert np.array_equal(read, labels)
        with urllib.request.urlopen(f"{url}/api/node/{root}/seg/size/7") as answer:
            assert json.load(answer)["voxels"] == 1000
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
        print("same")
    """
    assert run(python, "-c", textwrap.dedent(script), command, home / "store", root, cwd=home).endswith("same\n")
