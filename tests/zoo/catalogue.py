"""Which models there are: every architecture of torchvision and timm, by family and size.

The sizes and the shares of convolutions stand in ``census.csv``, which ``python -m tests.zoo --census``
writes; a model that is not in it is measured when it is run.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

CENSUS = Path(__file__).with_name("census.csv")
MAINLY = 0.5  # share of MACs that convolutions have in a CNN


@dataclass(frozen=True)
class Entry:
    """One architecture: ``timm:resnet50`` of the family ``timm:resnet``."""

    name: str
    family: str

    @property
    def library(self) -> str:
        return self.name.partition(":")[0]

    @property
    def architecture(self) -> str:
        return self.name.partition(":")[2]


@dataclass(frozen=True)
class Measured:
    """What a model has and does at its own input size, for one sample.

    MACs are of convolutions, of matrix products that stand for one (linear layers), and of the rest
    (attention). ``inputs`` is written like ``3x224x224``, several of them with a space between.
    ``problem`` says why nothing is known.
    """

    name: str
    family: str = ""
    parameters: int = 0
    inputs: str = ""
    conv_macs: int = 0
    linear_macs: int = 0
    other_macs: int = 0
    problem: str = ""

    @property
    def macs(self) -> int:
        return self.conv_macs + self.linear_macs + self.other_macs

    @property
    def conv_share(self) -> float:
        return self.conv_macs / self.macs if self.macs else 0.0

    @property
    def mainly_cnn(self) -> bool:
        return self.conv_share > MAINLY

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(map(int, part.split("x"))) for part in self.inputs.split())


def _torchvision_entries() -> list[Entry]:
    import torchvision

    entries = []
    for name in torchvision.models.list_models():
        module = torchvision.models.get_model_builder(name).__module__
        if ".quantization." not in module:
            family = module.removeprefix("torchvision.models.").replace(".", "/")
            entries.append(Entry(f"torchvision:{name}", f"torchvision:{family}"))
    return entries


def _timm_entries() -> list[Entry]:
    import timm
    from timm.models import _registry

    return [
        Entry(f"timm:{name}", f"timm:{_registry._model_to_module[name]}")
        for name in sorted(timm.list_models())
    ]


def entries() -> list[Entry]:
    """Every model of both libraries."""
    return _torchvision_entries() + _timm_entries()


def census() -> dict[str, Measured]:
    """The written census by name; empty before the first one."""
    if not CENSUS.exists():
        return {}
    kinds = {field.name: field.type for field in fields(Measured)}
    with CENSUS.open(newline="", encoding="utf-8") as file:
        rows = [
            {key: int(value) if kinds[key] == "int" else value for key, value in row.items()}
            for row in csv.DictReader(file)
        ]
    return {row["name"]: Measured(**row) for row in rows}  # type: ignore[arg-type]


def write_census(rows: Iterable[Measured]) -> None:
    """Write ``rows`` as the census."""
    with CENSUS.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Measured)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


_RESIZING = ("faster_rcnn", "mask_rcnn", "keypoint_rcnn", "retinanet", "fcos")


def build(name: str, side: int | None = None) -> nn.Module:
    """The model ``name`` with fresh weights, in eval mode.

    A model that resizes its images itself (torchvision's detection) resizes them to ``side``, if given.
    """
    library, _, architecture = name.partition(":")
    if library == "timm":
        import timm

        return timm.create_model(architecture).eval()
    import torchvision

    options: dict[str, Any] = {}
    if architecture in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    module = torchvision.models.get_model_builder(architecture).__module__
    if ".detection." in module or ".segmentation." in module:
        options["weights_backbone"] = None
    if side is not None and module.rpartition(".")[2] in _RESIZING:
        options |= {"min_size": side, "max_size": side}
    return torchvision.models.get_model(architecture, weights=None, **options).eval()


def own_sizes(name: str, model: nn.Module) -> tuple[tuple[int, ...], ...]:
    """Shapes (without the batch) of the inputs that the model was made for."""
    library, _, architecture = name.partition(":")
    if library == "timm":
        return (tuple(model.pretrained_cfg["input_size"]),)  # type: ignore[union-attr,index,arg-type]
    import torchvision

    module = torchvision.models.get_model_builder(architecture).__module__
    if ".video." in module:
        return ((3, 16, 112, 112) if ".resnet" in module else (3, 16, 224, 224),)
    if ".optical_flow." in module:
        return ((3, 360, 480), (3, 360, 480))
    for part, size in ((".segmentation.", 520), (".inception", 299), (".detection.", 320)):
        if part in module:
            return ((3, size, size),)
    return ((3, 224, 224),)


def forward_arguments(name: str, inputs: Sequence[Tensor]) -> tuple[Any, ...]:
    """What the model is called with: detection models take a list of images."""
    import torchvision

    library, _, architecture = name.partition(":")
    if (
        library == "torchvision"
        and ".detection." in torchvision.models.get_model_builder(architecture).__module__
    ):
        return ([x[0] for x in inputs],)
    return tuple(inputs)


def without_data(name: str) -> nn.Module:
    """The model ``name`` on the ``meta`` device."""
    try:
        with torch.device("meta"):
            return build(name)
    except Exception:  # a constructor that reads values
        return build(name).to("meta")


def measure(name: str) -> Measured:
    """Count what the model has and does; what cannot be run to its end says so in ``problem``."""
    first = _measured(name, "meta")
    if not first.problem:
        return first
    second = _measured(name, "cpu")  # a forward that reads values: fake tensors know some
    return second if not second.problem or second.macs > first.macs else first


def _measured(name: str, device: str) -> Measured:
    parameters, sizes, problem = 0, (), ""
    counter = FlopCounterMode(display=False)
    try:
        model = without_data(name) if device == "meta" else build(name)
        model.requires_grad_(False)  # the counter fails on a parameter that is a module's input
        parameters, sizes = sum(p.numel() for p in model.parameters()), own_sizes(name, model)
        fake = nullcontext() if device == "meta" else FakeTensorMode(allow_non_fake_inputs=True)
        with fake, torch.no_grad(), counter:
            inputs = [torch.empty(1, *size, device=device) for size in sizes]
            model(*forward_arguments(name, inputs))
    except Exception as error:  # whatever a model raises
        problem = brief(error)
    macs = {"conv": 0, "linear": 0, "other": 0}
    for op, flops in counter.get_flop_counts().get("Global", {}).items():
        macs[_kind(str(op))] += flops // 2
    written = " ".join("x".join(map(str, size)) for size in sizes)
    return Measured(name, "", parameters, written, macs["conv"], macs["linear"], macs["other"], problem)


def brief(error: BaseException) -> str:
    """Type and first line of an error, at most 200 characters."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}".strip()[:200]


def _kind(op: str) -> str:
    op = op.removeprefix("aten.")
    if op.startswith(("convolution", "_convolution", "cudnn_conv")):
        return "conv"
    return "linear" if op.startswith(("addmm", "mm")) else "other"


def size_groups(known: Sequence[Measured], groups: int) -> list[list[Measured]]:
    """``known`` in order of parameters, cut into at most ``groups`` groups of about one length."""
    ordered = sorted(known, key=lambda m: (m.parameters, m.name))
    count = min(groups, len(ordered))
    cuts = [round(i * len(ordered) / count) for i in range(count + 1)] if count else []
    return [ordered[a:b] for a, b in pairwise(cuts)]


def representatives(per_family: int = 3) -> list[str]:
    """Of every family the smallest CNN of each of its size groups, by the census."""
    families: dict[str, list[Measured]] = {}
    for measured in census().values():
        if measured.mainly_cnn:
            families.setdefault(measured.family, []).append(measured)
    return [
        group[0].name for family in sorted(families) for group in size_groups(families[family], per_family)
    ]
