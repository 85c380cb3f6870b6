"""Sources that are packages, with stand-ins; tests/packages/test_sources.py has the packages themselves."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path

import pytest
from torch import nn

from octify.errors import SourceError
from octify.source import load_source, parse_target
from octify.source.offline import offline
from octify.source.target import PREFIXES
from tests.places import ROOT

TARGETS = {
    "timm": ("timm:resnet18", "timm", "zoo"),
    "torchvision": ("torchvision:resnet18", "torchvision", "zoo"),
    "hf": ("hf:resnet", "transformers", "hf"),
    "ultralytics": ("ultralytics:yolov8n.yaml", "ultralytics.nn.tasks", "ultralytics"),
    "smp": ("smp:Unet", "segmentation_models_pytorch", "smp"),
    "diffusers": ("diffusers:AutoencoderKL:decoder", "diffusers", "diffusers"),
    "onnx": ("onnx:net.onnx", "onnx2torch", "onnx"),
}


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_missing_package_is_told_with_the_line_that_installs_it(
    prefix: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    target, package, extra = TARGETS[prefix]
    monkeypatch.chdir(tmp_path)
    Path("net.onnx").write_bytes(b"")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SourceError, match="cannot be imported") as caught:
        load_source(target)
    assert caught.value.hint == f'pip install "octify[{extra}]"'
    assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_alone_asks_which_model(prefix: str) -> None:
    for text in (prefix, f"{prefix}:", f"{prefix}:(a=3)"):
        with pytest.raises(SourceError, match=f"which {prefix} model"):
            parse_target(text)


@pytest.mark.parametrize("prefix", ["hf", "ultralytics", "diffusers", "onnx"])
def test_addresses_are_not_fetched(prefix: str) -> None:
    with pytest.raises(SourceError, match="downloads nothing"):
        parse_target(f"{prefix}:https://example.org/net.onnx")


@pytest.fixture
def smp(monkeypatch: pytest.MonkeyPatch) -> type[nn.Module]:
    class Unet(nn.Sequential):
        def __init__(
            self,
            encoder_name: str = "resnet34",
            encoder_weights: str | None = "imagenet",
            in_channels: int = 3,
            classes: int = 1,
            **kwargs: object,
        ) -> None:
            assert os.environ["HF_HUB_OFFLINE"] == "1"
            super().__init__(nn.Conv2d(in_channels, classes, 3, padding=1))
            self.weights = encoder_weights

    package = types.ModuleType("segmentation_models_pytorch")
    package.Unet = Unet  # type: ignore[attr-defined]
    package.encoders = types.SimpleNamespace(get_encoder_names=lambda: ["resnet18", "resnet34"])  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", package)
    return Unet


def test_smp_builds_without_weights(smp: type[nn.Module]) -> None:
    source = load_source("smp:Unet(encoder_name='resnet18', classes=5, in_channels=1)")
    assert isinstance(source.model, smp)
    assert source.model.weights is None
    assert source.example_inputs[0].shape == (1, 1, 224, 224)
    assert source.model(*source.example_inputs).shape == (1, 5, 224, 224)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("(encoder_weights='imagenet')", "downloads nothing"),
        ("(encoder_name='resnet35')", "resnet34"),
        ("(colour=3)", "no parameter colour"),
        ("('resnet18')", "has no name"),
        ("(classes='two')", "cannot be built"),
    ],
)
def test_smps_mistakes(smp: type[nn.Module], arguments: str, told: str) -> None:
    with pytest.raises(SourceError) as caught:
        load_source(f"smp:Unet{arguments}")
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "target",
    [
        "timm:resnet18(pretrained=True)",
        "timm:resnet18(checkpoint_path='w.pth')",
        "torchvision:resnet18(weights='DEFAULT')",
        "torchvision:fcn_resnet50(weights_backbone='DEFAULT')",
    ],
)
def test_trained_weights_by_name_are_refused(target: str) -> None:
    with pytest.raises(SourceError, match="downloads nothing"):
        load_source(target)


def test_arguments_of_zoos() -> None:
    assert load_source("timm:resnet10t(num_classes=7)").model.num_classes == 7
    assert load_source("torchvision:resnet18(num_classes=7)").model.fc.out_features == 7
    with pytest.raises(SourceError, match="cannot build"):
        load_source("timm:resnet10t(nonsense=7)")


@pytest.mark.parametrize("value", [None, "0", "1"])
def test_offline_puts_the_environment_back(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if value is None:
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    else:
        monkeypatch.setenv("HF_HUB_OFFLINE", value)
    constants = types.ModuleType("huggingface_hub.constants")
    constants.HF_HUB_OFFLINE = value == "1"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub.constants", constants)
    with pytest.raises(ValueError), offline("a package"):
        assert os.environ["HF_HUB_OFFLINE"] == "1"
        assert constants.HF_HUB_OFFLINE
        raise ValueError
    assert os.environ.get("HF_HUB_OFFLINE") == value
    assert constants.HF_HUB_OFFLINE is (value == "1")
