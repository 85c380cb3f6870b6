"""Sources that are packages: each builds its models offline, converts them, and says what is missing.

pip install -c constraints.txt -e '.[test,packages]'
"""

from __future__ import annotations

import json
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import octify
from octify.artefact.origin import read_origin
from octify.cli.main import main
from octify.errors import SourceError
from octify.source import load_source
from octify.source.offline import offline
from tests.places import SAMPLES

pytestmark = pytest.mark.packages

SMALL_VAE = (
    "(block_out_channels=[32, 64], layers_per_block=1, norm_num_groups=8,"
    " down_block_types=['DownEncoderBlock2D', 'DownEncoderBlock2D'],"
    " up_block_types=['UpDecoderBlock2D', 'UpDecoderBlock2D'])"
)
TARGETS = {
    "transformers": "hf:resnet(depths=[1, 1], hidden_sizes=[32, 64], embedding_size=32, layer_type='basic')",
    "ultralytics": "ultralytics:yolov8n.yaml(nc=3)",
    "segmentation_models_pytorch": "smp:Unet(encoder_name='resnet18', classes=2)",
    "diffusers": f"diffusers:AutoencoderKL:encoder{SMALL_VAE}",
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test where a connection is tried."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)


def needs(package: str) -> None:
    """Skip the test where a package is missing. Nothing is imported: Ultralytics would look for a network."""
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


def ultralytics_tasks() -> Any:
    needs("ultralytics")
    with offline("ultralytics"):
        return import_module("ultralytics.nn.tasks")


def outputs(model: nn.Module, *inputs: torch.Tensor) -> list[torch.Tensor]:
    from tests.packages.check import tensors

    with torch.no_grad():
        return tensors(model(*inputs))


@pytest.mark.parametrize("package", TARGETS)
def test_octify_convert(package: str, tmp_path: Path) -> None:
    needs(package)
    out = tmp_path / "out"
    arguments = ["convert", TARGETS[package], "--alpha", ".5", "--input", "1,3,64,64", "-o", str(out), "-q"]
    assert main(arguments) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["totals"]["converted"] and report["totals"]["macs_after"] < report["totals"]["macs_before"]
    origin = read_origin(out)
    assert origin is not None
    source = load_source(origin.target, inputs=["1x3x64x64"])
    assert outputs(octify.load(out, source.model), *source.example_inputs)


@pytest.mark.parametrize("package", TARGETS)
def test_a_source_is_seeded(package: str) -> None:
    needs(package)
    first, second = (load_source(TARGETS[package], inputs=["1x3x64x64"]) for _ in range(2))
    for a, b in zip(first.model.state_dict().values(), second.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


# --- transformers ---------------------------------------------------------------------------------


def small_resnet() -> Any:
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        depths=[1, 1], hidden_sizes=[16, 32], embedding_size=16, layer_type="basic", num_labels=5
    )
    return transformers.ResNetForImageClassification(config)


def test_hf_folder_with_weights_and_without(tmp_path: Path) -> None:
    model = small_resnet()
    model.save_pretrained(tmp_path / "net")
    x = torch.randn(1, 3, 32, 32)
    source = load_source(f"hf:{tmp_path / 'net'}")
    for ours, theirs in zip(source.model.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.allclose(outputs(source.model, x)[0], outputs(model.eval(), x)[0], atol=1e-5)
    (tmp_path / "net" / "model.safetensors").unlink()
    bare = load_source(f"hf:{tmp_path / 'net'}")
    assert type(bare.model) is type(model)
    assert not torch.equal(outputs(bare.model, x)[0], outputs(model, x)[0])


def test_hf_refuses_weights_that_leave_a_part_unset(tmp_path: Path) -> None:
    model = small_resnet()
    model.resnet.save_pretrained(tmp_path / "net")
    config = json.loads((tmp_path / "net" / "config.json").read_text())
    config["architectures"] = ["ResNetForImageClassification"]
    (tmp_path / "net" / "config.json").write_text(json.dumps(config))
    with pytest.raises(SourceError, match="unset") as caught:
        load_source(f"hf:{tmp_path / 'net'}")
    assert "classifier" in str(caught.value.why)


def test_hf_never_runs_code_beside_a_checkpoint(tmp_path: Path) -> None:
    model = small_resnet()
    folder, mark = tmp_path / "net", tmp_path / "mark"
    model.save_pretrained(folder)
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass C: pass\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModel": "evil.C"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(SourceError):
        load_source(f"hf:{folder}")
    assert not mark.exists()


def test_hf_never_unpickles(tmp_path: Path) -> None:
    model = small_resnet()
    folder, mark = tmp_path / "net", tmp_path / "mark"
    model.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save({"evil": Planted(mark)}, folder / "pytorch_model.bin")
    with pytest.raises(SourceError):
        load_source(f"hf:{folder}")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("hf:microsoft/resnet-50", "download"),
        ("hf:resnett", "hf:resnet"),
        ("hf:resnet(depth=[1])", "has no depth"),
        ("hf:bert", "reads input_ids|no image model"),
        ("hf:resnet(3)", "has no name"),
        ("hf:https://a/b", "is an address"),
    ],
)
def test_hf_mistakes(target: str, told: str) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(SourceError) as caught:
        load_source(target)
    assert any(part in str(caught.value) for part in told.split("|"))


