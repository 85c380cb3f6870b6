"""A folder of every format version loads, and answers as it did when it was written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import octify
from octify.artefact.stored import StoredConversion, read_stored
from octify.plan import FORMAT
from tests.artefact.golden_net import GoldenNet, golden_input

GOLDEN = Path(__file__).parent / "golden"
FOLDERS = sorted(GOLDEN.iterdir())


def test_every_format_has_a_golden_folder() -> None:
    assert {folder.name for folder in FOLDERS} >= {f"format-{n}" for n in range(1, FORMAT + 1)}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_golden_folder_answers_as_it_did(folder: Path) -> None:
    model = octify.load(folder, GoldenNet())
    with torch.no_grad():
        answer = model.eval()(golden_input())
        wide = model.double()(golden_input().double())
    want = load_file(folder / "answer.safetensors")["answer"]
    # Other builds of torch sum in another order: a few times what float32 itself loses.
    noise = float((answer.double() - wide).abs().max())
    assert float((answer - want).abs().max()) <= max(16 * noise, 1e-6 * float(want.abs().max()))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_golden_report_is_read(folder: Path) -> None:
    stored = read_stored(folder)
    assert isinstance(stored, StoredConversion)
    assert stored.report.calibration is not None
    assert stored.report.totals.macs_after < stored.report.totals.macs_before
    assert stored.report.to_html()
