"""segmentation_models_pytorch's nine architectures convert whole, at several sizes.

pip install -c constraints.txt -e '.[test,packages]'
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.packages.catalogue import Entry, of
from tests.packages.check import check_converted, check_exported, check_whole, measured

pytestmark = pytest.mark.packages
pytest.importorskip("segmentation_models_pytorch")

ENTRIES = of("segmentation_models_pytorch")


@pytest.mark.parametrize("entry", ENTRIES, ids=str)
def test_one_graph_at_several_sizes(entry: Entry) -> None:
    check_whole(entry)


@pytest.mark.parametrize("entry", ENTRIES, ids=str)
def test_converted(entry: Entry) -> None:
    check_converted(entry)


@pytest.mark.parametrize("entry", ENTRIES, ids=str)
def test_calibrated_and_exported(entry: Entry, tmp_path: Path) -> None:
    check_exported(entry, tmp_path)


@pytest.mark.parametrize("entry", ENTRIES, ids=str)
def test_most_of_it_becomes_cheaper(entry: Entry) -> None:
    row = measured(entry)
    assert row.one_graph and row.macs < 1
