"""Calibration: the linear systems say what the modules compute, and the fits say what least squares says."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from octify.calibrate.fit import caution
from octify.calibrate.fit.activation import Activation
from octify.calibrate.fit.affine import scale_and_shift, unscaling, write_norm
from octify.calibrate.fit.caution import cautious_ridge, least_ridge
from octify.calibrate.fit.order import repair_order
from octify.calibrate.fit.renorm import reestimate
from octify.calibrate.fit.repair import repair
from octify.calibrate.fit.solve import centring, solve, with_bias
from octify.calibrate.streams.execution import Stream, out_of_place
from octify.passes.rewrite import rewrite
from octify.planning.planner import make_plan
from octify.planning.ruleset import load_rules
from octify.trace import trace


@pytest.mark.parametrize("groups", [1, 3])
def test_solve_is_ridge_regression_toward_the_start(groups: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(groups, 400, 6, dtype=torch.float64)
    target = torch.randn(groups, 400, 2, dtype=torch.float64)
    start = torch.randn(groups, 7, 2, dtype=torch.float64)
    rows = with_bias(x)
    fitted = solve(rows, target, None, start, None, 4).weights
    gram = rows.transpose(1, 2) @ rows
    ridge = 1e-2 * gram.diagonal(dim1=1, dim2=2)[:, :6].mean(1)
    penalty = torch.stack(
        [torch.diag(torch.tensor([float(r)] * 6 + [1e-6 * 400], dtype=torch.float64)) for r in ridge]
    )
    gradient = rows.transpose(1, 2) @ (rows @ fitted - target) + penalty @ (fitted - start)
    assert gradient.abs().max() < 1e-9 * gram.abs().max()


def test_an_exactly_linear_target_is_found() -> None:
    torch.manual_seed(0)
    rows = with_bias(torch.randn(1, 500, 5, dtype=torch.float64) + 3)
    truth = torch.randn(1, 6, 4, dtype=torch.float64)
    fitted = solve(rows, rows @ truth, None, truth, None, 0).weights
    torch.testing.assert_close(fitted, truth, rtol=1e-9, atol=1e-9)


def test_hinge_refits_lower_the_error_behind_relu() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 4000, 10)
    z = torch.tanh(x @ torch.randn(10, 5)) * 3 + 0.5 * torch.randn(1, 4000, 5)
    start = torch.zeros(1, 11, 5)
    relu = Activation.of(F.relu)
    errors = []
    for refits in (0, 4):
        w = solve(with_bias(x), z, None, start, relu, refits).weights
        errors.append(float((F.relu(with_bias(x) @ w) - F.relu(z)).square().mean()))
    assert errors[1] < 0.97 * errors[0]


@pytest.mark.parametrize("function", [F.relu, F.relu6, F.silu, F.gelu, F.hardswish, torch.sigmoid, torch.exp])
@pytest.mark.parametrize("groups", [1, 2])
def test_centring_brings_means_behind_the_activation_together(function, groups: int) -> None:  # type: ignore[no-untyped-def]
    """Where the slope s is between 0 and 2 every step leaves |1 - s| of what a mean lacks; never more."""
    torch.manual_seed(0)
    target = torch.randn(groups, 5000, 4, dtype=torch.float64) + torch.tensor([-1.0, 0.0, 1.0, 2.0])
    predicted = 0.6 * (target - target.mean(1, keepdim=True)) + target.mean(1, keepdim=True)
    activation = Activation.of(function)
    assert activation is not None
    shift = centring(target, predicted, activation)
    assert shift.shape == (groups, 1, 4)
    lacking = [(function(target) - function(p)).mean(1).abs() for p in (predicted, predicted + shift)]
    assert bool((lacking[1] <= lacking[0]).all())
    if function is F.relu:  # where a share s of the positions is active: up to 1 - s is left by each step
        active = (predicted > 0).double().mean(1)
        assert bool((lacking[1] <= lacking[0] * (1 - active) ** 8 + 1e-12).all())


def test_centring_leaves_alone_what_has_the_mean() -> None:
    target = torch.randn(1, 100, 3)
    relu = Activation.of(F.relu)
    assert relu is not None
    assert float(centring(target, target, relu).abs().max()) == 0
    assert float(centring(target, target.flip(1), relu).abs().max()) < 1e-6  # the sum's rounding


@pytest.mark.parametrize(("images", "share"), [(4, 0.25), (10, 0.1), (100, 1e-4), (400, 1e-4)])
def test_the_start_counts_as_one_image_while_images_are_few(images: int, share: float) -> None:
    """Where the images agree, that is all the ridge there is; with many images, a hundredth of it."""
    torch.manual_seed(0)
    x = with_bias(torch.randn(1, 400, 4))
    target = x @ torch.randn(1, 5, 2)
    source = torch.arange(400) * images // 400
    assert cautious_ridge(x, target, None, torch.zeros(1, 5, 2), source)[0] == share


@given(seed=st.integers(0, 2**31 - 1), wide=st.booleans())
def test_what_only_some_images_show_is_not_learned_from_their_many_rows(seed: int, wide: bool) -> None:
    """Rows in plenty of images that each have a law of their own: the weights stay nearer to the start than
    for rows of one law, however many rows an image has."""
    generator = torch.Generator().manual_seed(seed)
    images, each, unknowns = 32, 40, 60 if wide else 6
    x = with_bias(torch.randn(1, images * each, unknowns, generator=generator))
    laws = torch.randn(images, unknowns + 1, 3, generator=generator)
    source = torch.arange(images).repeat_interleave(each)
    own = torch.einsum("rd,rdo->ro", x[0], laws[source])[None]
    start = torch.zeros(1, unknowns + 1, 3)
    ridges = [cautious_ridge(x, target, None, start, source)[0] for target in (own, x @ laws[:1])]
    assert ridges[1] == caution._LESS[0] * least_ridge(images)
    assert ridges[0] is None or ridges[0] >= 10 * least_ridge(images)


@given(seed=st.integers(0, 2**31 - 1), images=st.integers(1, 60), rows=st.integers(8, 90))
def test_the_ridge_is_the_one_with_the_least_error_on_unseen_images(
    seed: int, images: int, rows: int
) -> None:
    """In both forms: with more rows than unknowns, and with fewer."""
    generator = torch.Generator().manual_seed(seed)
    x = with_bias(torch.randn(2, rows, 12, generator=generator))
    target = torch.randn(2, rows, 3, generator=generator) + x[:, :, :3]
    source = torch.arange(rows) * images // rows
    start = torch.zeros(2, 13, 3)
    chosen, gram = cautious_ridge(x, target, None, start, source)
    seen = caution._seen(source, int(source.max()) + 1)
    assert 0 < int(seen.sum()) <= rows
    if not bool((~seen).any()):
        assert chosen is None
        return
    errors = {None: float(target[:, ~seen].square().sum())}
    seen_images = int(source.max()) + 1
    for times in (caution._LESS if seen_images >= caution._MANY else ()) + caution._TIMES:
        ridge = times * least_ridge(seen_images)
        fit = solve(x[:, seen], target[:, seen], None, start, None, 0, ridge)
        errors[ridge] = float((target[:, ~seen] - x[:, ~seen] @ fit.weights).square().sum())
    assert errors[chosen] <= min(errors.values()) * (1 + 1e-3)
    if gram is not None:
        torch.testing.assert_close(gram, (x.mT @ x).double(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("images", [1, 3, 40])
def test_old_statistics_count_as_one_image_more(images: int) -> None:
    """The moments are those of ``images`` parts of the data and one part of what the norm had."""
    torch.manual_seed(images)
    norm = nn.BatchNorm2d(3).double().eval()
    old_mean, old_var = torch.randn(3).double(), torch.rand(3).double()
    norm.running_mean, norm.running_var = old_mean.clone(), old_var.clone()
    x = 2 + torch.randn(images, 3, 8, 8, dtype=torch.float64)
    assert reestimate(norm, [(x,)]) == 1
    mean, second = x.mean((0, 2, 3)), x.var((0, 2, 3)) + x.mean((0, 2, 3)).square()  # torch's is unbiased
    mixed = (images * mean + old_mean) / (images + 1)
    seconds = (images * second + old_var + old_mean.square()) / (images + 1)
    torch.testing.assert_close(norm.running_mean, mixed)
    torch.testing.assert_close(norm.running_var, seconds - mixed.square())
    assert not norm.training


@pytest.mark.parametrize(
    ("function", "floor", "ceiling"),
    [
        (F.relu, 0.0, math.inf),
        (F.relu6, 0.0, 6.0),
        (F.silu, -math.inf, math.inf),
        (F.hardswish, -3.0, math.inf),
        (F.gelu, None, math.inf),
        (lambda x: F.leaky_relu(x, 0.1), -math.inf, math.inf),
    ],
)
def test_activations_are_inverted_where_they_grow(function, floor, ceiling) -> None:  # type: ignore[no-untyped-def]
    activation = Activation.of(function)
    if floor is not None:
        assert activation.floor == pytest.approx(floor, abs=0.01)
    assert activation.ceiling == pytest.approx(ceiling, abs=0.01)
    x = torch.linspace(0.1, 5.9, 200)
    found, valid = activation.inverse(function(x))
    assert bool(valid.all())
    torch.testing.assert_close(found, x, atol=2e-2, rtol=0)
    large = torch.tensor([40.0]) if ceiling == math.inf else torch.tensor([5.0])
    torch.testing.assert_close(activation.inverse(function(large))[0], large, atol=2e-2, rtol=0)


def test_a_norm_is_written_so_that_training_sees_its_statistics() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(6).eval()
    with torch.no_grad():
        for t in (norm.weight, norm.bias, norm.running_mean):
            t.normal_()
        norm.running_var.uniform_(0.5, 2)
        norm.weight[2] = 0  # a dead channel
    x = torch.randn(64, 6, 8, 8) * 2 + 1
    wanted_scale, wanted_bias = torch.randn(6).abs() + 0.1, torch.randn(6)
    factor = unscaling(norm, 6, x)
    shape = (1, 6, 1, 1)
    y = x * (wanted_scale * factor).view(shape)
    write_norm(norm, factor, y.mean((0, 2, 3)), y.var((0, 2, 3), correction=0), wanted_bias)
    expected = x * wanted_scale.view(shape) + wanted_bias.view(shape)
    torch.testing.assert_close(norm(y), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(copy.deepcopy(norm).train()(y), expected, rtol=1e-3, atol=1e-3)
    scale, shift = scale_and_shift(norm, 6, x)
    torch.testing.assert_close(y * scale.view(shape) + shift.view(shape), expected, rtol=1e-4, atol=1e-4)


class Block(nn.Module):
    """A residual block with a convolved shortcut, and a squeeze-and-excitation gate behind it."""

    def __init__(self, inplace: bool = True) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace)
        )
        self.conv1 = nn.Conv2d(16, 32, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 32, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(32)
        self.short = nn.Conv2d(16, 32, 1, 2, bias=False)
        self.bn3 = nn.BatchNorm2d(32)
        self.relu = nn.ReLU(inplace)
        self.depthwise = nn.Conv2d(32, 32, 3, 1, 1, groups=32)
        self.gate = nn.Conv2d(32, 32, 1)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += self.bn3(self.short(x))
        y = self.depthwise(self.relu(y))
        y = y * torch.sigmoid(self.gate(y.mean((2, 3), keepdim=True)))
        return self.head(F.relu(y, True).mean((2, 3)))


def _trained_like(model: nn.Module) -> nn.Module:
    """Norm statistics of smooth inputs, so that there is something to repair."""
    model.train()
    for _ in range(3):
        model(_smooth(32))
    return model.eval()


def _smooth(n: int) -> Tensor:
    return F.interpolate(torch.randn(n, 3, 8, 8), scale_factor=3, mode="bilinear")


def test_streams_give_every_node_the_value_it_has() -> None:
    torch.manual_seed(0)
    model = _trained_like(Block())
    x = _smooth(6)
    traced = trace(model, x[:1])
    module = copy.deepcopy(traced.module)
    with out_of_place(module):
        stream = Stream(traced.module.graph, module, [(x[:4],), (x[4:],)])
        output = next(iter(traced.module.graph.find_nodes(op="output")))
        values = torch.cat(list(stream.values(output)))
        assert not stream.kept() - {output}
    assert all(part.inplace for part in module.modules() if isinstance(part, nn.ReLU))
    torch.testing.assert_close(values, model(x))


def test_the_shortcut_is_repaired_before_the_branch_it_is_added_to() -> None:
    traced = trace(Block().eval(), torch.zeros(1, 3, 24, 24))
    names = [str(n.target) for n in repair_order(traced)]
    assert names.index("short") < names.index("conv1")
    assert set(names) == {str(n.target) for n in traced.module.graph.nodes}


@pytest.mark.parametrize("kernels", ["paper", "exact"])
def test_repair_brings_the_outputs_closer(kernels: str) -> None:
    torch.manual_seed(0)
    model = _trained_like(Block())
    x, fresh = _smooth(128), _smooth(64)
    traced = trace(model, x[:1])
    plan = make_plan(traced, load_rules("everywhere"), 0.5, kernels)  # type: ignore[arg-type]
    rewritten = rewrite(traced, plan)
    wanted = model(fresh)
    before = (rewritten.module(fresh) - wanted).norm()
    repaired = repair(copy.deepcopy(traced), rewritten, [(x[:64],), (x[64:],)], rows=4000)
    after = (rewritten.module(fresh) - wanted).norm()
    assert after < before
    assert all(e.after <= e.before + 1e-4 for e in repaired.layers if e.branch == "high")  # least squares
    assert {e.path for e in repaired.layers} | set(repaired.left) == {
        c.path for c in plan.convs if c.converted
    }
    torch.testing.assert_close(model(fresh), wanted)  # the original is untouched


def test_repair_is_deterministic() -> None:
    torch.manual_seed(0)
    model = _trained_like(Block())
    x = _smooth(64)
    found = []
    for _ in range(2):
        traced = trace(model, x[:1])
        rewritten = rewrite(traced, make_plan(traced, load_rules("everywhere"), 0.5))
        repair(copy.deepcopy(traced), rewritten, [(x,)], rows=1000, seed=3)
        found.append(rewritten.module(x))
    assert torch.equal(*found)
