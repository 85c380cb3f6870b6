"""A sweep's points go by content: of rules, of data, and by every digit of alpha."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("short_calibration")

SWEEP = ("sweep", "net.py", "--calib-effort", "norm", "-o", "s", "--json")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The alphas of all conversions that were made."""
    from octify import api

    real, made = api.convert, []

    def convert(*args: Any, **kwargs: Any) -> Any:
        made.append(kwargs["alpha"])
        return real(*args, **kwargs)

    monkeypatch.setattr(api, "convert", convert)
    return made


def points(outcome: Any) -> list[dict[str, Any]]:
    assert outcome.code == 0, outcome.err
    return list(outcome.json["points"])


def test_rule_files_of_one_name_and_close_alphas_are_different_points(
    octify: Any, net: Path, made: list[float]
) -> None:
    for name, text in (("a", ""), ("b", '[[rule]]\nmatch.path = "conv2"\noutput = "dense"\n')):
        (net.parent / name).mkdir()
        (net.parent / name / "mine.toml").write_text(f'name = "mine"\n{text}')
    alphas = "0.5,0.5000001"
    both = points(octify(*SWEEP, "--rules", "a/mine.toml,b/mine.toml", "--alpha", alphas))
    assert len({point["name"] for point in both}) == 4
    assert len(made) == 4
    assert both[0]["macs"] < both[2]["macs"]
    for point in both:
        report = json.loads((net.parent / "s" / point["name"] / "report.json").read_text())
        assert report["totals"]["macs_after"] == point["macs"]
    again = points(octify(*SWEEP, "--rules", "b/mine.toml", "--alpha", alphas))
    assert again == both[2:] and len(made) == 4
    # The same rules elsewhere are the same point, others under the same name are not.
    (net.parent / "b").rename(net.parent / "c")
    points(octify(*SWEEP, "--rules", "c/mine.toml", "--alpha", alphas))
    assert len(made) == 4
    (net.parent / "c/mine.toml").write_text('name = "mine"\n[settings]\nround_to = 8\n')
    points(octify(*SWEEP, "--rules", "c/mine.toml", "--alpha", alphas))
    assert len(made) == 6


def replaced_array(place: Path, seed: int) -> str:
    np.save(place / "x.npy", np.random.default_rng(seed).normal(size=(8, 3, 32, 32)).astype(np.float32))
    return "x.npy"


def replaced_image(place: Path, seed: int) -> str:
    from PIL import Image

    (place / "images").mkdir(exist_ok=True)
    for number in range(4):
        pixels = np.random.default_rng(seed + number).integers(0, 255, (32, 32, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(place / "images" / f"{number}.bmp")  # always of one size
    return "images"


def replaced_source(place: Path, seed: int) -> str:
    replaced_array(place, seed)
    (place / "data.py").write_text("import numpy as np\ndef items():\n    return [np.load('x.npy')]\n")
    return "data.py:items"


@pytest.mark.parametrize("replace", [replaced_array, replaced_image, replaced_source])
def test_replaced_data_is_other_data(
    octify: Any, net: Path, made: list[float], replace: Callable[[Path, int], str]
) -> None:
    command = (*SWEEP, "--rules", "everywhere", "--alpha", "0.5", "--calib")
    first = points(octify(*command, replace(net.parent, 0)))
    assert points(octify(*command, replace(net.parent, 0))) == first
    assert len(made) == 1
    second = points(octify(*command, replace(net.parent, 100)))
    assert len(made) == 2
    assert second[0]["error"] != first[0]["error"]
