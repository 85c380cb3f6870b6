"""Calibration lowers the error of every kind of convolution that the converter makes.

Each network is tiny and has settled norms; images are smooth and random. Errors are those of the outputs on
held-out images, relative to how much the outputs differ between images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import octify
from tests.models.zoo import settle

pytestmark = pytest.mark.usefixtures("short_calibration")

CHANNELS = 16
IMAGES, HELD_OUT = 48, 64


def smooth(count: int, seed: int, size: tuple[int, ...] = (16, 16)) -> Tensor:
    """Random images (count, 3, *size) whose neighbouring pixels are alike, as in photographs."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, *(n // 3 for n in size), generator=generator)
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(size)]
    fine = torch.randn(count, 3, *size, generator=generator)
    return F.interpolate(coarse, size=size, mode=mode) + 0.1 * fine


class Around(nn.Module):
    """``part`` (16 channels in and out, of any size) between a stem, a convolution and a head."""

    def __init__(
        self, part: nn.Module, dims: int = 2, norm: Callable[[int], nn.Module] | None = None
    ) -> None:
        super().__init__()
        conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims]
        made = norm or {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dims]
        self.stem = nn.Sequential(conv(3, CHANNELS, 3, padding=1), made(CHANNELS), nn.ReLU())
        self.part = part
        self.norm = made(CHANNELS)
        self.last = conv(CHANNELS, CHANNELS, 3, padding=1)
        self.head = nn.Linear(CHANNELS, 6)
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.part(self.stem(x))))
        return self.head(torch.relu(self.last(x)).mean(tuple(range(2, 2 + self.dims))))


