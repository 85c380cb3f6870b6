"""The floor plan: folders in one order, and every import leads to an earlier one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "octify"

# Each may import those before it, and itself. docs/architecture.md says what lives where.
ORDER = (
    ("errors", "progress"),
    ("compat",),
    ("checks", "storage"),
    ("files",),
    ("kernels", "layout"),
    ("nn",),
    ("trace",),
    ("plan",),
    ("source",),
    ("data",),
    ("ops",),
    ("passes",),
    ("planning",),
    ("compare",),
    ("export",),
    ("quantize",),
    ("latency",),
    ("report",),
    ("metric",),
    ("calibrate",),
    ("allocate",),
    ("int8",),
    ("artefact",),
    ("conversion",),
    ("tune", "sweeps"),
    ("api",),
    ("__init__",),
    ("cli",),
    ("__main__",),
)
# Inside calibrate/, likewise.
CALIBRATE = (
    *("device", "options", "streams", "rotate", "inputs", "fit", "channels"),
    *("prefix", "distill", "spectrum", "recipe"),
)
LOOSE = 6  # modules that may lie in octify/ itself, besides __init__ and __main__


def _files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def _name(file: Path) -> str:
    return ".".join(("octify", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


MODULES = {_name(file): file for file in _files()}


def _imports(file: Path) -> Iterator[tuple[str, int]]:
    """Modules of octify that a file imports, lazily and for type checkers included, with the line."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "octify":
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else node.module, node.lineno
        elif isinstance(node, ast.Import):
            yield from ((a.name, node.lineno) for a in node.names if a.name.split(".")[0] == "octify")


def _room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


FLOOR = {room: floor for floor, rooms in enumerate(ORDER) for room in rooms}


def test_every_room_has_its_place_in_the_order() -> None:
    assert {_room(module) for module in MODULES} == set(FLOOR)


def test_no_import_runs_back_up() -> None:
    wrong = [
        f"{file.relative_to(PACKAGE.parent)}:{line} imports {target}"
        for module, file in MODULES.items()
        for target, line in _imports(file)
        if _room(target) != _room(module)
        and FLOOR[_room(target)] >= FLOOR[_room(module)]
        # `from octify import __version__`, and the API as its users import it
        and not (_room(target) == "__init__" and FLOOR[_room(module)] > FLOOR["conversion"])
    ]
    assert not wrong, "\n".join(wrong)


def test_calibrations_rooms_import_those_to_their_left() -> None:
    place = {room: n for n, room in enumerate(CALIBRATE)}
    wrong = []
    for module, file in MODULES.items():
        if not module.startswith("octify.calibrate.") or module == "octify.calibrate":
            continue
        for target, line in _imports(file):
            if target.startswith("octify.calibrate."):
                mine, its = (name.split(".")[2] for name in (module, target))
                if place[its] > place[mine]:
                    wrong.append(f"{module}:{line} imports {target}")
    assert not wrong, "\n".join(wrong)


def test_there_is_no_import_circle() -> None:
    # A package's __init__ re-exports: importing it from inside would be a circle as well.
    graph = {module: {t for t, _ in _imports(file) if t != module} for module, file in MODULES.items()}
    list(TopologicalSorter(graph).static_order())


def test_a_class_name_stands_for_one_thing() -> None:
    places: dict[str, list[str]] = {}
    for file in _files():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(_name(file))
    assert places
    assert not {name: where for name, where in places.items() if len(where) > 1}


def test_few_modules_lie_loose() -> None:
    loose = [file.stem for file in PACKAGE.glob("*.py") if not file.stem.startswith("__")]
    assert len(loose) <= LOOSE, loose


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_private_name_crosses_files(module: str) -> None:
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("octify"):
            private = [a.name for a in node.names if a.name.startswith("_") and not a.name.startswith("__")]
            assert not private, f"{module}:{node.lineno} imports {private}"
