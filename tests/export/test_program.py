"""PyTorch programs: they run where there is no octify, at any batch size, and answer as the model does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import octify
from octify.compare import rounding as parity
from octify.errors import CheckFailed, ExportError
from tests.oracle import randomised

# Run alone in an empty folder; whatever imports octify there fails.
STRANGER = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "octify":
            raise ImportError("octify is not here")
sys.meta_path.insert(0, Refuse())
import torch
program = torch.export.load(sys.argv[1]).module()
torch.save(program(torch.load(sys.argv[2], weights_only=True)), sys.argv[3])
assert not any(name.partition(".")[0] == "octify" for name in sys.modules)
"""


class Net(nn.Module):
    """A residual network with a dense stem: a split, octave convolutions of both kinds, a merge."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.conv1, self.conv2 = nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 32, 1)
        self.fc = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        return self.fc(F.relu(x + self.conv2(F.relu(self.conv1(x)))).mean((2, 3)))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return octify.convert(randomised(Net()).float(), torch.randn(1, 3, 32, 32), 0.5).model


def test_a_program_needs_no_octify(model: nn.Module, tmp_path: Path) -> None:
    file = tmp_path / "net.pt2"
    torch.manual_seed(1)
    result = octify.export_program(model, torch.randn(1, 3, 32, 32), file)
    assert result.passed
    assert result.path == file
    assert result.batch_sizes == (1, 2)
    assert result.bytes == file.stat().st_size
    x = torch.randn(5, 3, 32, 32)
    torch.save(x, tmp_path / "x.pt")
    paths = [str(file), str(tmp_path / "x.pt"), str(tmp_path / "y.pt")]
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, *paths], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answer = torch.load(tmp_path / "y.pt", weights_only=True)
    (expected,) = parity.float32_noise(model, [((x,), parity.run(model, (x,)))])
    compared = parity.compare(expected, [answer])
    assert compared.passed, compared
    # And the comparison can fail: noise is far below what another input does to the answer.
    assert not parity.compare(expected, [answer + 100 * compared.tolerance]).passed


def test_no_file_unless_it_agrees(model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoilt(program: nn.Module, inputs: Any) -> list[Tensor]:
        with torch.no_grad():
            return [model(*inputs) * 1.01]

    monkeypatch.setattr("octify.export.program._tensors", spoilt)
    with pytest.raises(CheckFailed, match="does not compute what the model computes") as caught:
        octify.export_program(model, torch.randn(1, 3, 32, 32), tmp_path / "net.pt2", dynamic_batch=False)
    assert "torch.export" in (caught.value.why or "")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_captured(tmp_path: Path) -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1 if x.sum() > 0 else x

    with pytest.raises(ExportError, match="cannot capture"):
        octify.export_program(Branching(), torch.ones(2, 3), tmp_path / "net.pt2", dynamic_batch=False)
    assert list(tmp_path.iterdir()) == []
