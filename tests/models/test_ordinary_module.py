"""A converted model is an ordinary module, and the model it came from is left alone."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import octify
from tests.models import zoo
from tests.models.comparing import difference, noise, run, tolerance

# Small and trained; then two that take longer.
NAMES = (
    "samples/digits_resnet.py",
    pytest.param("samples/mobilenetv2_se.py", marks=pytest.mark.zoo),
    pytest.param("torchvision:resnet18", marks=pytest.mark.zoo),
)
RULES = "everywhere"


@pytest.fixture(scope="module", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def original(name: str) -> nn.Module:
    return zoo.build(name)


@pytest.fixture(scope="module")
def example(name: str) -> Tensor:
    return zoo.BY_NAME[name].example(zoo.BY_NAME[name].small)


@pytest.fixture(scope="module")
def result(original: nn.Module, example: Tensor) -> octify.Result:
    return octify.convert(original, example, 0.5, rules=RULES)


@pytest.fixture
def model(result: octify.Result) -> nn.Module:
    """A copy of the converted model, for the test to do with as it likes."""
    return copy.deepcopy(result.model).eval()


def close(got: Tensor, model: nn.Module, x: Tensor) -> bool:
    """Whether ``got`` is the output of ``model`` at ``x`` up to rounding."""
    expected = run(model, x)
    return difference(got, expected) <= tolerance(noise(model, x), like=expected)


def test_everything_is_converted(result: octify.Result) -> None:
    """Otherwise the tests below say little."""
    assert result.report.totals.converted > 0.9 * result.report.totals.convolutions
    assert result.report.totals.macs_after < 0.6 * result.report.totals.macs_before


def test_training_steps_lower_the_loss(model: nn.Module, name: str) -> None:
    x = zoo.BY_NAME[name].example(zoo.BY_NAME[name].small, batch=8)
    labels = torch.arange(8)
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = []
    for _ in range(4):
        loss = F.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.95 * losses[0]


def test_deepcopy(result: octify.Result, example: Tensor) -> None:
    twin = copy.deepcopy(result.model)
    assert torch.equal(run(twin, example), run(result.model, example))
    ours = {p.data_ptr() for p in result.model.parameters()}
    assert ours.isdisjoint(p.data_ptr() for p in twin.parameters())


def test_state_dict_round_trip(
    result: octify.Result, original: nn.Module, example: Tensor, tmp_path: Path
) -> None:
    torch.save(result.model.state_dict(), tmp_path / "state.pt")
    other = octify.convert(_reinitialised(original), example, plan=result.plan).model
    assert not torch.equal(run(other, example), run(result.model, example))
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(run(other, example), run(result.model, example))


def test_save_and_load(result: octify.Result, original: nn.Module, example: Tensor, tmp_path: Path) -> None:
    result.save(tmp_path / "saved")
    loaded = octify.load(tmp_path / "saved", _reinitialised(original))
    assert torch.equal(run(loaded, example), run(result.model, example))
    assert octify.Plan.load(tmp_path / "saved" / "plan.json") == result.plan


def _reinitialised(model: nn.Module) -> nn.Module:
    """The same architecture with other weights, as a factory would return it."""
    other = copy.deepcopy(model)
    torch.manual_seed(5)
    for module in other.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear, nn.BatchNorm2d)):
            module.reset_parameters()
    return other


def test_torch_compile(model: nn.Module, example: Tensor) -> None:
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        assert close(compiled(example), model, example)


@pytest.mark.zoo
def test_torch_compile_with_inductor(model: nn.Module, example: Tensor) -> None:
    compiled = torch.compile(model, fullgraph=True)
    with torch.no_grad():
        assert close(compiled(example), model, example)


@pytest.mark.zoo
def test_torch_compile_in_training(model: nn.Module, example: Tensor) -> None:
    """Forward and backward; BatchNorm sees two images, so outputs differ, but gradients are there."""
    compiled = torch.compile(model.train(), backend="aot_eager", fullgraph=True)
    compiled(example).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_torch_export(model: nn.Module, example: Tensor) -> None:
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (example,), dynamic_shapes=({0: batch},))
    with torch.no_grad():
        assert close(program.module()(example), model, example)
        more = torch.cat([example, example.flip(-1)])
        assert close(program.module()(more), model, more)


def test_channels_last(model: nn.Module, original: nn.Module, example: Tensor) -> None:
    before = run(model, example)
    limit = tolerance(noise(model, example), like=before)
    model.to(memory_format=torch.channels_last)
    assert difference(run(model, example.to(memory_format=torch.channels_last)), before) <= limit


def test_a_channels_last_model_is_converted(
    original: nn.Module, result: octify.Result, example: Tensor
) -> None:
    wide = copy.deepcopy(original).to(memory_format=torch.channels_last)
    got = run(octify.convert(wide, example, 0.5, rules=RULES).model, example)
    assert close(got, result.model, example)


def test_autocast_bfloat16(model: nn.Module, original: nn.Module, example: Tensor) -> None:
    """No worse in bfloat16 than the original is (within a factor: other sums, other rounding)."""

    def error(net: nn.Module) -> float:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = run(net, example)
        assert low.dtype == torch.bfloat16
        high = run(net, example)
        return float((low.float() - high).norm() / high.norm())

    assert error(model) <= 4 * error(original)


def test_bfloat16_weights(original: nn.Module, example: Tensor) -> None:
    """A model that is in bfloat16 already is converted in it."""
    half = copy.deepcopy(original).bfloat16()
    converted = octify.convert(half, example.bfloat16(), 0.5, rules=RULES).model
    assert {p.dtype for p in converted.parameters()} == {torch.bfloat16}
    assert run(converted, example.bfloat16()).dtype == torch.bfloat16


@pytest.fixture(scope="module")
def exact(original: nn.Module, example: Tensor) -> octify.Result:
    return octify.convert(original, example, 0.5, rules=RULES, kernels="exact")


@pytest.mark.parametrize(("batch", "height", "width"), [(1, 1, 1), (5, 1, 1), (1, 2, 2), (2, 1, 2)])
def test_other_batch_and_image_sizes(
    original: nn.Module, exact: octify.Result, example: Tensor, batch: int, height: int, width: int
) -> None:
    """It is the projected reference at other sizes than its example input's too (all maps stay even)."""
    _, channels, side, _ = example.shape
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(batch, channels, height * side, width * side, generator=generator)
    reference = octify.reference(original, exact.plan, example)
    expected = run(reference, x)
    limit = tolerance(noise(original, x), noise(reference, x), like=expected)
    assert difference(run(exact.model, x), expected) <= limit


