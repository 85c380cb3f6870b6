"""Example inputs are in the number format that the model takes, whoever makes them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import octify
from octify.errors import TraceError
from octify.source import load_source
from octify.source.dtype import in_models_dtype

OTHERS = [torch.float16, torch.bfloat16, torch.float64]


def net(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return (
        nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 3, padding=1))
        .to(dtype)
        .eval()
    )


class Casting(nn.Module):
    """Takes float32 and computes in half precision."""

    def __init__(self) -> None:
        super().__init__()
        self.body = net(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype is not torch.float32:
            raise ValueError("give float32")
        return self.body(x.bfloat16()).float()


@pytest.mark.parametrize("dtype", OTHERS)
@torch.no_grad()
def test_float32_examples_convert_a_model_in_another_format(dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, 16, 16)
    made = octify.convert(net(dtype), x, rules="everywhere")
    assert len([conv for conv in made.plan.convs if conv.converted]) == 2
    assert made.model(x.to(dtype)).dtype is dtype
    assert octify.profile(net(dtype), x).to_dict()["totals"]["macs_before"] > 0
    assert octify.reference(net(dtype), made.plan, x)(x.to(dtype)).dtype is dtype


def test_what_the_model_takes_is_left_alone() -> None:
    x = torch.randn(1, 3, 8, 8)
    for model in (net(torch.float32), Casting(), nn.ReLU()):
        assert in_models_dtype(model, [x])[0] is x
    numbers = torch.ones(1, 3, 8, 8, dtype=torch.int64)
    assert in_models_dtype(net(torch.float16), [numbers])[0] is numbers
    wrong = torch.randn(1, 4, 8, 8)  # no format helps
    assert in_models_dtype(net(torch.float16), [wrong])[0] is wrong


def test_a_model_that_takes_float32_itself_converts() -> None:
    octify.convert(Casting().eval(), torch.randn(1, 3, 8, 8), rules="everywhere")


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("inputs", [(), ("1x3x32x32",), ("1x3x32x32:{}",)])
def test_the_command_lines_default_example(tmp_path: Path, name: str, inputs: tuple[str, ...]) -> None:
    file = tmp_path / "model.py"
    file.write_text(f"import torch\nfrom torch import nn\nmodel = nn.Conv2d(3, 8, 3).to(torch.{name})\n")
    source = load_source(str(file), inputs=[text.format(name) for text in inputs])
    assert source.example_inputs[0].dtype is getattr(torch, name)


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float64", "int64", "bool"])
def test_an_input_in_another_format_is_one_clear_error(name: str) -> None:
    x = torch.ones(1, 3, 16, 16, dtype=getattr(torch, name))
    with pytest.raises(TraceError) as caught:
        octify.convert(net(torch.float32), x, alpha=0.5)
    shown = str(caught.value)
    assert f"rejects an input in {name}" in shown and "parameters are in float32" in shown
    assert "--input 1x3x16x16, or x.to(torch.float32)" in shown


def test_an_input_in_the_format_of_other_parameters_is_one_clear_error() -> None:
    with pytest.raises(TraceError, match=r"--input 1x3x16x16:float16, or x\.to\(torch\.float16\)"):
        octify.convert(net(torch.float16), torch.ones(1, 3, 16, 16, dtype=torch.float64), alpha=0.5)
