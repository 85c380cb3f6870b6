"""Staging folders of killed runs go with the next run; those of running ones, and all else, stay."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from octify.files import check_file, staged_directory, staged_file, write_text

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="nothing locks a folder there")

_KILLED = """
import os, signal, sys
from pathlib import Path
from octify.files import staged_directory, staged_file
with {stage}(Path(sys.argv[1])) as staged:
    (staged / "weights" if staged.is_dir() else staged).write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def partial(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir() if each.name.endswith(".partial"))


@pytest.mark.parametrize("stage", ["staged_file", "staged_directory"])
def test_a_killed_runs_folder_is_removed_by_the_next(stage: str, tmp_path: Path) -> None:
    target = tmp_path / "out[1]"  # a name that means something to glob
    subprocess.run([sys.executable, "-c", _KILLED.format(stage=stage), str(target)], check=False)
    assert len(partial(tmp_path)) == 1 and not target.exists()
    if stage == "staged_file":
        write_text(target, "whole")
        assert target.read_text() == "whole"
    else:
        with staged_directory(target) as folder:
            (folder / "weights").write_text("whole")
        assert (target / "weights").read_text() == "whole"
    assert partial(tmp_path) == []


def test_running_ones_stay(tmp_path: Path) -> None:
    target = tmp_path / "x.onnx"
    with staged_file(target) as first:
        first.write_text("first")
        check_file(target)
        write_text(target, "second")
        assert first.read_text() == "first" and len(partial(tmp_path)) == 1
    assert target.read_text() == "first" and partial(tmp_path) == []


def test_nothing_else_is_touched(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("kept")
    (tmp_path / ".x.onnx.notes.partial").mkdir()
    (tmp_path / ".y.onnx.0123abcd.partial").mkdir()
    (tmp_path / ".x.onnx.01234567.partial").write_text("a file")
    (tmp_path / ".x.onnx.89abcdef.partial").symlink_to(tmp_path / "mine")
    before = sorted(tmp_path.rglob("*"))
    write_text(tmp_path / "x.onnx", "new")
    assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / "x.onnx"])
    assert (tmp_path / "mine" / "file").read_text() == "kept"
