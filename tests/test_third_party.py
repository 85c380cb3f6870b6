"""An operation of somebody else's package, registered through the entry point ``octify.ops``, is used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.places import ROOT

PACKAGE = """\
import torch

from octify.ops import Op, operand


def layout(walk, node):
    return walk.ids(operand(node))


def emit(emitter, node):
    return emitter.per_branch(node, operand(node))


OPS = (Op("entropy", layout, emit, functions=(torch.special.entr,)),)
"""

SCRIPT = """\
import json
import torch
from torch import nn
import octify


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x):
        return self.second(torch.special.entr(self.first(x).sigmoid())).mean((2, 3))


torch.manual_seed(0)
net = Net().double().eval()
x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
result = octify.convert(net, x, rules="everywhere", kernels="exact")
error = (result.model(x) - octify.reference(net, result.plan, x)(x)).abs().max().item()
merges = [b.after for b in result.report.boundaries if b.kind == "merge"]
print(json.dumps({"merges": merges, "error": error}))
"""


@pytest.mark.parametrize("installed", [True, False])
def test_an_installed_package_adds_an_operation(tmp_path: Path, installed: bool) -> None:
    (tmp_path / "entropy_ops.py").write_text(PACKAGE)
    info = tmp_path / "entropy_ops-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: entropy-ops\nVersion: 1.0\n")
    entry = "[octify.ops]\nentropy = entropy_ops:OPS\n" if installed else ""
    (info / "entry_points.txt").write_text(entry)
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=env, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    found = json.loads(run.stdout)
    assert found["error"] < 1e-12
    assert bool(found["merges"]) is not installed, found
