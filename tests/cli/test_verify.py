"""``octify verify``: passes on what is right, fails on what is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from octify.compare import oracles as checks
from octify.errors import CheckFailed


def test_a_right_conversion_passes(octify: Any, net: Path, listing: Callable[[], set[str]]) -> None:
    before = listing()
    # A model file that prints does not spoil the data.
    net.write_text(net.read_text() + "\nprint('hello from the model file')\n")
    outcome = octify("verify", net, "--alpha", "0.25", "--json")
    assert outcome.code == 0, outcome.err
    assert "hello" in outcome.err
    assert listing() == before
    document = outcome.json
    assert document["passed"] is True
    assert [(check["name"], check["dtype"], check["passed"]) for check in document["checks"]] == [
        ("alpha 0 = original", "float32", True),
        ("exact kernels = projected reference", "float64", True),
        ("exact kernels = projected reference", "float32", True),
        ("onnxruntime = PyTorch", "float32", True),
    ]
    assert "bn1.running_mean" in document["made_random"]
    assert all(check["max_abs_error"] <= check["allowed"] for check in document["checks"])


@pytest.mark.usefixtures("exports")
@pytest.mark.parametrize(
    ("fault", "names"),
    [
        # A thousandth of one weight; the low channels taken wrongly would be far worse.
        ("exact", ["exact kernels = projected reference (float64)"]),
        ("alpha 0", ["alpha 0 = original (float32)"]),
    ],
)
def test_a_wrong_conversion_fails(
    octify: Any, net: Path, monkeypatch: pytest.MonkeyPatch, fault: str, names: list[str]
) -> None:
    from octify import api

    real = api.convert

    def faulty(*args: Any, **kwargs: Any) -> Any:
        result = real(*args, **kwargs)
        is_alpha_0 = kwargs.get("alpha") == 0.0
        if is_alpha_0 == (fault == "alpha 0") and kwargs.get("kernels") != "paper":
            with torch.no_grad():
                for parameter in result.model.parameters():
                    parameter.mul_(1.001)
        return result

    monkeypatch.setattr(api, "convert", faulty)
    outcome = octify("verify", net)
    assert outcome.code == 1
    assert "FAILED" in outcome.out
    for name in names:
        assert name in outcome.err


@pytest.mark.usefixtures("wrong_onnx")
def test_a_wrong_onnx_file_fails(octify: Any, net: Path) -> None:
    outcome = octify("verify", net, "--json")
    assert outcome.code == 1
    assert "onnxruntime = PyTorch" in outcome.err
    assert outcome.json["passed"] is False
    assert [check["passed"] for check in outcome.json["checks"]] == [True, True, True, False]


def test_odd_maps_are_told_and_no_failure(octify: Any, net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("octify.export.export_onnx", refuse)
    outcome = octify("verify", net, "--input", "1x3x37x37", "--json")
    assert outcome.code == 1  # of the refused export alone
    assert [check["passed"] for check in outcome.json["checks"]] == [True, None, None, False]
    assert "37x37" in outcome.json["checks"][1]["note"]
    assert "1 of 4 checks failed" in outcome.err


def refuse(*args: Any, **kwargs: Any) -> None:
    raise CheckFailed("not exported", where="output 0", why="it was refused")


def test_constants_are_made_random_and_the_rest_is_kept() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1, bias=False))
    nn.init.zeros_(model[2].weight)
    before = {name: entry.clone() for name, entry in model.state_dict().items()}
    lively, filled = checks.enlivened(model)
    norm = {f"1.{name}" for name in ("weight", "bias", "running_mean", "running_var")}
    assert set(filled) == norm | {"2.weight"}
    for name, entry in lively.state_dict().items():
        assert torch.equal(entry, before[name]) == (name not in filled)
        assert torch.equal(model.state_dict()[name], before[name])
    assert (lively[1].running_var > 0).all()


class TwoOutputs(nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        return {"a": x, "b": (x * 2, [x.argmax()])}


def test_every_tensor_of_an_output_counts() -> None:
    x = torch.randn(3, generator=torch.Generator().manual_seed(0))
    assert len(checks.answers(TwoOutputs(), (x,))) == 3


def test_distances_see_shapes_and_nans() -> None:
    one, nan = torch.ones(2), torch.tensor([1.0, float("nan")])
    assert checks.distance([one], [one]) == 0
    assert checks.distance([one], [one + 1e-3]) == pytest.approx(1e-3, rel=1e-3)
    assert checks.distance([one], [nan]) == float("inf")
    assert checks.distance([one], []) == float("inf")
    assert checks.distance([one], [torch.ones(1, 2)]) == float("inf")
    assert checks.check("x", "float32", float("nan"), 1.0).passed is False


def test_float32_noise_is_small_but_not_nothing() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    noise = checks.float32_noise(model, (torch.randn(4, 64, generator=torch.Generator().manual_seed(0)),))
    assert 1e-9 < noise < 1e-5
    assert next(model.parameters()).dtype == torch.float32
