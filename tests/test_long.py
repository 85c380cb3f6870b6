"""The lists of long tests name tests that there are."""

from __future__ import annotations

import pytest

from tests.conftest import LONG, wide
from tests.places import ROOT


@pytest.mark.parametrize("line", [*LONG, *wide()])
def test_every_line_names_a_test(line: str) -> None:
    file, _, rest = line.partition("::")
    name, _, _ = rest.partition("[")
    assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8")
