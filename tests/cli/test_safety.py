"""Nothing of the user's is lost, run or waited for: hostile paths, files and names."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from octify.checks.printable import printable
from octify.cli.grouping import grouped
from octify.data import folder
from octify.data.format import ImageFormat
from tests.cli.conftest import NET, Octify

Refused = Callable[..., str]
Start = Callable[..., subprocess.Popen[str]]
FAST = ("--calib-effort", "norm")


@pytest.fixture
def project(net: Path, octify: Octify) -> Path:
    """A folder with a model, helpers of it, weights, data, rules and an artefact; ``pipe`` is a FIFO."""
    here = net.parent
    (here / "helper.py").write_text("# the user's\n")
    (here / "mine.toml").write_text('name = "mine"\n')
    np.save(here / "x.npy", np.random.default_rng(0).normal(size=(8, 3, 32, 32)).astype(np.float32))
    (here / "images").mkdir()
    for number in range(2):
        Image.new("RGB", (40, 40), (number, 9, 200)).save(here / "images" / f"{number}.png")
    assert octify("convert", net, "--rules", "everywhere", "-o", "out", "-q").code == 0
    (here / "w.safetensors").write_bytes((here / "out/weights.safetensors").read_bytes())
    os.mkfifo(here / "pipe")
    return here


def contents(here: Path) -> dict[str, bytes | int]:
    """Every file's bytes, and the kind of what is no file."""
    entries = [entry for entry in sorted(here.rglob("*")) if "__pycache__" not in entry.parts]
    return {
        str(entry): entry.read_bytes() if entry.is_file() else stat.S_IFMT(entry.lstat().st_mode)
        for entry in entries
    }


OUTPUTS = [
    ("convert", "net.py", "--html", "{}"),
    ("convert", "net.py", "--onnx", "{}"),
    ("convert", "net.py", "-o", "out", "--html", "{}"),
    ("export", "out", "{}"),
    ("export", "net.py", "{}"),
    ("report", "out", "--html", "{}"),
    ("sweep", "net.py", "--alpha", "0.5", "--html", "{}"),
]


@pytest.mark.parametrize("command", OUTPUTS, ids=" ".join)
def test_what_a_run_reads_and_what_is_no_file_is_not_overwritten(
    project: Path, refused: Refused, command: tuple[str, ...]
) -> None:
    (project / "link.py").symlink_to("net.py")
    (project / "link").symlink_to("pipe")
    before = contents(project)
    places = ("net.py", "helper.py", "out/weights.safetensors", "out/plan.json", "out/report.json", "x.npy")
    for place in (*places, "mine.toml", "link.py", "pipe", "link", "images"):
        told = refused(*(part.format(place) for part in command))
        assert "would overwrite" in told or "cannot write" in told or "same file" in told, told
        assert contents(project) == before


@pytest.mark.parametrize(
    "command",
    [
        ("convert", "net.py", "--calib", "images", "--onnx", "images/0.png"),
        ("convert", "net.py", "--weights", "taken/weights.safetensors", "-o", "taken"),
        ("convert", "net.py", "--plan", "taken/plan.json", "-o", "taken"),
        ("convert", "net.py", "--rules", "rules.html", "--html", "rules.html"),
        ("convert", "net.py", "-o", "new", "--onnx", "new/plan.json"),
        ("convert", "net.py", "--onnx", "a", "--html", "a"),
        ("convert", "net.py", "-o", "pipe"),
        ("sweep", "net.py", "-o", "pipe"),
        ("sweep", "net.py", "--plot", "images/0.png", "--calib", "images"),
        ("tune", "out", "--data", "x.npy", "--steps", "1", "-o", "pipe"),
        ("tune", "out", "--data", "taken/weights.safetensors", "--steps", "1", "-o", "taken"),
    ],
    ids=" ".join,
)
def test_outputs_that_are_inputs_by_another_name(
    project: Path, refused: Refused, command: tuple[str, ...]
) -> None:
    (project / "rules.html").write_text('name = "x"\n')
    (project / "taken").mkdir()
    (project / "taken" / "plan.json").write_bytes((project / "out/plan.json").read_bytes())
    (project / "taken" / "weights.safetensors").write_bytes((project / "w.safetensors").read_bytes())
    before = contents(project)
    refused(*command)
    assert contents(project) == before


