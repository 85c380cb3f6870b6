"""``octify.files``: the result, or what was there before; nothing in between."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from octify import files
from octify.cli.signals import terminate
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


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_signal_between_renames_takes_effect_after_them(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    raised: type[BaseException],
) -> None:
    before = signal.signal(signal.SIGTERM, terminate)
    real = Path.replace

    def replace(self: Path, target: Path) -> Path:
        os.kill(os.getpid(), number)
        return real(self, target)

    (tmp_path / "d").mkdir()
    monkeypatch.setattr(Path, "replace", replace)
    monkeypatch.setattr(
        "octify.storage.swap.replaced", lambda folder, new: False
    )  # as where nothing can be exchanged
    try:
        with pytest.raises(raised), files.staged_directory(tmp_path / "d") as folder:
            for name in "abc":
                (folder / name).write_text(name)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert {entry.name for entry in (tmp_path / "d").iterdir()} == set("abc")


KILLED = """\
import os, shutil, signal, sys
from pathlib import Path
from octify import files
from octify.storage import swap

root, way = Path(sys.argv[1]), sys.argv[2]
if way != "exchange":
    swap._exchanged = lambda a, b: False
if way == "in place":
    swap.replaced = lambda folder, new: False

def run(n):
    count = [0]
    def hook(event, arguments):
        kinds = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "open", "shutil.rmtree",
                 "ctypes.dlsym", "os.listdir", "os.scandir", "os.chmod", "ctypes.call_function")
        if event in kinds:
            count[0] += 1
            if count[0] == n:
                os.kill(os.getpid(), signal.SIGKILL)
    child = os.fork()
    if not child:
        sys.addaudithook(hook)
        with files.staged_directory(root / "d") as folder:
            for name in "abc":
                (folder / name).write_text("new")
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

n = 0
while True:
    n += 1
    shutil.rmtree(root, ignore_errors=True)
    (root / "d" / "sub").mkdir(parents=True)
    for name in ("a", "b", "c", "other", "sub/deep"):
        (root / "d" / name).write_text("old")
    code = run(n)
    if way == "renames":
        files.check_directory(root / "d")
    texts = {(root / "d" / name).read_text() for name in "abc"}
    kept = {(root / "d" / name).read_text() for name in ("other", "sub/deep")}
    print(n, code, len(texts), *sorted(texts), *kept)
    if not code:
        break
"""


@pytest.mark.parametrize("way", ["exchange", "renames"])
def test_killed_at_any_moment_the_folder_is_the_old_or_the_new_one(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path, way: str
) -> None:
    (tmp_path / "killed.py").write_text(KILLED)
    process = start("killed.py", str(tmp_path / "root"), way, stdout=subprocess.PIPE)
    lines = [line.split() for line in process.communicate(timeout=60)[0].splitlines()]
    assert process.returncode == 0
    assert len(lines) > 15
    assert {line[1] for line in lines[:-1]} == {str(-signal.SIGKILL)}
    assert all(line[2] == "1" and line[4] == "old" for line in lines), lines
    assert [line[3] for line in lines] == sorted((line[3] for line in lines), reverse=True)  # old, then new
    assert lines[0][3] == "old" and lines[-1][3] == "new"


def test_what_nobody_asked_for_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "d").mkdir()
    os.mkfifo(tmp_path / "d" / "one")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with pytest.raises(OctifyError, match="cannot write"):
            files.check_file(tmp_path / name)
        with pytest.raises(OctifyError, match="cannot write"):
            files.write_text(tmp_path / name, "new")
        with pytest.raises(OctifyError, match="cannot write"), files.staged_directory(tmp_path / name):
            pytest.fail("a pipe is no folder")
    with pytest.raises(OctifyError, match="it is a pipe"):
        files.check_directory(tmp_path / "d", ("one",))
    with pytest.raises(OctifyError, match="it is a pipe"), files.staged_directory(tmp_path / "d") as folder:
        (folder / "one").write_text("new")
    assert (tmp_path / "pipe").is_fifo() and (tmp_path / "d" / "one").is_fifo()


def test_what_a_folder_holds_besides_is_kept_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "sub" / "deep" / "x").write_text("mine")
    (folder / "link").symlink_to("sub")
    (folder / "gone").symlink_to("nowhere")
    (folder / "tool").write_text("run me")
    (folder / "tool").chmod(0o750)
    folder.chmod(0o710)
    (tmp_path / "name").symlink_to("d")
    with files.staged_directory(tmp_path / "name") as staged:
        (staged / "plan").write_text("new")
    assert (tmp_path / "name").is_symlink()
    assert folder.stat().st_mode & 0o777 == 0o710
    assert (folder / "sub" / "deep" / "x").read_text() == "mine"
    assert str((folder / "link").readlink()) == "sub" and str((folder / "gone").readlink()) == "nowhere"
    assert (folder / "tool").stat().st_mode & 0o777 == 0o750
    assert (folder / "plan").read_text() == "new"
    assert {entry.name for entry in tmp_path.iterdir()} == {"d", "name"}


def test_the_folder_that_somebody_stands_in_stays_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = tmp_path.stat().st_ino
    with files.staged_directory(Path()) as staged:
        (staged / "plan").write_text("new")
    assert tmp_path.stat().st_ino == before
    assert {entry.name for entry in Path.cwd().iterdir()} == {"plan"}