def test_hf_class(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    target = "hf:MobileNetV2ForSemanticSegmentation(num_labels=3, depth_multiplier=0.35)"
    source = load_source(target, inputs=["1x3x64x64"])
    assert isinstance(source.model, transformers.MobileNetV2ForSemanticSegmentation)


# --- Ultralytics ----------------------------------------------------------------------------------


class Planted:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


def checkpoint(path: Path, **more: object) -> nn.Module:
    tasks = ultralytics_tasks()
    torch.manual_seed(0)
    model: nn.Module = tasks.DetectionModel("yolov8n.yaml", ch=3, nc=3, verbose=False).eval()
    torch.save({"model": model.half(), "ema": None, "train_args": {"imgsz": 64}, **more}, path)
    return model.float()


def test_ultralytics_checkpoint_is_loaded_without_running_code(tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "best.pt")
    source = load_source(f"ultralytics:{tmp_path / 'best.pt'}")
    assert source.example_inputs[0].shape == (1, 3, 64, 64)
    for ours, theirs in zip(
        outputs(source.model, *source.example_inputs), outputs(model, *source.example_inputs), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_ultralytics_checkpoint_that_would_run_code(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    checkpoint(tmp_path / "best.pt", evil=Planted(mark))
    with pytest.raises(SourceError, match="pickled") as caught:
        load_source(f"ultralytics:{tmp_path / 'best.pt'}")
    assert not mark.exists()
    assert "--weights" in str(caught.value.hint)
    torch.load(tmp_path / "best.pt", weights_only=False)
    assert mark.exists()  # the trap works, so the check above can fail


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("activation: __import__('os').system('touch {mark}')", "would be run"),
        ("activation: nn.SiLU(__import__('os').system('touch {mark}'))", "would be run"),
        ("activation: torch.nn.LeakyReLU(0.1)", None),
        ("activation: nn.SiLU", "would be run"),
    ],
)
def test_ultralytics_activation_is_not_evaluated(tmp_path: Path, line: str, told: str | None) -> None:
    ultralytics_tasks()
    from ultralytics.utils.checks import check_yaml

    mark, file = tmp_path / "mark", tmp_path / "net.yaml"
    whole = Path(check_yaml("yolov8.yaml")).read_text()
    file.write_text(line.format(mark=mark) + "\n" + whole)
    if told is None:
        assert load_source(f"ultralytics:{file}", inputs=["1x3x64x64"])
    else:
        with pytest.raises(SourceError, match=told):
            load_source(f"ultralytics:{file}")
    assert not mark.exists()


@pytest.mark.parametrize(
    "layer", ["torch_safe_load", "check_requirements", "nn.modules", "os", "Nope", "nn.functional"]
)
def test_ultralytics_layers_are_layers(tmp_path: Path, layer: str) -> None:
    needs("ultralytics")
    file = tmp_path / "net.yaml"
    file.write_text(f"nc: 2\nbackbone:\n  - [-1, 1, {layer}, ['x.pt']]\nhead:\n  - [-1, 1, Classify, [nc]]\n")
    with pytest.raises(SourceError, match="not a layer"):
        load_source(f"ultralytics:{file}")


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("ultralytics:yolov8n.pt", "download"),
        ("ultralytics:yolov8n", "yolov8n.yaml"),
        ("ultralytics:nosuch.yaml", "neither a file nor a configuration"),
        ("ultralytics:yolov8n.yaml(depth=3)", "nc=3"),
        ("ultralytics:https://a/b.yaml", "is an address"),
    ],
)
def test_ultralytics_mistakes(target: str, told: str) -> None:
    needs("ultralytics")
    with pytest.raises(SourceError) as caught:
        load_source(target)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "name", ["yolov8n-seg.yaml", "yolov8n-cls.yaml", "yolov8n-pose.yaml", "yolov8n-obb.yaml"]
)
def test_ultralytics_tasks(name: str) -> None:
    needs("ultralytics")
    source = load_source(f"ultralytics:{name}", inputs=["1x3x64x64"])
    assert outputs(source.model, *source.example_inputs)


