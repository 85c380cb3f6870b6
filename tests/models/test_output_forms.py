"""Outputs keep their form: dicts, lists, tuples; segmentation and video models as they come."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

import octify
from octify.compare.oracles import enlivened

CASES = {
    "lraspp_mobilenet_v3_large": (1, 3, 64, 64),
    "fcn_resnet50": (1, 3, 64, 64),
    "deeplabv3_mobilenet_v3_large": (1, 3, 64, 64),
    "r3d_18": (1, 3, 4, 32, 32),
    "r2plus1d_18": (1, 3, 4, 32, 32),
}


@pytest.mark.parametrize("name", CASES)
def test_torchvision_models_give_what_they_gave(name: str) -> None:
    import torchvision

    options: dict[str, Any] = {"weights": None}
    if "_18" not in name:
        options["weights_backbone"] = None
    model, _ = enlivened(torchvision.models.get_model(name, **options).eval())
    x = torch.randn(CASES[name], generator=torch.Generator().manual_seed(0))
    result = octify.convert(model, x, rules="everywhere")
    with torch.no_grad():
        wanted, given = model(x), result.model(x)
    (a, form), (b, same) = tree_flatten(wanted), tree_flatten(given)
    assert form == same
    assert type(given) is type(wanted)
    assert [t.shape for t in a] == [t.shape for t in b]
    assert result.report.totals.converted > 10
    unconverted = octify.convert(model, x, alpha=0.0)
    with torch.no_grad():
        assert all(torch.equal(p, q) for p, q in zip(a, tree_flatten(unconverted.model(x))[0], strict=True))


class Forms(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Any:
        x = self.first(x)
        y = self.second(x.relu())
        return OrderedDict(maps=[x, (y, x + y)], size=x.shape[2], nothing=None)


def test_nested_outputs() -> None:
    torch.manual_seed(0)
    model = Forms().double().eval()
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    result = octify.convert(model, x, rules="everywhere", kernels="exact")
    given, wanted = result.model(x), octify.reference(model, result.plan, x)(x)
    assert type(given) is type(model(x))
    assert tree_flatten(given)[1] == tree_flatten(model(x))[1]
    assert given["size"] == 8
    assert given["nothing"] is None
    for a, b in zip(tree_flatten(given)[0], tree_flatten(wanted)[0], strict=True):
        if isinstance(a, Tensor):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
