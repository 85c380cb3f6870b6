"""The picture of a conversion: well-formed, to scale, with the report's figures."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import octify
from octify.report.html.numbers import multiplications
from octify.report.html.picture import picture
from octify.report.report import Report
from tests.nets import Residual

_SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def report() -> Report:
    torch.manual_seed(0)
    return octify.convert(Residual().eval(), torch.zeros(1, 3, 32, 32), 0.5, rules="everywhere").report


def test_blocks_and_bars_are_to_scale(report: Report) -> None:
    root = ElementTree.fromstring(picture(report))
    rows = [row for row in report.layers if row.output_size]
    blocks = [[rect.attrib for rect in group.iter(f"{_SVG}rect")] for group in root.iter(f"{_SVG}g")]
    before, after = blocks[: len(rows)], blocks[len(rows) :]
    assert len(after) == len(rows)
    for row, (whole,), parts in zip(rows, before, after, strict=True):
        width, height = float(whole["width"]), float(whole["height"])
        assert math.isclose(sum(float(part["width"]) for part in parts), width, abs_tol=0.11)
        low = sum(float(part["width"]) for part in parts if part["class"] == "low")
        assert math.isclose(low, width * row.alpha_out, abs_tol=0.06)
        assert {float(part["height"]) for part in parts if part["class"] == "high"} <= {height}
    bars = [float(rect.attrib["height"]) for rect in root.findall(f"{_SVG}rect")[-2 * len(rows) :]]
    macs = [count for row in rows for count in (row.macs_before, row.macs_after)]
    for bar, count in zip(bars, macs, strict=True):
        assert math.isclose(bar / max(bars), count / max(macs), abs_tol=0.002)
    texts = {text.text for text in root.iter(f"{_SVG}text")}
    assert {multiplications(report.totals.macs_before), multiplications(report.totals.macs_after)} <= texts


def test_every_colour_has_a_dark_one(report: Report) -> None:
    style = next(ElementTree.fromstring(picture(report)).iter(f"{_SVG}style")).text or ""
    light, dark = style.split("@media")
    used = set(re.findall(r"var\((--\w+)\)", style))
    assert used == set(re.findall(r"(--\w+):", light)) == set(re.findall(r"(--\w+):", dark))


@given(st.integers(0, 10**13))
def test_three_digits_of_macs(macs: int) -> None:
    number, _, letter = multiplications(macs).partition(" ")
    scale = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[letter]
    assert float(number) * scale == pytest.approx(macs, rel=0.005)
    assert not number.endswith(".")
