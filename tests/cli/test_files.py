"""``octify.files``: the result, or what was there before; nothing in between."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from octify import files
from octify.errors import OctifyError

Listing = Callable[[], set[str]]


def test_a_file_appears_only_when_its_block_ends(tmp_path: Path, listing: Listing) -> None:
    path = tmp_path / "a" / "x.onnx"
    with files.staged_file(path) as staged:
        assert staged.name == "x.onnx"
        staged.write_text("graph")
        staged.with_name("x.onnx.data").write_text("weights")
        assert not path.exists()
    assert listing() == {"a", "a/x.onnx", "a/x.onnx.data"}
    assert path.read_text() == "graph"


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_everything_as_it_was(
    tmp_path: Path, listing: Listing, failure: type[BaseException]
) -> None:
    (tmp_path / "x").write_text("old")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "one").write_text("old")
    before = listing()
    with pytest.raises(failure), files.staged_file(tmp_path / "x") as staged:
        staged.write_text("new")
        raise failure
    with pytest.raises(failure), files.staged_directory(tmp_path / "d") as folder:
        (folder / "one").write_text("new")
        raise failure
    with pytest.raises(failure), files.staged_directory(tmp_path / "fresh" / "d") as folder:
        (folder / "one").write_text("new")
        raise failure
    assert listing() == before
    assert (tmp_path / "x").read_text() == (tmp_path / "d" / "one").read_text() == "old"


def test_a_folder_is_created_or_filled(tmp_path: Path, listing: Listing) -> None:
    for text in ("first", "second"):
        with files.staged_directory(tmp_path / "a" / "d") as folder:
            (folder / "one").write_text(text)
            assert not (tmp_path / "a" / "d" / "one").exists() or text == "second"
        if text == "first":
            (tmp_path / "a" / "d" / "other").write_text("kept")
    assert listing() == {"a", "a/d", "a/d/one", "a/d/other"}
    assert (tmp_path / "a" / "d" / "one").read_text() == "second"


def test_results_have_ordinary_permissions(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with files.staged_directory(tmp_path / "d"):
            pass
        assert (tmp_path / "d").stat().st_mode & 0o777 == 0o755
    finally:
        os.umask(before)


@pytest.mark.parametrize("name", ["file/x", "file/deep/x", "link/x"])
def test_what_cannot_be_written_is_told_and_nothing_is_created(
    tmp_path: Path, listing: Listing, name: str
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("nowhere")
    before = listing()
    for attempt in (files.check_file, files.check_directory):
        with pytest.raises(OctifyError, match="cannot write"):
            attempt(tmp_path / name)
    with pytest.raises(OctifyError, match="cannot write"), files.staged_file(tmp_path / name):
        pytest.fail("there is no place to write to")
    assert listing() == before


def test_what_can_be_written_passes_and_leaves_no_trace(tmp_path: Path, listing: Listing) -> None:
    (tmp_path / "there").mkdir()
    before = listing()
    for name in ("x", "there/x", "new/folders/x"):
        files.check_file(tmp_path / name)
        files.check_directory(tmp_path / name)
    files.check_directory(tmp_path / "there")
    assert listing() == before
    with pytest.raises(OctifyError, match="cannot write"):
        files.check_file(tmp_path / "there")


def test_errors_about_other_files_keep_their_story(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), files.staged_file(tmp_path / "x"):
        (tmp_path / "something-else").read_text()


def test_ctrl_c_between_renames_takes_effect_after_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.replace

    def replace(self: Path, target: Path) -> Path:
        os.kill(os.getpid(), signal.SIGINT)
        return real(self, target)

    (tmp_path / "d").mkdir()
    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(KeyboardInterrupt), files.staged_directory(tmp_path / "d") as folder:
        for name in "abc":
            (folder / name).write_text(name)
    assert {entry.name for entry in (tmp_path / "d").iterdir()} == set("abc")
