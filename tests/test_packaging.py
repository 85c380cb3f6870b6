"""What ships: the wheel carries the rules, the sdist can be built again, and the constraints cover both."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.places import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def build(target: str, out: Path) -> Path:
    """Build a ``wheel`` or ``sdist`` of this checkout with the build backend itself: no network."""
    run = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", tmp_path_factory.mktemp("wheel"))


def test_wheel_carries_the_rules_and_only_the_package(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        shipped = {n: archive.read(n) for n in names if n.startswith("octify/rules/")}
    here = {f"octify/rules/{file.name}": file.read_bytes() for file in (ROOT / "rules").glob("*.toml")}
    assert shipped == here
    assert {
        f"octify/rules/{name}.toml" for name in ("default", "paper", "everywhere", "fast", "int8")
    } <= names
    assert {n.partition("/")[0] for n in names} == {"octify", "octify-0.1.0.dist-info"}
    assert "octify/py.typed" in names
    assert {f"octify/report/html/{name}" for name in ("style.css", "page.js")} <= names
    assert not [n for n in names if "__pycache__" in n]


def test_wheel_metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        metadata = message_from_string(archive.read("octify-0.1.0.dist-info/METADATA").decode())
        scripts = archive.read("octify-0.1.0.dist-info/entry_points.txt").decode()
        licence = archive.read("octify-0.1.0.dist-info/licenses/LICENSE").decode()
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.10"
    assert {"zoo", "test", "plot"} <= set(metadata.get_all("Provides-Extra"))
    assert "octify = octify.cli.main:main" in scripts
    assert "Apache License" in licence


def test_wheel_finds_its_rules_away_from_the_checkout(wheel, tmp_path, octify_cli):
    """Unpacked where no ``rules/`` lies beside the package, the command line still lists and shows them."""
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)

    listed = octify_cli("rules", "list", env={"PYTHONPATH": str(site)})
    assert listed.returncode == 0, listed.stderr
    assert all(name in listed.stdout for name in ("default", "paper", "everywhere", "fast"))
    shown = octify_cli("rules", "show", "paper", env={"PYTHONPATH": str(site)})
    assert shown.returncode == 0, shown.stderr


def test_sdist_can_be_tested_and_built_again(tmp_path):
    sdist = build("sdist", tmp_path)
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "LICENSE", "README.md", "constraints.txt", "octify/__init__.py"} <= names
    assert {"rules/default.toml", "samples/digits_resnet.safetensors", "tests/conftest.py"} <= names


def test_constraints_pin_every_direct_dependency():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    versions = {}
    for pin in pins:
        (specifier,) = pin.specifier
        assert specifier.operator == "==", pin
        versions[canonicalize_name(pin.name)] = specifier.version

    declared = [Requirement(text) for text in PROJECT["dependencies"]]
    declared += [Requirement(text) for extra in PROJECT["optional-dependencies"].values() for text in extra]
    for requirement in declared:
        if requirement.name != "octify":
            assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement
