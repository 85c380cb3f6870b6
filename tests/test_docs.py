"""Every Python snippet of the README and of docs/ runs, and every rule file in them is valid."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from octify.planning.ruleset import load_rules
from tests.places import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        found = re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
        if found:
            yield page, "\n".join(found)


class Net(nn.Module):
    """What the pages call ``model``."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU())
        self.last = nn.Conv2d(64, 64, 3, padding=1)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(self.body(self.stem(x))).relu().mean((2, 3)))


@pytest.mark.usefixtures("short_calibration")
@pytest.mark.parametrize(
    ("page", "code"), list(blocks("python")), ids=lambda value: getattr(value, "name", "")
)
def test_snippets_run(page: Path, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = Net().eval()
    # The README speaks of 224x224 images; 32x32 are the same to every call, and take no time.
    code = code.replace("224, 224", "32, 32")
    names = {
        "model": model,
        "inputs": torch.randn(1, 3, 32, 32),
        "loader": [torch.randn(16, 3, 32, 32) for _ in range(4)],
    }
    exec(compile("import octify, torch\n" + code, str(page), "exec"), names)


@pytest.mark.parametrize(("page", "text"), list(blocks("toml")), ids=lambda value: getattr(value, "name", ""))
def test_rule_files_are_valid(page: Path, text: str, tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(text, encoding="utf-8")
    assert load_rules(path).rules


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
