"""``octify verify``: passes on what is right, fails on what is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from octify.cli import checks


def test_a_right_conversion_passes(octify: Any, net: Path, listing: Callable[[], set[str]]) -> None:
    before = listing()
    outcome = octify("verify", net, "--alpha", "0.25")
    assert outcome.code == 0, outcome.err
    for name in ("alpha 0 = original", "exact kernels = projected reference", "onnxruntime = PyTorch"):
        assert name in outcome.out
    assert listing() == before
    document = octify("verify", net, "--alpha", "0.25", "--json").json
    assert document["passed"] is True
    assert [(check["dtype"], check["passed"]) for check in document["checks"]] == [
        ("float32", True),
        ("float64", True),
        ("float32", True),
        ("float32", True),
    ]
    assert all(check["max_abs_error"] <= check["allowed"] for check in document["checks"])


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


def test_a_wrong_onnx_file_fails(octify: Any, net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from octify.export import onnx

    real = onnx.run_onnx
    monkeypatch.setattr(onnx, "run_onnx", lambda *given: [answer + 0.5 for answer in real(*given)])
    outcome = octify("verify", net, "--json")
    assert outcome.code == 1
    assert "onnxruntime = PyTorch" in outcome.err
    assert outcome.json["passed"] is False
    assert [check["passed"] for check in outcome.json["checks"]] == [True, True, True, False]


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