def test_force_overwrites_a_file_but_never_a_pipe(project: Path, octify: Octify, refused: Refused) -> None:
    assert octify("report", "out", "--html", "helper.py", "--force").code == 0
    assert (project / "helper.py").read_text().startswith("<!")
    for command in (
        ("report", "out", "--html", "pipe"),
        ("export", "out", "pipe"),
        ("convert", "net.py", "-o", "pipe"),
    ):
        assert "cannot write pipe" in refused(*command, "--force")
    assert (project / "pipe").is_fifo()


@pytest.mark.parametrize(
    "command",
    [
        ("convert", "net.py", "--dry-run", "--rules", "./pipe"),
        ("rules", "check", "pipe"),
        ("convert", "net.py", "--dry-run", "--plan", "pipe"),
        ("convert", "net.py", "--dry-run", "--weights", "pipe"),
        ("convert", "net.py", "--dry-run", "--calib", "pipe"),
        ("convert", "net.py", "--dry-run", "--calib", "pipe.py:x"),
        ("convert", "pipe.py"),
        ("tune", "out", "--data", "pipe", "--steps", "1"),
        ("bench", "pipe.onnx"),
    ],
    ids=" ".join,
)
def test_a_pipe_is_not_waited_for(project: Path, refused: Refused, command: tuple[str, ...]) -> None:
    for name in ("pipe.py", "pipe.onnx"):
        os.mkfifo(project / name)
    refused(*command)


def test_a_folder_of_other_things_is_not_walked_for_ever(
    project: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "MOST_OTHERS", 10)
    for number in range(20):
        (project / "images" / f"{number}.txt").write_text("")
    assert "images is not a folder of images" in refused(
        "convert", "net.py", "--dry-run", "--calib", "images"
    )


def test_no_image_starts_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow hands EPS to whatever is called gs."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    (tools / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (8, 8)).save(images / "a.eps")
    for suffix in folder.SUFFIXES:
        (images / "a.eps").with_suffix(suffix).write_bytes((images / "a.eps").read_bytes())
    Image.new("RGB", (8, 8)).save(images / "good.png")
    form = ImageFormat(3, 8, (8, 8), (0.0,) * 3, (1.0,) * 3, False)
    data = folder.images(images, form)
    assert len(list(data.inputs)) == 1
    assert len(data.skipped) == len(folder.SUFFIXES)
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("suffix", ["bmp", "gif", "jpg", "png", "ppm", "tif", "webp"])
def test_the_usual_formats_are_read_and_may_be_blue_first(tmp_path: Path, suffix: str) -> None:
    Image.new("RGB", (8, 8), (250, 128, 10)).save(tmp_path / f"a.{suffix}")
    form = ImageFormat(3, 8, (8, 8), (0.0,) * 3, (1.0,) * 3, False)
    (rgb,) = folder.images(tmp_path, form).inputs
    (bgr,) = folder.images(
        tmp_path, ImageFormat(3, 8, (8, 8), (0.0,) * 3, (1.0,) * 3, False, bgr=True)
    ).inputs
    assert rgb[0].mean() > 0.9 and rgb[2].mean() < 0.1
    assert torch.equal(bgr, rgb.flip(0))


ODD_NAMES = NET.replace(
    "self.conv3 = ", "self.add_module('[/red]\\x1b[31m', nn.Identity())\n        self.conv3 = "
).replace("self.fc(x.mean((2, 3)))", "self.fc(getattr(self, '[/red]\\x1b[31m')(x).mean((2, 3)))")


