"""Names of other libraries' layers: each is there, and each question about a BatchNorm has one home."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import octify
from octify.ops import table
from octify.trace import batchnorm, vendors
from octify.trace.aliases import is_identity

PACKAGE = Path(octify.__file__).parent
NAMES = sorted(
    {n for value in vars(vendors).values() if isinstance(value, tuple) for n in value}
    | {f"{vendors.EVO_NORM}{kind}" for kind in ("S0", "S0a", "S1", "S1a", "S2", "S2a")}
)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_that_of_something(name: str) -> None:
    place, _, last = name.rpartition(".")
    pytest.importorskip(name.split(".")[0])
    module = importlib.import_module(place)
    assert last == "*" or callable(getattr(module, last))


def test_names_stand_in_one_file() -> None:
    files = [file for file in sorted(PACKAGE.rglob("*.py")) if file.name != "vendors.py"]
    wrong = [
        f"{file.relative_to(PACKAGE)}: {word}"
        for file in files
        for word in ('"timm.layers', '"timm.models', '"torchvision.ops', '"torchvision.models.convnext')
        if word in file.read_text(encoding="utf-8")
    ]
    assert not wrong


def _map(kind: str) -> Tensor:
    """What a class of this name takes."""
    dims = {"1": 1, "3": 3}.get(kind.removesuffix("d")[-1], 2)
    return torch.randn(2, 3, *(4,) * dims)


class Own(nn.Dropout):
    """Dropout in eval mode as well."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, training=True)


IDENTITIES: tuple[Callable[[], nn.Module], ...] = (
    *(nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout),
    nn.FeatureAlphaDropout,
)


@pytest.mark.parametrize("make", IDENTITIES)
def test_identities_in_eval_mode(make: Callable[[], nn.Module]) -> None:
    x = _map(make.__name__)
    assert is_identity(make()) and make().eval()(x).equal(x)
    assert table().find_module(type(make())) is not None


@pytest.mark.parametrize("name", vendors.DROPOUTS)
def test_other_libraries_dropouts_are_identities_in_eval_mode(name: str) -> None:
    place, _, last = name.rpartition(".")
    pytest.importorskip(name.split(".")[0])
    kind = getattr(importlib.import_module(place), last)
    made = {
        "DropPath": lambda: kind(0.5),
        "StochasticDepth": lambda: kind(0.5, "row"),
        "DropBlock2d": lambda: kind(0.5, 3) if place.startswith("torchvision") else kind(0.5),
        "DropBlock3d": lambda: kind(0.5, 3),
    }[last]()
    x = _map(last)
    assert is_identity(made) and made.eval()(x).equal(x)


def test_what_computes_is_no_identity() -> None:
    assert not any(map(is_identity, (Own(), nn.ReLU(), nn.Linear(1, 1), None)))


def test_questions_about_a_batch_norm() -> None:
    class Mine(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    questions = (
        *(batchnorm.is_affine_norm, batchnorm.is_batch_norm),
        *(batchnorm.keeps_statistics, batchnorm.is_known_batch_norm),
    )
    answers = {
        nn.BatchNorm2d(2): (True, True, True, True),
        nn.BatchNorm1d(2, track_running_stats=False): (False, True, False, False),
        nn.SyncBatchNorm(2): (True, True, True, True),
        Mine(2): (True, True, True, False),
        nn.InstanceNorm2d(2, track_running_stats=True): (True, False, False, False),
        nn.GroupNorm(1, 2): (False, False, False, False),
    }
    for module, answer in answers.items():
        assert tuple(ask(module) for ask in questions) == answer, module
    misc = pytest.importorskip("torchvision.ops.misc")
    assert tuple(ask(misc.FrozenBatchNorm2d(2)) for ask in questions) == (True, False, False, True)
