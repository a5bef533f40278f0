"""Rooms import what lies below them and nothing else; a datatype never imports another one."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "dvid_dask"

# What each room may import, beside itself and the modules in ANYWHERE.
BELOW = {
    "formats": set(),
    "store": {"formats"},
    "bases": {"formats"},
    "versions": {"formats", "store"},
    "datatypes": {"formats", "store", "bases", "versions"},
    "views": {"formats", "store", "bases", "versions", "datatypes"},
    "ops": {"formats", "store", "bases", "versions", "datatypes", "views"},
    "api": {"formats", "store", "bases", "versions", "datatypes", "ops", "views"},
    "cli": {"formats", "store", "bases", "versions", "datatypes", "ops", "views", "api"},
}
ANYWHERE = {"boxes", "errors"}


def imported(path):
    """The modules of this package that a file imports, anywhere in it, as parts below ``dvid_dask``."""
    package = ("dvid_dask", *path.relative_to(ROOT).parent.parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            stem = (*above, *(node.module.split(".") if node.module else ()))
            names = [(*stem, alias.name) for alias in node.names]
        else:
            continue
        yield from (name[1:] for name in names if name[0] == "dvid_dask")


def modules(room):
    return sorted((ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("room", BELOW)
def test_imports_point_down(room):
    allowed = BELOW[room] | {room} | ANYWHERE
    wrong = [
        (path.relative_to(ROOT).as_posix(), ".".join(name))
        for path in modules(room)
        for name in imported(path)
        if name and name[0] in BELOW and name[0] not in allowed
    ]
    # versions makes the datatypes' objects, so it names their base for type checkers
    wrong = [(p, n) for p, n in wrong if not (p.startswith("versions/") and n.startswith("datatypes"))]
    assert not wrong


def test_a_datatype_imports_no_other():
    """What holds no datatype, but what several need, is shared."""
    rooms = {}
    for path in modules("datatypes"):
        mine = path.relative_to(ROOT / "datatypes").parts[0].removesuffix(".py")
        rooms.setdefault(mine, []).append(path)
    types = {mine for mine, paths in rooms.items() if any("\n@register\n" in p.read_text() for p in paths)}
    assert {"labelmap", "imageblk", "keyvalue", "roi"} <= types
    wrong = [
        (path.relative_to(ROOT).as_posix(), ".".join(name))
        for mine in types
        for path in rooms[mine]
        for name in imported(path)
        if name[:1] == ("datatypes",) and len(name) > 1 and name[1] in types - {mine}
    ]
    assert not wrong


def test_every_room_is_known():
    found = {p.name for p in ROOT.iterdir() if (p / "__init__.py").exists()}
    assert found == {*BELOW, "demo"}