def test_names_neither_steer_the_terminal_nor_are_markup(octify: Octify, tmp_path: Path) -> None:
    place = tmp_path / "evil\x1b]0;title\x07"
    place.mkdir()
    (place / "net.py").write_text(ODD_NAMES)
    for command in (("inspect", "--rules", "everywhere"), ("convert", "-v", "-o", place / "out")):
        outcome = octify(command[0], place / "net.py", *command[1:])
        assert outcome.code == 0, outcome.err
        assert "\x1b" not in outcome.out + outcome.err and "\x07" not in outcome.out + outcome.err
    for command in (("convert", place / "gone.py"), ("export", place, "x.onnx"), ("report", place)):
        outcome = octify(*command)
        assert outcome.code == 2
        assert "\x1b" not in outcome.err and "\\x1b]0;title\\x07" in outcome.err


ODD_CLASSES = """
import torch
from torch import nn

class Asks(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x):
        return self.conv(x) if float(x.abs().mean()) < 1e9 else x

class Fails(nn.Module):
    def forward(self, x):
        raise ValueError("no \\x1b[31mred\\x9b2J of \\x07 this [/bold]")

for kind in (Asks, Fails):
    kind.__name__ = kind.__qualname__ = "Evil\\x1b]0;title\\x07[/red]\\x9b"

def asks():
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), Asks(), nn.Conv2d(16, 16, 3, padding=1))

def fails():
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), Fails())

def itself():
    return Fails()
"""


@pytest.mark.parametrize("name", ["asks", "fails", "itself"])
def test_names_of_classes_and_what_they_raise_do_not_steer_the_terminal(
    octify: Octify, tmp_path: Path, name: str
) -> None:
    (tmp_path / "net.py").write_text(ODD_CLASSES)
    for command in (("inspect",), ("convert", "-o", tmp_path / "out")):
        outcome = octify(
            command[0], f"{tmp_path / 'net.py'}:{name}", "--input", "1x3x16x16", "-v", *command[1:]
        )
        assert outcome.code == (0 if name == "asks" else 2), outcome.err
        assert not set("\x1b\x07\x9b") & set(outcome.out + outcome.err)
        assert "Evil\\x1b" in outcome.out + outcome.err


def test_printable_text_is_what_a_terminal_shows() -> None:
    assert printable("plain ünïcode\n\ttext 漢") == "plain ünïcode\n\ttext 漢"
    assert printable("a\x1b[2J\r\x9b\u202eb\udce9") == "a\\x1b[2J\\x0d\\x9b\\u202eb\\xe9"