# --- segmentation_models_pytorch ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("smp:Unett", "smp:Unet"),
        ("smp:Unet(encoder_name='resnet35')", "resnet34"),
        ("smp:Unet(encoder_weights='imagenet')", "downloads nothing"),
        ("smp:Unet(colour=3)", "colour"),
        ("smp:Unet('resnet18')", "has no name"),
    ],
)
def test_smp_mistakes(target: str, told: str) -> None:
    needs("segmentation_models_pytorch")
    with pytest.raises(SourceError) as caught:
        load_source(target)
    assert told in str(caught.value)


# --- diffusers ------------------------------------------------------------------------------------


def small_vae() -> Any:
    diffusers = pytest.importorskip("diffusers")
    return diffusers.AutoencoderKL(
        block_out_channels=(32, 64),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )


def test_diffusers_halves_are_what_the_autoencoder_computes(tmp_path: Path) -> None:
    vae = small_vae().eval()
    vae.save_pretrained(tmp_path / "vae")
    z, x = torch.randn(2, 4, 16, 24), torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        decoder = load_source(f"diffusers:{tmp_path / 'vae'}:decoder").model
        assert torch.equal(decoder(z), vae.decode(z).sample)
        encoder = load_source(f"diffusers:{tmp_path / 'vae'}:encoder").model
        assert torch.equal(encoder(x), vae.encode(x).latent_dist.parameters)


def test_diffusers_decoder_converts_whole(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    source = load_source(f"diffusers:AutoencoderKL:decoder{SMALL_VAE}", inputs=["1x4x16x16"])
    model = source.model.double()
    x = source.example_inputs[0].double()
    result = octify.convert(model, x, alpha=0.5, kernels="exact")
    reference = octify.reference(model, result.plan, x)
    upsampled = [conv for conv in result.plan.convs if "upsamplers" in conv.path]
    assert upsampled and all(conv.converted for conv in upsampled)
    with torch.no_grad():
        ours, theirs = result.model(x), reference(x)
    assert float((ours - theirs).abs().max()) < 1e-9 * float(theirs.abs().max())
    with torch.no_grad():  # other batches and sizes than the example's
        y = torch.randn(3, 4, 24, 32, dtype=torch.float64)
        assert float((result.model(y) - reference(y)).abs().max()) < 1e-9 * float(reference(y).abs().max())


def test_diffusers_decoder_is_calibrated_from_latents(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    from safetensors.torch import save_file

    save_file({"latents": torch.randn(16, 4, 8, 8)}, tmp_path / "latents.safetensors")
    out = tmp_path / "out"
    arguments = ["convert", f"diffusers:AutoencoderKL:decoder{SMALL_VAE}", "--input", "1x4x8x8"]
    arguments += [
        "--calib",
        str(tmp_path / "latents.safetensors"),
        "--calib-effort",
        "fast",
        "--alpha",
        "0.25",
    ]
    assert main([*arguments, "-o", str(out), "--onnx", str(out / "decoder.onnx"), "-q"]) == 0
    calibration = json.loads((out / "report.json").read_text())["calibration"]
    after, before = (calibration[when]["relative_error"] for when in ("after", "before"))
    assert after < before
    assert (out / "decoder.onnx").is_file()


def test_the_sample_of_latents_is_data() -> None:
    from octify.data import open_data

    data = open_data(f"{SAMPLES / 'latents.py'}:noise", nn.Conv2d(4, 8, 1), (1, 4, 16, 16), None)
    first = next(iter(data.inputs))
    assert tuple(first.shape[-3:]) == (4, 16, 16)


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("diffusers:AutoencoderKL", "which half"),
        ("diffusers:stabilityai/sd-vae-ft-mse:decoder", "download"),
        ("diffusers:AutoencoderKL:decoder(width=3)", "cannot be built"),
    ],
)
def test_diffusers_mistakes(target: str, told: str) -> None:
    pytest.importorskip("diffusers")
    with pytest.raises(SourceError) as caught:
        load_source(target)
    assert told in str(caught.value)


