"""Ctrl-C and SIGTERM: the right exit code, and nothing half written."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from tests.cli.conftest import Signalled

SLOW = """\
import pathlib, time
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 32, 3, padding=1)

    def forward(self, x):
        pathlib.Path("started").touch()
        for _ in range(600):
            time.sleep(0.1)
        return self.conv2(self.conv1(x))

model = Net()
example_inputs = torch.zeros(1, 3, 32, 32)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_the_middle_of_a_conversion(
    signalled: Signalled,
    tmp_path: Path,
    listing: Callable[[], set[str]],
    number: signal.Signals,
    code: int,
) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    command = ("convert", "slow.py", "-o", "out", "--onnx", "x.onnx")
    returncode, out, err = signalled(number, *command, once="started")
    assert returncode == code, err
    assert out == ""
    assert "Traceback" not in err
    assert listing() == {"slow.py", "started"}


def test_an_interrupt_while_the_folder_is_written(
    octify: Any, net: Path, monkeypatch: pytest.MonkeyPatch, listing: Callable[[], set[str]]
) -> None:
    from octify import api

    real = api.Result.save

    def interrupted(self: Any, folder: Path, *args: Any, **kwargs: Any) -> None:
        real(self, folder, *args, **kwargs)
        assert any(Path(folder).iterdir())
        raise KeyboardInterrupt

    monkeypatch.setattr(api.Result, "save", interrupted)
    outcome = octify("convert", net, "-o", "new/out")
    assert outcome.code == 130
    assert outcome.err.endswith("interrupted; nothing was left half written\n")
    assert listing() == {"net.py"}


def test_an_interrupt_while_an_onnx_file_is_replaced(
    octify: Any, net: Path, monkeypatch: pytest.MonkeyPatch, listing: Callable[[], set[str]]
) -> None:
    net.with_name("x.onnx").write_bytes(b"the old one")

    def interrupted(*args: Any, **kwargs: Any) -> None:
        # The file is written, under its temporary name, and is being compared with PyTorch.
        assert any(".partial" in name and name.endswith("x.onnx") for name in listing())
        raise KeyboardInterrupt

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", interrupted)
    assert octify("convert", net, "--onnx", "x.onnx").code == 130
    assert listing() == {"net.py", "x.onnx"}
    assert net.with_name("x.onnx").read_bytes() == b"the old one"
