"""``--calib`` and what goes with it."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from octify.errors import CheckFailed, OctifyError

if TYPE_CHECKING:
    from octify.cli.session import Session
    from octify.conversion import Result
    from octify.data.format import Data
    from octify.report import Report
    from octify.source import Source

_NAMED = 5


class Effort(str, enum.Enum):
    """How much calibration does."""

    norm = "norm"
    fast = "fast"
    standard = "standard"
    thorough = "thorough"


class Order(str, enum.Enum):
    """How the low channels are chosen."""

    last = "last"
    energy = "energy"
    greedy = "greedy"


CalibOption = Annotated[
    str | None,
    typer.Option(
        "--calib",
        metavar="DATA",
        help="Repair the converted model with inputs like those it will see, no labels: a folder of images,"
        " .npy, .npz, .safetensors, .pt, file.py:loader, or the word synthetic (images made from the"
        " network's BatchNorm statistics).",
    ),
]
EffortOption = Annotated[
    Effort,
    typer.Option(
        "--calib-effort",
        help="norm: BatchNorm statistics only; fast: least squares; standard: and better channels, minutes"
        " of distillation; thorough: and more of it.",
    ),
]
OrderOption = Annotated[
    Order | None,
    typer.Option(
        "--channel-order",
        help="Which channels are low; by default what --calib-effort says. last: the paper's.",
    ),
]
MeanOption = Annotated[
    str | None,
    typer.Option("--mean", metavar="M[,M,M]", help="Of image files' pixels in [0, 1], subtracted."),
]
StdOption = Annotated[
    str | None, typer.Option("--std", metavar="S[,S,S]", help="Divided into the pixels of image files.")
]
ResizeOption = Annotated[
    int | None,
    typer.Option(
        "--resize", metavar="PIXELS", min=1, max=2**15, help="Shorter side of image files before the crop."
    ),
]
CropOption = Annotated[
    int | None,
    typer.Option(
        "--crop", metavar="PIXELS", min=1, max=2**15, help="Side of the centre crop. Default: the input size."
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help="What calibration runs on, such as cuda or cuda:1. Default: what the model file puts its model"
        " on. What is written can be read on any machine.",
    ),
]
SeedOption = Annotated[
    int,
    typer.Option("--seed", metavar="N", min=-(2**63), max=2**63 - 1, help="Of calibration's random choices."),
]
BgrOption = Annotated[
    bool,
    typer.Option(
        "--bgr", help="The model takes blue first, as OpenCV reads images; --mean and --std are in its order."
    ),
]
MaxErrorOption = Annotated[
    float | None,
    typer.Option(
        "--max-error",
        metavar="X",
        help="Fail (exit code 1, nothing written) when the relative output error stays larger than this.",
    ),
]
TargetMacsOption = Annotated[
    float | None,
    typer.Option(
        "--target-macs",
        metavar="RATIO",
        help="In place of --alpha: at most so much of the original's MACs, such as 0.6; every group of"
        " coupled layers gets the alpha that costs least, judged on --calib data.",
    ),
]
TargetErrorOption = Annotated[
    float | None,
    typer.Option(
        "--target-error",
        metavar="X",
        help="In place of --alpha: the cheapest model whose relative output error, on --calib inputs kept"
        " aside, is at most this; calibrates a dozen models.",
    ),
]


@dataclass(frozen=True)
class Settings:
    """The calibration options of one run, as typed."""

    data: str | None
    effort: str
    order: str | None
    mean: str | None
    std: str | None
    resize: int | None
    crop: int | None
    seed: int
    max_error: float | None = None
    target_macs: float | None = None
    target_error: float | None = None
    device: str | None = None
    bgr: bool = False

    def check(self) -> None:
        """Refuse, before torch is imported, options that cannot be right."""
        from octify.allocate.target import Target
        from octify.data import check_data

        target = Target.of(self.target_macs, self.target_error)
        if self.data is not None:
            check_data(self.data)
        elif target is not None:
            raise OctifyError(
                f"--target-{target.kind} needs --calib",
                why="it chooses alphas by errors that are measured on calibration data",
                hint=f"--target-{target.kind} {target.value:g} --calib DATA, or --calib synthetic",
            )
        elif self.max_error is not None:
            raise OctifyError(
                "--max-error needs --calib", why="the output error is measured on calibration data"
            )
        if self.device is not None and self.data is None:
            raise OctifyError(
                "--device needs --calib",
                why="nothing but calibration runs there",
                hint=f"--device {self.device} --calib DATA, or leave it out",
            )
        numbers(self.mean, "--mean")
        numbers(self.std, "--std")

    def on_device(self, source: Source, convert: Callable[[], Result]) -> Result:
        """What ``convert`` makes of the model on the device that was asked for; both end on the CPU."""
        if self.device is None:
            return convert()
        from octify.calibrate.device import device_named

        source.model.to(device_named(self.device))
        try:
            result = convert()
        finally:
            source.model.cpu()
        result.model.cpu()
        return result

    def open(self, run: Session, source: Source) -> Data | str | None:
        """The calibration data of ``source``'s model."""
        if self.data is None or self.data == "synthetic":
            return self.data
        from pathlib import Path

        from octify.data import open_data
        from octify.data.format import image_format

        shape = tuple(source.example_inputs[0].shape)
        form = None
        if Path(self.data).is_dir():
            form = image_format(
                source.model,
                shape,
                numbers(self.mean, "--mean"),
                numbers(self.std, "--std"),
                self.resize,
                self.crop,
                bgr=self.bgr,
            )
        run.progress(f"opening {self.data}")
        return open_data(self.data, source.model, shape, form)


def numbers(text: str | None, option: str) -> tuple[float, ...] | None:
    """One number, or several with commas between, as typed behind ``option``."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise OctifyError(
            f"{option} is {text!r}", why="it is one number, or one for each channel", hint=f"{option} 0.5"
        ) from error


def inputs_of(data: Data | str | None) -> Any:
    """What ``octify.convert`` takes as ``calibration``."""
    return data if data is None or isinstance(data, str) else data.inputs


def warnings_of(data: Data | str | None) -> tuple[str, ...]:
    """What in the data was assumed, or left out while it was read."""
    if data is None or isinstance(data, str):
        return ()
    if not data.skipped:
        return tuple(data.warnings)
    more = f" and {len(data.skipped) - _NAMED} more" if len(data.skipped) > _NAMED else ""
    named = "; ".join(data.skipped[:_NAMED])
    skipped = f"{len(data.skipped)} image(s) could not be read and were left out: {named}{more}"
    return (*data.warnings, skipped)


def with_data(result: Result, data: Data | str | None) -> Result:
    """``result``, with the data's warnings in its report."""
    report = replace(result.report, warnings=(*warnings_of(data), *result.report.warnings))
    return replace(result, report=report)


def require_error(report: Report, most: float | None) -> None:
    """CheckFailed when the calibrated model's output error is above ``most``."""
    if most is None:
        return
    if report.calibration is None:
        raise CheckFailed(
            "the output error could not be measured against --max-error",
            why="the model was not calibrated, because there is nothing to make images from",
            hint="give data: --calib FOLDER",
        )
    have = report.calibration.after.relative_error
    if not have <= most:
        raise CheckFailed(
            f"the relative output error is {have:.4f}, above --max-error {most:g}",
            why=f"measured on {report.calibration.measured_on} inputs after calibration",
            hint="a smaller --alpha, more --calib data, or --calib-effort thorough",
        )
