"""The tutorials run: each page's blocks are one program, in a folder with the files of samples/."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.places import ROOT

PAGES = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
QUICK = "super-resolution"


@pytest.mark.usefixtures("short_calibration")
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.wide if page.stem == QUICK else pytest.mark.zoo) for page in PAGES],
    ids=lambda page: page.stem,
)
def test_a_tutorial_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in (ROOT / "samples").iterdir():
        if file.is_file():
            shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.M))
    exec(compile(code, str(page), "exec"), {"__name__": page.stem})
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "").parent == tmp_path:
            del sys.modules[name]


def test_every_step_is_in_every_tutorial() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for step in ("Load", "Convert", "Export"):
            assert f"**{step}**" in text or f"**{step}." in text, f"{page.name}: {step}"
        for call in ("calibration=", "metric=", "result.report", "octify.export_", "octify.bench("):
            assert call in text, f"{page.name}: {call}"
