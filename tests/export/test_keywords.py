"""Modules whose names are keywords of Python: ``nn.ModuleDict({"class": head})``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import octify
from octify.errors import ExportError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.heads = nn.ModuleDict({"class": nn.Conv2d(8, 8, 3, padding=1), "in": nn.Conv2d(8, 4, 1)})

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.heads["in"](self.heads["class"](self.a(x)).relu())
        return y


@pytest.mark.parametrize("alpha", [None, 0.5])
def test_onnx_files_have_no_such_names(alpha: float | None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Net().eval(), torch.randn(1, 3, 16, 16)
    if alpha is not None:
        model = octify.convert(model, x, alpha, rules="everywhere").model  # type: ignore[assignment]
    assert octify.export_onnx(model, x, tmp_path / "x.onnx").passed


def test_programs_name_the_module_that_they_cannot_hold(tmp_path: Path) -> None:
    result = octify.convert(Net().eval(), torch.randn(1, 3, 16, 16), rules="everywhere")
    with pytest.raises(ExportError, match="keyword") as error:
        octify.export_program(result.model, torch.randn(1, 3, 16, 16), tmp_path / "x.pt2")
    assert "heads.class" in str(error.value)
    assert not list(tmp_path.iterdir())
