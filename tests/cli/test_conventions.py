"""What holds of every command: help, speed, streams, JSON, colours, exit codes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from octify.cli.session import Session
from octify.errors import OctifyError

Start = Callable[..., subprocess.Popen[str]]
COMMANDS = [
    "convert",
    "inspect",
    "export",
    "tune",
    "bench",
    "sweep",
    "sensitivity",
    "verify",
    "report",
    "init",
    "run",
    "rules list",
    "rules show",
    "rules check",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_an_example_in_its_help(octify: Any, command: str) -> None:
    outcome = octify(*command.split(), "--help")
    assert outcome.code == 0
    assert outcome.err == ""
    assert "Example" in outcome.out
    assert f"octify {command}" in outcome.out.partition("Example")[2]
    assert octify(*command.split(), "-h").out == outcome.out


def test_help_warns_that_a_model_file_is_run(octify: Any) -> None:
    commands = ("convert", "inspect", "export", "tune", "bench", "sweep", "sensitivity", "run")
    for arguments in (["--help"], *([name, "--help"] for name in commands)):
        assert "runs its code" in " ".join(octify(*arguments).out.split())


def test_octify_alone_shows_its_help_as_wrong_usage(octify: Any) -> None:
    outcome = octify()
    assert outcome.code == 2
    assert outcome.out == ""
    assert "Commands:" in outcome.err


def test_version(octify: Any) -> None:
    outcome = octify("--version")
    assert outcome.code == 0
    assert re.match(r"octify (\d+\.\d+|\()", outcome.out)


@pytest.mark.parametrize("arguments", ["--help", "convert --help", "rules list", "convert no.py"])
def test_no_torch_is_imported_without_need(start: Start, arguments: str) -> None:
    code = (
        "import sys; from octify.cli.main import main; main(sys.argv[1:]);"
        "sys.exit(' '.join(sorted({'torch', 'numpy', 'onnx'} & set(sys.modules))) or 0)"
    )
    process = start("-c", code, *arguments.split(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, told = process.communicate()
    assert process.returncode == 0, told


def test_help_answers_in_under_300_ms(start: Start) -> None:
    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert start("-m", "octify", "--help", stdout=subprocess.DEVNULL).wait() == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    # Processor time, which is all it takes on an idle machine, and the best of several: other tests may
    # keep this machine busy.
    assert min(seconds() for _ in range(7)) < 0.3


def test_data_on_stdout_and_warnings_on_stderr(octify: Any, net: Path) -> None:
    outcome = octify("convert", net)
    assert outcome.code == 0
    assert "conv2" in outcome.out
    assert "MACs" in outcome.out
    assert "warning:" not in outcome.out
    assert "warning:" in outcome.err
    assert "\x1b" not in outcome.out + outcome.err


def test_quiet_says_nothing_and_verbose_says_the_steps(octify: Any, net: Path) -> None:
    quiet = octify("convert", net, "-q", "-o", "out")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")
    verbose = octify("convert", net, "-v", "-o", "out")
    for step in ("loading", "tracing", "planning", "rewriting", "writing out"):
        assert step in verbose.err
    assert " ms" in verbose.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["convert", "net.py", "-o", "out"],
        ["convert", "net.py", "--dry-run"],
        ["inspect", "net.py"],
        ["rules", "list"],
        ["rules", "show", "default"],
    ],
    ids=" ".join,
)
def test_json_is_one_document(octify: Any, net: Path, arguments: list[str]) -> None:
    # A model file that prints does not spoil it.
    net.write_text(net.read_text() + "\nprint('hello from the model file')\n")
    outcome = octify(*arguments, "--json")
    assert outcome.code == 0, outcome.err
    assert isinstance(outcome.json, dict)
    assert ("hello" in outcome.err) == ("net.py" in arguments)


@pytest.mark.parametrize(
    "arguments", [["convert", "none.py"], ["convert", "net.py", "--alpha", "2"], ["convert", "--nonsense"]]
)
def test_json_of_an_error_is_one_document_too(octify: Any, net: Path, arguments: list[str]) -> None:
    outcome = octify(*arguments, "--json")
    assert outcome.code == 2
    assert outcome.json["error"]["exit_code"] == 2
    assert outcome.json["error"]["what"] in outcome.err


def test_debug_shows_the_traceback(octify: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("raise ValueError('here')\n")
    plain, debug = octify("convert", "bad.py"), octify("convert", "bad.py", "--debug")
    assert plain.code == debug.code == 2
    assert "Traceback" not in plain.err
    assert "Traceback" in debug.err
    assert debug.err.endswith(plain.err)


def test_a_bug_in_octify_is_called_one(octify: Any, net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("octify.api.convert", convert)
    outcome = octify("convert", net)
    assert outcome.code == 70
    assert "bug in octify" in outcome.err
    assert "ZeroDivisionError: oh" in outcome.err
    assert "Traceback" not in outcome.err


def test_numbers_that_json_does_not_know_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    run = Session(sys.stdout, json=True, quiet=False, verbose=False, debug=False)
    run.answer({"a": [float("nan"), 1.5], "b": {"c": float("-inf")}})
    run.answer({"again": 1})
    assert json.loads(capsys.readouterr().out) == {"a": [None, 1.5], "b": {"c": None}}


def test_an_interrupt_swallowed_by_a_bare_except_is_still_one(octify: Any, tmp_path: Path) -> None:
    text = "try:\n    raise KeyboardInterrupt\nexcept:\n    raise RuntimeError('cleanup')\n"
    (tmp_path / "bad.py").write_text(text)
    assert octify("convert", "bad.py").code == 130


def test_an_octify_error_from_the_library_keeps_its_words(
    octify: Any, net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(*args: object, **kwargs: object) -> None:
        raise OctifyError("cannot", where="layer1.0", why="because\nof this", hint="type that")

    monkeypatch.setattr("octify.api.convert", convert)
    lines = octify("convert", net).err.splitlines()
    assert lines == [
        "error: cannot",
        "  where: layer1.0",
        "  why:   because",
        "         of this",
        "  try:   type that",
    ]


@pytest.fixture
def on_a_terminal(start: Start) -> Callable[..., str]:
    """Run the command line on a terminal; what it writes there, of both streams."""

    def run(*arguments: str, env: dict[str, str] | None = None) -> str:
        controller, terminal = pty.openpty()
        env = {"TERM": "xterm-256color"} | (env or {})
        process = start("-m", "octify", *arguments, stdout=terminal, stderr=terminal, env=env)
        os.close(terminal)
        written = b""
        # Linux ends with an error when the last writer has gone, others with an empty read.
        with contextlib.suppress(OSError):
            while chunk := os.read(controller, 65536):
                written += chunk
        os.close(controller)
        process.wait()
        return written.decode()

    return run


def test_a_terminal_gets_colours_unless_no_color(on_a_terminal: Callable[..., str]) -> None:
    assert "\x1b[1;31merror:" in on_a_terminal("convert", "none.py")
    plain = on_a_terminal("convert", "none.py", env={"NO_COLOR": "1"})
    assert "error: no such file" in plain
    assert "\x1b" not in plain


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_only_a_terminal_sees_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    for stream, seen in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        run = Session(io.StringIO(), json=False, quiet=False, verbose=False, debug=False)
        run.progress("tracing")
        run.close()
        assert ("tracing" in stream.getvalue()) == ("\x1b" in stream.getvalue()) == seen


def test_a_closed_pipe_is_no_drama(start: Start) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = ["-m", "octify", "rules", "show", "default"]
    process = start(*command, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    _, told = process.communicate()
    assert process.returncode == 141  # 128 + SIGPIPE, as a shell would report it
    assert told == ""


def test_python_m_octify_is_octify(octify_cli: Callable[..., Any]) -> None:
    run = octify_cli("inspect", "nosuch.py", "--json")
    assert run.returncode == 2
    assert json.loads(run.stdout)["error"]["what"] == "no such file: nosuch.py"
    assert run.stderr.startswith("error: no such file")
