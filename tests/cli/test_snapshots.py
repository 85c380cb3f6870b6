"""What people see stays as it is until someone means to change it: help, tables and JSON documents.

``pytest tests/cli/test_snapshots.py --snapshot-update`` writes the new ones; read the difference.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion
from typer.main import get_command

from octify.cli.main import app
from tests.cli.conftest import NET, Octify

COMMANDS = sorted(get_command(app).commands)  # type: ignore[attr-defined]


@pytest.fixture
def net(octify: Octify, tmp_path: Path) -> Path:
    path = tmp_path / "net.py"
    path.write_text(NET)
    return Path(path.name)


@pytest.mark.parametrize("command", COMMANDS)
def test_help(octify: Octify, command: str, snapshot: SnapshotAssertion) -> None:
    assert octify(command, "--help").out == snapshot


def test_help_of_all(octify: Octify, snapshot: SnapshotAssertion) -> None:
    assert octify("--help").out == snapshot


@pytest.mark.parametrize("rules", ["default", "everywhere"])
def test_tables_of_inspect(octify: Octify, net: Path, rules: str, snapshot: SnapshotAssertion) -> None:
    assert octify("inspect", net, "--alpha", "0.5", "--rules", rules).out == snapshot


def test_json_of_inspect(octify: Octify, net: Path, snapshot: SnapshotAssertion) -> None:
    assert octify("inspect", net, "--rules", "everywhere", "--json").json == snapshot


def test_plan_of_convert(octify: Octify, net: Path, tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    assert octify("convert", net, "--rules", "everywhere", "-o", "out", "-q").code == 0
    assert (tmp_path / "out" / "plan.json").read_text() == snapshot


def test_rules(octify: Octify, snapshot: SnapshotAssertion) -> None:
    assert octify("rules", "list").out == snapshot