def test_meta_example_inputs(original: nn.Module, result: octify.Result, example: Tensor) -> None:
    """Example inputs give shapes only, so they need no data."""
    again = octify.convert(original, example.to("meta"), 0.5, rules=RULES)
    assert again.plan == result.plan
    assert torch.equal(run(again.model, example), run(result.model, example))


def test_sequence_of_example_inputs(original: nn.Module, result: octify.Result, example: Tensor) -> None:
    assert octify.convert(original, [example], 0.5, rules=RULES).plan == result.plan


def _snapshot(model: nn.Module) -> tuple[object, ...]:
    """All that a conversion must not change, but the tensors: modules, modes, parameters, hooks."""
    return (
        [(path, id(module), type(module), module.training) for path, module in model.named_modules()],
        [(path, id(p), p.data_ptr(), p._version, p.requires_grad) for path, p in model.named_parameters()],
        [(path, id(b), b.data_ptr(), b._version) for path, b in model.named_buffers()],
        [sorted(vars(module)) for module in model.modules()],
        [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
    )


@pytest.mark.parametrize("mode", ["train", "eval", "partly frozen"])
def test_the_input_model_is_untouched(original: nn.Module, example: Tensor, mode: str) -> None:
    model = copy.deepcopy(original).train(mode != "eval")
    if mode == "partly frozen":
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        next(model.parameters()).requires_grad_(False)
    tensors, shape = copy.deepcopy(model.state_dict()), _snapshot(model)
    result = octify.convert(model, example, 0.5, rules=RULES, kernels="exact")
    octify.reference(model, result.plan, example)
    octify.profile(model, example)
    assert result.model.training == model.training
    result.model(example)  # in train mode: statistics of its own norms
    with torch.no_grad():
        for p in result.model.parameters():
            p.zero_()
    assert _snapshot(model) == shape
    after = model.state_dict()
    assert after.keys() == tensors.keys()
    assert all(torch.equal(after[key], tensors[key]) for key in tensors)


@pytest.mark.parametrize("mode", [True, False])
def test_the_training_mode_is_mirrored(original: nn.Module, example: Tensor, mode: bool) -> None:
    model = copy.deepcopy(original).train(mode)
    result = octify.convert(model, example, 0.5, rules=RULES)
    reference = octify.reference(model, result.plan, example)
    for module in (result.model, reference):
        assert all(m.training is mode for m in module.modules())


def test_conversion_is_repeatable(original: nn.Module, result: octify.Result, example: Tensor) -> None:
    again = octify.convert(original, example, 0.5, rules=RULES)
    assert again.plan == result.plan
    state, other = result.model.state_dict(), again.model.state_dict()
    assert state.keys() == other.keys()
    assert all(torch.equal(state[key], other[key]) for key in state)


def test_a_plan_replays(original: nn.Module, result: octify.Result, example: Tensor, tmp_path: Path) -> None:
    result.plan.save(tmp_path / "plan.json")
    for plan in (result.plan, tmp_path / "plan.json"):
        again = octify.convert(original, example, plan=plan)
        assert torch.equal(run(again.model, example), run(result.model, example))
