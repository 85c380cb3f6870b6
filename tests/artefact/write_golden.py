"""Writes the golden folder of the present format: ``python -m tests.artefact.write_golden FOLDER``.

For a new format version only. Folders that are there stay as they are: they must load for ever.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

import octify
from tests.artefact.golden_net import GoldenNet, golden_input


def main() -> None:
    """Convert and calibrate the network, and keep its answers beside it."""
    folder = Path(sys.argv[1])
    torch.manual_seed(0)
    net = GoldenNet().eval()
    calibration = [torch.randn(8, 3, 16, 16) for _ in range(4)]
    result = octify.convert(
        net, golden_input(), 0.5, rules="everywhere", calibration=calibration, effort="fast"
    )
    result.save(folder)
    with torch.no_grad():
        save_file({"answer": result.model(golden_input())}, folder / "answer.safetensors")


if __name__ == "__main__":
    main()