def test_the_sample_is_the_configuration_of_stable_diffusion() -> None:
    pytest.importorskip("diffusers")
    with torch.device("meta"):
        from octify.source.diffusers import build
        from octify.source.target import parse_target

        model, shapes = build(parse_target(f"diffusers:{SAMPLES / 'vae'}:decoder"))
    assert shapes == ["1x4x64x64"]
    assert sum(p.numel() for p in model.parameters()) == 49_490_199  # of the published decoder


# --- ONNX -----------------------------------------------------------------------------------------


def exported(folder: Path) -> tuple[nn.Module, Path]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.AdaptiveAvgPool2d(1)
    ).eval()
    octify.export_onnx(model, torch.randn(1, 3, 32, 32), folder / "net.onnx")
    return model, folder / "net.onnx"


def test_onnx_file(tmp_path: Path) -> None:
    needs("onnx2torch")
    model, path = exported(tmp_path)
    source = load_source(f"onnx:{path}")
    assert source.example_inputs[0].shape == (1, 3, 32, 32)
    x = torch.randn(2, 3, 32, 32)
    assert torch.allclose(outputs(source.model, x)[0], outputs(model, x)[0], atol=1e-6)
    out = tmp_path / "out"
    assert main(["convert", f"onnx:{path}", "--rules", "everywhere", "-o", str(out), "-q"]) == 0
    origin = read_origin(out)
    assert origin is not None and Path(origin.target.removeprefix("onnx:")).samefile(path)


def test_onnx_file_with_shapes_and_resizes_of_a_new_opset(tmp_path: Path) -> None:
    needs("onnx2torch")

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = nn.functional.interpolate(self.a(x).relu(), scale_factor=2.0, mode="nearest")
            return self.b(nn.functional.adaptive_avg_pool2d(y, 1).reshape(x.shape[0], 16))

    torch.manual_seed(0)
    model, x = Net().eval(), torch.randn(1, 3, 32, 32)
    octify.export_onnx(model, x, tmp_path / "net.onnx", dynamic_batch=False)
    source = load_source(f"onnx:{tmp_path / 'net.onnx'}")
    assert torch.allclose(outputs(source.model, x)[0], outputs(model, x)[0], atol=1e-6)


def test_onnx_file_that_is_misunderstood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("onnx2torch")
    import onnx2torch

    _, path = exported(tmp_path)
    right = onnx2torch.convert

    def wrong(file: Any) -> nn.Module:
        module = right(file)
        with torch.no_grad():
            next(p for p in module.parameters() if p.ndim == 4).mul_(1.1)
        return module

    monkeypatch.setattr(onnx2torch, "convert", wrong)
    with pytest.raises(SourceError, match="misunderstands"):
        load_source(f"onnx:{path}")


def test_onnx_file_with_an_operator_that_is_unknown(tmp_path: Path) -> None:
    needs("onnx2torch")
    import onnx
    from onnx import TensorProto, helper

    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3, 8, 8]) for n in "xy"]
    node = helper.make_node("Nonsense", ["x"], ["y"], domain="else")
    graph = helper.make_graph([node], "g", value[:1], value[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("else", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets), str(tmp_path / "net.onnx"))
    with pytest.raises(SourceError, match="cannot be built") as caught:
        load_source(f"onnx:{tmp_path / 'net.onnx'}")
    assert "Nonsense" in str(caught.value.why)
