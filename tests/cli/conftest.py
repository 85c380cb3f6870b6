"""The command line in this process: most tests need its answer, few a process of its own (seconds each)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from octify.cli.main import main
from tests.places import ROOT

NET = '''\
import torch
from torch import nn

class Net(nn.Module):
    """Four convolutions on even maps; the middle ones can be octave under every rule set."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.conv1 = nn.Conv2d(32, 64, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = nn.Conv2d(64, 64, 3, padding=1)
        self.conv3 = nn.Conv2d(64, 32, 3, padding=1)
        self.fc = nn.Linear(32, 10)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.conv2(x))
        x = torch.relu(self.conv3(x))
        return self.fc(x.mean((2, 3)))

model = Net()
example_inputs = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
'''


@dataclass(frozen=True)
class Outcome:
    """How a run of the command line ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as one JSON document; fails where there is more or less than one."""
        return json.loads(self.out)


Octify = Callable[..., Outcome]


@pytest.fixture
def octify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Octify:
    """Run the command line in ``tmp_path``, in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)

    def run(*arguments: str | Path) -> Outcome:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start ``python ARGS...`` in ``tmp_path``, on this checkout and with a plain environment."""

    def start(*arguments: str, env: dict[str, str] | None = None, **options: Any) -> subprocess.Popen[str]:
        kept = ("PATH", "HOME", "TMPDIR", "SYSTEMROOT", "OMP_NUM_THREADS")
        own = {name: os.environ[name] for name in kept if name in os.environ}
        own["PYTHONPATH"] = str(ROOT)
        command = [sys.executable, *arguments]
        return subprocess.Popen(command, cwd=tmp_path, env=own | (env or {}), text=True, **options)

    return start


Signalled = Callable[..., tuple[int, str, str]]


@pytest.fixture
def signalled(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> Signalled:
    """Run ``octify ARGS...``, send it a signal once it is in the middle; exit status, stdout and stderr.

    ``once`` is the file that it has made by then, or says whether it is there; ``begin`` and ``end`` are the
    seconds that it may take until then, and from there on; ``env`` is added to its environment.
    """

    def run(
        number: signal.Signals,
        *arguments: str,
        once: str | Callable[[], bool],
        begin: float = 60,
        end: float = 30,
        env: dict[str, str] | None = None,
    ) -> tuple[int, str, str]:
        reached = (tmp_path / once).exists if isinstance(once, str) else once
        process = start(
            *("-m", "octify", *arguments),
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # A test run in the background of a shell ignores SIGINT, and would hand that down.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        try:
            deadline = time.monotonic() + begin
            while not reached():
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.02)
            process.send_signal(number)
            out, err = process.communicate(timeout=end)
        finally:
            process.kill()
            process.wait()
        return process.returncode, out, err

    return run


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """A small convertible model, ``tmp_path/net.py``."""
    path = tmp_path / "net.py"
    path.write_text(NET)
    return path


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """The same model with 8 channels a layer, for tests of many conversions."""
    path = tmp_path / "net.py"
    layers, rest = NET.split("self.fc")[0], NET.split("self.fc", 1)[1]
    path.write_text(
        layers.replace("32", "8").replace("64", "8") + "self.fc" + rest.replace("Linear(32", "Linear(8")
    )
    return path


@pytest.fixture
def listing(tmp_path: Path) -> Callable[[], set[str]]:
    """The files and folders under ``tmp_path``, without Python's caches."""

    def listing() -> set[str]:
        found = {entry.relative_to(tmp_path) for entry in tmp_path.rglob("*")}
        return {str(entry).replace(os.sep, "/") for entry in found if "__pycache__" not in entry.parts}

    return listing


@pytest.fixture
def refused(octify: Octify) -> Callable[..., str]:
    """Run the command line, which must refuse: exit code 2, one screen on stderr, no traceback, no data."""

    def refused(*arguments: str | Path) -> str:
        outcome = octify(*arguments)
        assert outcome.code == 2, outcome
        assert outcome.out == ""
        assert "Traceback" not in outcome.err
        assert outcome.err.startswith("error: ")
        assert len(outcome.err.splitlines()) <= 24
        return outcome.err

    return refused


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Instead of exporting, which takes seconds, run the model and note the shape of its input."""
    import torch

    from octify.export import ExportResult

    shapes: list[tuple[int, ...]] = []

    def export_onnx(model: Any, inputs: Any, path: Path, **options: Any) -> Any:
        with torch.no_grad():
            model(*inputs)
        path.write_bytes(b"a graph")
        shapes.append(tuple(inputs[0].shape))
        return ExportResult(path, 0.0, 0.0, 1e-6, True, (1, 2), 1000, 20, {"Conv": 4})

    monkeypatch.setattr("octify.export.export_onnx", export_onnx)
    return shapes


@pytest.fixture
def wrong_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let onnxruntime's every answer be off by .5."""
    import onnxruntime

    real = onnxruntime.InferenceSession.run

    def run(*args: Any, **kwargs: Any) -> Any:
        return [answer + 0.5 for answer in real(*args, **kwargs)]

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", run)