def conv(kernel: int = 3, **options: object) -> nn.Module:
    options = {"padding": kernel // 2} | options
    return nn.Conv2d(CHANNELS, CHANNELS, kernel, **options)  # type: ignore[arg-type]


class Standardised(nn.Conv2d):
    """Weight standardisation (Qiao et al. 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        mean, std = w.mean((1, 2, 3), keepdim=True), w.std((1, 2, 3), keepdim=True)
        return F.conv2d(x, (w - mean) / (std + 1e-5) / 12, self.bias, self.stride, self.padding)


class ChannelsLast(nn.Module):
    """A ConvNeXt-like block: depthwise, LayerNorm and Linear layers on (N, H, W, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = conv(7, groups=CHANNELS)
        self.norm = nn.LayerNorm(CHANNELS)
        self.up, self.down = nn.Linear(CHANNELS, 4 * CHANNELS), nn.Linear(4 * CHANNELS, CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.mix(x).permute(0, 2, 3, 1))
        return x + self.down(F.gelu(self.up(y))).permute(0, 3, 1, 2)


class Tokens(nn.Module):
    """Linear layers of positions in a row, (N, H W, C), as behind attention (SwiftFormer)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()
        self.up, self.down = nn.Linear(CHANNELS, 2 * CHANNELS), nn.Linear(2 * CHANNELS, CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        tokens = y.flatten(2).transpose(1, 2)
        return y + self.down(torch.relu(self.up(tokens))).transpose(1, 2).reshape(y.shape)


class Residual(nn.Module):
    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.a, self.b = conv(stride=stride, bias=False), conv(bias=False)
        self.na, self.nb = nn.BatchNorm2d(CHANNELS), nn.BatchNorm2d(CHANNELS)
        self.short = nn.Identity() if stride == 1 else conv(1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.short(x) + self.nb(self.b(torch.relu(self.na(self.a(x)))))


class Dense(nn.Module):
    """Two layers, each reading all before it (DenseNet), and a transition."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(), nn.Conv2d(2 * CHANNELS, CHANNELS, 3, padding=1)
        self.out = nn.Conv2d(3 * CHANNELS, CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = torch.relu(self.a(x))
        b = torch.relu(self.b(torch.cat([x, a], 1)))
        return self.out(torch.cat([x, a, b], 1))


class Squeeze(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()
        self.down, self.up = nn.Conv2d(CHANNELS, 4, 1), nn.Conv2d(4, CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.conv(x))
        return y * torch.sigmoid(self.up(torch.relu(self.down(y.mean((2, 3), keepdim=True)))))


class Twice(nn.Module):
    """One convolution at two places."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(torch.relu(self.conv(x)))


def chain(*parts: nn.Module) -> nn.Module:
    return nn.Sequential(*parts)


def group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(2, channels)


class LayerNorm(nn.LayerNorm):
    """Over the channels of (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


KINDS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: Around(conv()),
    "7x7": lambda: Around(conv(7)),
    "1x1": lambda: Around(conv(1)),
    "strided": lambda: Around(conv(stride=2)),
    "strided 1x1": lambda: Around(conv(1, stride=2)),
    "grouped": lambda: Around(conv(groups=2)),
    "depthwise": lambda: Around(chain(conv(groups=CHANNELS), nn.BatchNorm2d(CHANNELS), nn.ReLU(), conv(1))),
    "depthwise strided": lambda: Around(chain(conv(5, groups=CHANNELS, stride=2), nn.ReLU(), conv(1))),
    "dilated": lambda: Around(conv(padding=2, dilation=2)),
    "transposed 2x2/2": lambda: Around(nn.ConvTranspose2d(CHANNELS, CHANNELS, 2, 2)),
    "transposed 4x4/2": lambda: Around(nn.ConvTranspose2d(CHANNELS, CHANNELS, 4, 2, 1)),
    "padding module": lambda: Around(chain(nn.ReflectionPad2d(1), conv(padding=0))),
    "constant padding": lambda: Around(chain(nn.ZeroPad2d((0, 1, 0, 1)), conv(padding=0, stride=2))),
    "reflect": lambda: Around(conv(padding_mode="reflect")),
    "replicate": lambda: Around(conv(padding_mode="replicate")),
    "circular": lambda: Around(conv(padding_mode="circular")),
    "weight-standardised": lambda: Around(Standardised(CHANNELS, CHANNELS, 3, padding=1)),
    "channels last": lambda: Around(ChannelsLast()),
    "tokens": lambda: Around(Tokens()),
    "1-D": lambda: Around(nn.Conv1d(CHANNELS, CHANNELS, 3, padding=1), 1),
    "3-D": lambda: Around(nn.Conv3d(CHANNELS, CHANNELS, 3, padding=1), 3),
    "GroupNorm": lambda: Around(chain(conv(), group_norm(CHANNELS), nn.ReLU(), conv()), 2, group_norm),
    "LayerNorm": lambda: Around(chain(conv(), LayerNorm(CHANNELS), nn.ReLU(), conv()), 2, LayerNorm),
    "squeeze and excitation": lambda: Around(Squeeze()),
    "dense": lambda: Around(Dense()),
    "residual": lambda: Around(Residual()),
    "residual strided": lambda: Around(Residual(2)),
    "called twice": lambda: Around(Twice()),
    "max pool": lambda: Around(chain(nn.MaxPool2d(3, 2, 1), conv())),
    "max pools to an odd map": lambda: Around(
        chain(conv(), nn.ReLU(), nn.MaxPool2d(2), conv(), nn.ReLU(), nn.MaxPool2d(2), conv())
    ),
    "SiLU": lambda: Around(chain(conv(), nn.BatchNorm2d(CHANNELS), nn.SiLU(), conv())),
    "PReLU": lambda: Around(chain(conv(), nn.PReLU(CHANNELS), conv())),
}


def sides(kind: str) -> tuple[int, ...]:
    special = {"1-D": (32,), "3-D": (6, 6, 6), "max pools to an odd map": (28, 28)}
    return special.get(kind, (16, 16))


EFFORTS = ("none", "norm", "fast", "standard")


@torch.no_grad()
def errors_of(
    kind: str, images: int = IMAGES, efforts: Sequence[str] = EFFORTS, seed: int = 0
) -> dict[str, float]:
    """Held-out relative output errors: uncalibrated and behind every effort."""
    torch.manual_seed(seed)
    model, size = KINDS[kind](), sides(kind)
    settle(model, [smooth(64, seed, size) for seed in (1, 2)])
    data, test = smooth(images, 3, size), smooth(HELD_OUT, 4, size)
    wanted = model(test)
    spread = (wanted - wanted.mean(0)).norm()
    found = {}
    for effort in efforts:
        calibration = None if effort == "none" else [data]
        with torch.enable_grad():
            result = octify.convert(
                model,
                data[:1],
                rules="everywhere",
                calibration=calibration,
                effort=effort if calibration else "fast",
            )
        assert any(conv.path.startswith("part") and conv.converted for conv in result.plan.convs), kind
        found[effort] = float((result.model(test) - wanted).norm() / spread)
    return found


# What the default suite leaves to ``-m zoo``: relatives of the others.
RELATIVES = (
    *(
        "7x7",
        "strided 1x1",
        "depthwise strided",
        "transposed 2x2/2",
        "padding module",
        "replicate",
        "circular",
    ),
    *("3-D", "LayerNorm", "residual", "max pool", "SiLU", "constant padding", "weight-standardised"),
)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.zoo] * (kind in RELATIVES)) for kind in KINDS]
)
def test_calibration_lowers_the_error_on_other_images(kind: str) -> None:
    error = errors_of(kind)
    assert error["fast"] < min(error["none"], error["norm"]), error
    assert error["standard"] < min(error["none"], error["norm"]), error


@pytest.mark.parametrize("kind", ["1x1", "grouped", "squeeze and excitation"])
@pytest.mark.parametrize("seed", [0, 1])
def test_one_image_is_better_than_none(kind: str, seed: int) -> None:
    error = errors_of(kind, 1, ("none", "fast", "standard"), seed)
    assert error["fast"] < error["none"], error
    assert error["standard"] < error["none"], error


def test_norms_of_one_image_are_better_than_none_nearly_always() -> None:
    kinds = ("plain", "1x1", "grouped", "squeeze and excitation", "residual", "strided", "dense")
    errors = [errors_of(kind, 1, ("none", "norm"), seed) for kind in kinds for seed in (0, 1)]
    assert sum(error["norm"] < error["none"] for error in errors) >= len(errors) - 2