@pytest.mark.parametrize(
    "arguments",
    [
        ("convert", "a" * 5000 + ".py"),
        ("convert", "net.py", "-o", "x" * 300),
        ("convert", "net.py", "--onnx", "y/" * 3000 + "z.onnx"),
        ("convert", "net.py", "--calib", "x" * 300),
        ("convert", "net.py", "--weights", "x" * 300),
        ("convert", "net.py", "--rules", "x" * 300 + ".toml"),
        ("convert", "net.py", "--plan", "x" * 300),
        ("export", "x" * 300, "x.onnx"),
        ("report", "x" * 300),
        ("tune", "x" * 300, "--data", "x.npy", "--steps", "1"),
        ("convert", "net\udce9.py"),
        ("convert", "net.py", "-o", "out\udce9"),
        ("convert", "net.py", "--input", f"1x3x{10**30}x4"),
        ("convert", "net.py", "--input", "1x3x" + "9" * 5000 + "x4"),
        ("convert", "net.py", "--input", f"{2**62}x3x8x8"),
        ("bench", "net.py", "--batch", f"{10**30}"),
        ("bench", "net.py", "--batch", f"{2**63 - 1}"),
        ("convert", "net.py", "--seed", f"{10**30}"),
        ("convert", "net.py", "--calib", "x.npy", "--crop", f"{10**30}"),
        ("tune", "out", "--data", "x.npy", "--steps", f"{10**400}"),
        ("convert", "net.py", "--plan", "deep.json"),
        ("convert", "net.py", "--rules", "deep.toml"),
        ("convert", "net.py", "--rules", "long.toml"),
        ("rules", "check", "digits.toml"),
        ("report", "deep"),
        ("export", "deep", "x.onnx"),
    ],
    ids=lambda arguments: " ".join(arguments)[:40].encode("ascii", "replace").decode(),
)
def test_no_size_and_no_depth_is_a_bug(
    net: Path, refused: Refused, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    (tmp_path / "deep.json").write_text(deep)
    (tmp_path / "deep.toml").write_text(f"name = {deep}\n")
    (tmp_path / "long.toml").write_text('name = "x"\n[settings]\nround_to = ' + "9" * 5000 + "\n")
    digits = '[[rule]]\nmatch.kernel = ">=' + "9" * 5000 + '"\n'
    (tmp_path / "digits.toml").write_text(f'name = "x"\n{digits}')
    (tmp_path / "deep").mkdir()
    for name in ("plan.json", "report.json", "source.json"):
        (tmp_path / "deep" / name).write_text(deep)
    np.save(tmp_path / "x.npy", np.zeros((4, 3, 32, 32), np.float32))
    refused(*arguments)


ENDS = ["sys.exit(0)", "raise SystemExit", "raise KeyboardInterrupt", "raise BaseException('x')", "raise Own"]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("place", ["file", "forward"])
def test_code_that_ends_the_program_is_told(start: Start, tmp_path: Path, end: str, place: str) -> None:
    head = "import sys\nclass Own(BaseException): pass\n"
    if place == "file":
        (tmp_path / "net.py").write_text(f"{head}{end}\n")
    else:
        (tmp_path / "net.py").write_text(head + NET.replace("x = torch.relu(self.stem(x))", end))
    process = start("-m", "octify", "inspect", "net.py", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2, err
    assert out == "" and err.startswith("error: ") and "net.py:" in err and "Traceback" not in err


@pytest.mark.parametrize(
    "arguments", ["rules list", "rules show default --json", "--help", "rules show gone --json"]
)
def test_a_full_standard_output_is_told(start: Start, arguments: str) -> None:
    with Path("/dev/full").open("w") as full:
        process = start("-m", "octify", *arguments.split(), stdout=full, stderr=subprocess.PIPE)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 2, err
    assert err.startswith("error: ") and "Traceback" not in err and "Exception ignored" not in err


@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)])
def test_closed_streams_are_no_error(start: Start, net: Path, closed: tuple[int, ...]) -> None:
    process = start(
        *("-m", "octify", "convert", str(net), "--rules", "everywhere", "-o", "out"),
        preexec_fn=lambda: [os.close(number) for number in closed] and None,
    )
    assert process.wait(timeout=60) == 0
    assert (net.parent / "out" / "plan.json").read_text().startswith("{")


def test_a_request_to_end_while_the_models_file_runs(signalled: Any, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "import pathlib, time\npathlib.Path('started').touch()\ntime.sleep(60)\n"
    )
    code, _, err = signalled(signal.SIGTERM, "inspect", "net.py", once="started")
    assert code == 128 + signal.SIGTERM, err


@pytest.mark.parametrize(("number", "ends"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_what_fails_behind_a_swallowed_signal(
    signalled: Any, tmp_path: Path, number: signal.Signals, ends: int
) -> None:
    """Code that catches everything goes on half done: its error is the signal's doing, and no bug."""
    (tmp_path / "net.py").write_text(
        "import pathlib, time\ntry:\n    pathlib.Path('started').touch()\n    time.sleep(60)\n"
        "except BaseException:\n    pass\nraise AttributeError('half imported')\n"
    )
    code, _, err = signalled(number, "inspect", "net.py", once="started")
    assert code == ends and "error" not in err, err


def test_warnings_of_one_kind_are_counted() -> None:
    messages = [f"layer{n}.conv: the size {n} is odd" for n in range(18)]
    assert grouped(["first", *messages, "last"]) == [
        "first",
        "layer0.conv: the size 0 is odd (and 17 more of this kind)",
        "last",
    ]
    assert grouped(messages[:2]) == messages[:2]
