"""Parts inside a module that cannot be traced are converted, and the model stays one graph."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

import octify
from tests.oracle import noise


class Decides(nn.Module):
    """Asks for values, and calls what could be traced."""

    def __init__(self, *inside: nn.Module) -> None:
        super().__init__()
        self.p = nn.Sequential(*inside)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.p(x)
        return y if float(y.abs().max()) < 1e9 else y * 2


def _pair(channels: int = 16) -> list[nn.Module]:
    return [
        nn.Conv2d(16, channels, 3, padding=1),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, 16, 3, padding=1),
    ]


def _around(head: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    first = [nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)]
    last = [nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 1)]
    return nn.Sequential(*first, head, *last).double().eval()


NETS = {
    "one": lambda: _around(Decides(*_pair())),
    "two": lambda: _around(nn.Sequential(Decides(*_pair()), nn.ReLU(), Decides(*_pair(24)))),
    "nested": lambda: _around(Decides(*_pair(), Decides(*_pair(8)), *_pair())),
}


@pytest.mark.parametrize("name", NETS)
def test_it_is_the_projected_reference_at_any_size(name: str) -> None:
    model, x = NETS[name](), noise(1, 3, 16, 16)
    for alpha in (0.0, 0.5):
        result = octify.convert(model, x, alpha, rules="everywhere", kernels="exact")
        reference = octify.reference(model, result.plan, x)
        assert isinstance(result.model, fx.GraphModule)
        for size in ((1, 16, 16), (3, 24, 20)):
            y = noise(size[0], 3, *size[1:], seed=7)
            with torch.no_grad():
                wanted = model(y) if alpha == 0 else reference(y)
                assert float((result.model(y) - wanted).abs().max()) < 1e-12
    inside = [conv for conv in result.plan.convs if ".p." in conv.path]
    assert inside and all(conv.converted for conv in inside)
    totals, layers = result.report.totals, result.report.layers
    assert sum(row.macs_before for row in layers) == totals.macs_before
    assert sum(row.macs_after for row in layers) == totals.macs_after
    assert totals.converted == totals.convolutions == len(result.plan.convs)


@pytest.mark.parametrize("name", NETS)
def test_it_can_be_replayed_saved_and_loaded(name: str, tmp_path: Path) -> None:
    model, x = NETS[name](), noise(2, 3, 16, 16)
    result = octify.convert(model, x, 0.5, rules="everywhere")
    result.save(tmp_path / "out")
    replayed = octify.convert(model, x, plan=result.plan).model
    with torch.no_grad():
        for other in (replayed, octify.load(tmp_path / "out", model)):
            assert torch.equal(other(x), result.model(x))


def test_what_is_inside_can_be_excluded() -> None:
    result = octify.convert(NETS["one"](), noise(1, 3, 16, 16), 0.5, rules="everywhere", exclude=("2.p.*",))
    assert {conv.path for conv in result.plan.convs if not conv.converted} == {"2.p.0", "2.p.3"}


def test_the_graph_around_it_is_calibrated() -> None:
    model, x = NETS["one"]().float(), noise(1, 3, 16, 16).float()
    images = [noise(8, 3, 16, 16, seed=i).float() for i in range(4)]
    result = octify.convert(model, x, 0.5, rules="everywhere", calibration=images, effort="fast")
    row = result.report.calibration
    assert row is not None and row.after.relative_error < row.before.relative_error
    assert any("2.p.0, 2.p.3" in told for told in result.report.warnings)


def test_a_layer_that_others_call_too_stays_as_it_is() -> None:
    head = Decides(*_pair())

    class Shares(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = _around(head)
            self.same = head.p[0]

        def forward(self, x: Tensor) -> Tensor:
            return self.same(self.net(x))

    model, x = Shares().double().eval(), noise(1, 3, 16, 16)
    result = octify.convert(model, x, 0.5, rules="everywhere", kernels="exact")
    reference = octify.reference(model, result.plan, x)
    with torch.no_grad():
        assert float((result.model(x) - reference(x)).abs().max()) < 1e-12
    assert not any(conv.converted for conv in result.plan.convs if ".p." in conv.path)
