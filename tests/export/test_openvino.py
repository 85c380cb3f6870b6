"""OpenVINO IR: compared with the model in OpenVINO, at any batch size, odd maps included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import octify
from octify.compare import rounding as parity
from octify.errors import CheckFailed
from tests.oracle import randomised


class Branches(nn.Module):
    """Odd maps, a residual sum, a depthwise convolution, an upsampled map joined with its skip."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32)
        self.conv = nn.Conv2d(32, 32, 3, padding=1)
        self.down, self.depthwise = (
            nn.Conv2d(32, 32, 3, 2, padding=1),
            nn.Conv2d(32, 32, 3, padding=1, groups=32),
        )
        self.last, self.head = nn.Conv2d(64, 32, 3, padding=1), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.norm(self.stem(x)).relu()
        x = x + self.conv(x).relu()
        y = self.depthwise(self.down(x).relu()).relu()
        y = nn.functional.interpolate(y, scale_factor=2.0)[..., : x.shape[2], : x.shape[3]]
        y = self.last(torch.cat([x, y], 1)).relu()
        return self.head(y.mean((2, 3))), y


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return octify.convert(
        randomised(Branches()).float(), torch.randn(1, 3, 15, 17), 0.5, rules="everywhere"
    ).model


def test_an_ir_answers_as_the_model_at_any_batch_size(model: nn.Module, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    file = tmp_path / "net.xml"
    torch.manual_seed(1)
    result = octify.export_openvino(model, torch.randn(1, 3, 15, 17), file)
    assert result.passed and result.batch_sizes == (1, 2) and result.compared_in == "OpenVINO"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.bin", "net.xml"]
    assert result.bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    x = torch.randn(5, 3, 15, 17)
    (expected,) = parity.float32_noise(model, [((x,), parity.run(model, (x,)))])
    run = openvino.Core().compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    answers = [torch.from_numpy(np.array(value)) for value in run([x.numpy()]).values()]
    assert parity.compare(expected, answers).passed


def test_no_file_unless_it_agrees(model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    from octify.export import openvino

    honest = openvino._answers
    monkeypatch.setattr(
        openvino, "_answers", lambda *args: {n: [y * 1.01 for y in ys] for n, ys in honest(*args).items()}
    )
    with pytest.raises(CheckFailed, match="does not compute what the model computes"):
        octify.export_openvino(model, torch.randn(1, 3, 15, 17), tmp_path / "net.xml", dynamic_batch=False)
    assert list(tmp_path.iterdir()) == []
