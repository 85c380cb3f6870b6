"""The public functions: names, lazy imports, arguments that are wrong, saving and loading."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import octify
from octify.errors import OctifyError, PlanError, RuleError, SourceError, TraceError
from tests.nets import Residual as Net
from tests.places import ROOT

NAMES = {
    *("convert", "inspect", "load", "profile", "reference", "export_onnx", "export_program"),
    *("export_openvino", "export_litert", "export_coreml", "export_executorch"),
    *("Result", "Report", "Plan", "ConvPlan", "ExportResult", "OctifyError"),
}
X = torch.zeros(1, 3, 32, 32)


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def result(net: nn.Module) -> octify.Result:
    return octify.convert(net, X, 0.5, rules="everywhere")


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# Names ------------------------------------------------------------------------------------------------------


def test_public_names() -> None:
    assert set(octify.__all__) >= NAMES
    assert set(octify.__all__) <= set(dir(octify))
    for name in octify.__all__:
        assert getattr(octify, name).__name__ == name
        assert getattr(octify, name).__doc__


def test_import_is_lazy() -> None:
    """Importing octify, listing it and catching its errors import no torch; using a function does."""
    heavy = "[m for m in ('torch', 'numpy', 'onnx', 'rich') if m in sys.modules]"
    assert python(f"import sys, octify; dir(octify); octify.OctifyError; print({heavy})") == "[]"
    assert python("import sys, octify; octify.convert; print('torch' in sys.modules)") == "True"


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'covert'"):
        _ = octify.covert  # type: ignore[attr-defined]


# Arguments --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan, math.inf])
def test_alpha_outside_0_to_1(net: nn.Module, alpha: float) -> None:
    with pytest.raises(OctifyError, match=rf"alpha must lie between 0 and 1, and is {alpha}"):
        octify.convert(net, X, alpha)


def test_unknown_kernels(net: nn.Module) -> None:
    with pytest.raises(OctifyError, match="no 'precise' kernels"):
        octify.convert(net, X, kernels="precise")  # type: ignore[arg-type]


def test_unknown_rules(net: nn.Module, tmp_path: Path) -> None:
    for rules in ("fastest", str(tmp_path / "none.toml"), tmp_path / "none.toml"):
        with pytest.raises(RuleError):
            octify.convert(net, X, rules=rules)


def test_rules_from_a_file(net: nn.Module, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        'name = "mine"\ndescription = "mine"\n'
        '[[rule]]\nmatch = { path = "conv1" }\noutput = "dense"\nreason = "I say so"\n'
    )
    plan = octify.convert(net, X, rules=file).plan
    assert plan.rules == "mine"
    assert not plan.conv("conv1").low_out
    assert plan.conv("conv1").reason == "I say so"


def test_exclude(net: nn.Module) -> None:
    plan = octify.convert(net, X, rules="everywhere", exclude=["conv1"]).plan
    assert not plan.conv("conv1").converted
    assert "conv1" in (plan.conv("conv1").reason or "")
    with pytest.raises(RuleError, match=r"layer9\.\*") as caught:
        octify.convert(net, X, exclude=["conv1", "layer9.*"])
    assert "stem" in str(caught.value)


def test_inputs_that_the_model_rejects(net: nn.Module) -> None:
    with pytest.raises(TraceError, match="rejects an input of 1x4x32x32") as caught:
        octify.convert(net, torch.zeros(1, 4, 32, 32))
    assert "stem" in (caught.value.where or "")


def test_wrong_number_of_inputs(net: nn.Module) -> None:
    with pytest.raises(OctifyError, match="there are no example inputs"):
        octify.convert(net, ())
    with pytest.raises(TraceError, match="takes 1 input"):
        octify.convert(net, (X, X))


def test_untraceable_model() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) if x.sum() > 0 else x

    with pytest.raises(TraceError, match="Branching cannot be traced") as caught:
        octify.convert(Branching(), X)
    assert "test_api.py:" in (caught.value.where or "")


def test_a_model_without_convolutions() -> None:
    result = octify.convert(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5)), X)
    assert (result.report.totals.convolutions, result.report.totals.converted) == (0, 0)
    assert result.plan.convs == ()


def test_progress(net: nn.Module) -> None:
    phases: list[str] = []
    octify.convert(net, X, progress=phases.append)
    assert len(phases) == len(set(phases)) == 4
    assert phases[0].startswith("trac")


def test_inspect_is_the_report_of_convert(net: nn.Module, result: octify.Result) -> None:
    assert octify.inspect(net, X, 0.5, rules="everywhere").to_dict() == result.report.to_dict()


def test_profile(net: nn.Module) -> None:
    report = octify.profile(net, X)
    totals = report.totals
    macs = {
        "stem": 32 * 32 * 3 * 32 * 9,
        "conv1": 32 * 32 * 32 * 32 * 9,
        "conv2": 32 * 32 * 32 * 32,
        "fc": 32 * 5,
    }
    assert {row.path: row.macs_before for row in report.layers} == macs
    assert totals.macs_before == totals.macs_after == sum(macs.values())
    assert totals.parameters_before == totals.parameters_after == sum(p.numel() for p in net.parameters())
    assert totals.to_dict()["flops_before"] == 2 * totals.macs_before
    assert totals.activation_bytes_before == totals.activation_bytes_after
    assert (totals.splits, totals.merges, totals.converted, totals.convolutions) == (0, 0, 0, 3)
    assert report.alpha is None
    assert "stem" in str(report)


# Plans ------------------------------------------------------------------------------------------------------


def test_a_plan_for_another_model(result: octify.Result) -> None:
    with pytest.raises(PlanError, match="does not fit this model") as caught:
        octify.convert(Net(width=16), X, plan=result.plan)
    assert caught.value.where == "stem"
    with pytest.raises(PlanError, match="does not fit this model"):
        octify.reference(nn.Sequential(nn.Conv2d(3, 8, 3)), result.plan, X)


@pytest.mark.parametrize(("text", "message"), [("{", "not JSON"), ("[]", "not valid"), ("{}", "not valid")])
def test_a_broken_plan(net: nn.Module, tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "plan.json"
    file.write_text(text)
    with pytest.raises(PlanError, match=message):
        octify.convert(net, X, plan=file)
    with pytest.raises(PlanError, match="cannot be read"):
        octify.convert(net, X, plan=tmp_path / "none.json")


# Saving and loading -----------------------------------------------------------------------------------------


def test_save_writes_three_files_and_no_pickle(result: octify.Result, tmp_path: Path) -> None:
    result.save(tmp_path / "deep" / "er")
    files = {file.name for file in (tmp_path / "deep" / "er").iterdir()}
    assert files == {"plan.json", "weights.safetensors", "report.json"}
    report = json.loads((tmp_path / "deep" / "er" / "report.json").read_text())
    assert report == json.loads(json.dumps(result.report.to_dict()))


class _Unwilling:
    """Stands for a report that fails while it is written, the last of the three files."""

    def to_dict(self) -> dict[str, object]:
        raise RuntimeError("power cut")


def broken(result: octify.Result) -> octify.Result:
    return octify.Result(result.model, result.plan, _Unwilling())  # type: ignore[arg-type]


def test_a_failed_save_leaves_nothing(result: octify.Result, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="power cut"):
        broken(result).save(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_leaves_the_old_files(net: nn.Module, result: octify.Result, tmp_path: Path) -> None:
    result.save(tmp_path / "old")
    before = {file.name: file.read_bytes() for file in (tmp_path / "old").iterdir()}
    other = octify.convert(net, X, 0.25, rules="everywhere")
    with pytest.raises(RuntimeError, match="power cut"):
        broken(other).save(tmp_path / "old")
    assert {file.name: file.read_bytes() for file in (tmp_path / "old").iterdir()} == before


def test_save_replaces_its_own_files_and_keeps_others(
    net: nn.Module, result: octify.Result, tmp_path: Path
) -> None:
    result.save(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    other = octify.convert(net, X, 0.25, rules="everywhere")
    other.save(tmp_path)
    assert octify.Plan.load(tmp_path / "plan.json") == other.plan
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 4


def test_save_where_nothing_can_be_written(result: octify.Result, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OctifyError, match="cannot write"):
        result.save(tmp_path / "file" / "folder")
    assert (tmp_path / "file").read_text() == ""


def test_load(result: octify.Result, tmp_path: Path) -> None:
    result.save(tmp_path / "saved")
    torch.manual_seed(1)
    loaded = octify.load(tmp_path / "saved", Net().eval())
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(x), result.model(x))
    assert octify.load(str(tmp_path / "saved"), Net().train()).training


def test_load_with_another_model(result: octify.Result, tmp_path: Path) -> None:
    result.save(tmp_path / "saved")
    with pytest.raises(PlanError, match="does not fit this model"):
        octify.load(tmp_path / "saved", Net(width=16))


def test_load_from_nowhere(net: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="cannot be read"):
        octify.load(tmp_path / "none", net)


def test_load_without_weights(net: nn.Module, result: octify.Result, tmp_path: Path) -> None:
    result.save(tmp_path / "saved")
    (tmp_path / "saved" / "weights.safetensors").unlink()
    with pytest.raises(SourceError, match="weights cannot be read") as caught:
        octify.load(tmp_path / "saved", net)
    assert "weights.safetensors" in (caught.value.where or "")


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_load_corrupt_weights(net: nn.Module, result: octify.Result, tmp_path: Path, kept: int) -> None:
    """A file cut off in its length, its header or its data."""
    result.save(tmp_path / "saved")
    file = tmp_path / "saved" / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(SourceError, match="weights cannot be read"):
        octify.load(tmp_path / "saved", net)


def test_load_weights_of_another_conversion(net: nn.Module, result: octify.Result, tmp_path: Path) -> None:
    result.save(tmp_path / "saved")
    octify.convert(net, X, 0.25, rules="everywhere").save(tmp_path / "other")
    (tmp_path / "other" / "weights.safetensors").replace(tmp_path / "saved" / "weights.safetensors")
    with pytest.raises(PlanError, match="weights do not fit"):
        octify.load(tmp_path / "saved", net)


def test_load_is_strict_about_the_plan(net: nn.Module, result: octify.Result, tmp_path: Path) -> None:
    """An edited plan without the convolution that it is tied to is refused, and says with which."""
    result.save(tmp_path / "saved")
    file = tmp_path / "saved" / "plan.json"
    data = json.loads(file.read_text())
    (conv,) = (conv for conv in data["convolutions"] if conv["path"] == "conv2")
    conv["low_out"] = conv["low_out"][1:]
    file.write_text(json.dumps(data))
    with pytest.raises(PlanError, match="contradict") as caught:
        octify.load(tmp_path / "saved", net)
    assert "stem" in str(caught.value)
