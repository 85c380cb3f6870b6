"""The option ``--calib`` and those that modify it."""

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
    """Calibration effort."""

    norm = "norm"
    fast = "fast"
    standard = "standard"
    thorough = "thorough"


class Order(str, enum.Enum):
    """Criterion by which the low channels are chosen."""

    last = "last"
    energy = "energy"
    greedy = "greedy"


CalibOption = Annotated[
    str | None,
    typer.Option(
        "--calib",
        metavar="DATA",
        help="Inputs, without labels, to calibrate the converted model on: a folder of images, .npy, .npz,"
        " .safetensors, .pt, file.py:loader, or the word synthetic (images generated from the network's"
        " BatchNorm statistics).",
    ),
]
EffortOption = Annotated[
    Effort,
    typer.Option(
        "--calib-effort",
        help="norm: BatchNorm statistics only; fast: also least squares; standard: also better channels and"
        " minutes of distillation; thorough: more distillation.",
    ),
]
OrderOption = Annotated[
    Order | None,
    typer.Option(
        "--channel-order",
        help="Criterion for the low channels; last is the paper's. Default: set by --calib-effort.",
    ),
]
MeanOption = Annotated[
    str | None,
    typer.Option(
        "--mean", metavar="M[,M,M]", help="Per-channel mean, subtracted from pixels scaled to [0, 1]."
    ),
]
StdOption = Annotated[
    str | None,
    typer.Option("--std", metavar="S[,S,S]", help="Per-channel standard deviation to divide pixels by."),
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
        help="Device for calibration, such as cuda or cuda:1. Default: the device the model file puts its"
        " model on. The written files load on any machine.",
    ),
]
SeedOption = Annotated[
    int,
    typer.Option(
        "--seed", metavar="N", min=-(2**63), max=2**63 - 1, help="Seed for calibration's random choices."
    ),
]
BgrOption = Annotated[
    bool,
    typer.Option(
        "--bgr",
        help="Feed channels in BGR order, as OpenCV reads them; --mean and --std follow that order.",
    ),
]
MaxErrorOption = Annotated[
    float | None,
    typer.Option(
        "--max-error",
        metavar="X",
        help="Largest relative output error to accept; above it, exit with code 1 and write nothing.",
    ),
]
TargetMacsOption = Annotated[
    float | None,
    typer.Option(
        "--target-macs",
        metavar="RATIO",
        help="Largest share of the original's MACs, such as 0.6, in place of --alpha; each group of coupled"
        " layers gets the alpha with the smallest error on --calib data.",
    ),
]
TargetErrorOption = Annotated[
    float | None,
    typer.Option(
        "--target-error",
        metavar="X",
        help="Largest relative output error on held-out --calib inputs, in place of --alpha; searches for the"
        " cheapest such model and calibrates a dozen of them.",
    ),
]
TargetLatencyOption = Annotated[
    float | None,
    typer.Option(
        "--target-latency",
        metavar="MS",
        help="Most milliseconds per call, in place of --alpha: searches for the conversion of least error"
        " that is as fast in --latency-runtime, with --latency-threads, at the batch of --input. Whole models"
        " are timed.",
    ),
]


@dataclass(frozen=True)
class CalibrationSettings:
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
    target_drop: float | None = None
    target_latency: float | None = None
    device: str | None = None
    bgr: bool = False

    def check(self) -> None:
        """Validate the options before torch is imported. Raises OctifyError."""
        from octify.calibrate.options import Target
        from octify.data import check_data

        target = Target.of(self.target_macs, self.target_error, self.target_drop, self.target_latency)
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
        """Return ``convert()`` with the model on ``--device``; model and result end on the CPU."""
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
        """Open the calibration data for ``source``'s model."""
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
    """Parse the value of ``option``: one number, or several separated by commas."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise OctifyError(
            f"{option} is {text!r}", why="it is one number, or one for each channel", hint=f"{option} 0.5"
        ) from error


def inputs_of(data: Data | str | None) -> Any:
    """Argument for the parameter ``calibration`` of ``octify.convert``."""
    return data if data is None or isinstance(data, str) else data.inputs


def warnings_of(data: Data | str | None) -> tuple[str, ...]:
    """Warnings about assumptions on the data and about items that were skipped."""
    if data is None or isinstance(data, str):
        return ()
    if not data.skipped:
        return tuple(data.warnings)
    more = f" and {len(data.skipped) - _NAMED} more" if len(data.skipped) > _NAMED else ""
    named = "; ".join(data.skipped[:_NAMED])
    skipped = f"{len(data.skipped)} image(s) could not be read and were left out: {named}{more}"
    return (*data.warnings, skipped)


def with_data(result: Result, data: Data | str | None) -> Result:
    """Copy of ``result`` with the data's warnings in its report."""
    report = replace(result.report, warnings=(*warnings_of(data), *result.report.warnings))
    return replace(result, report=report)


def require_error(report: Report, most: float | None) -> None:
    """Raise CheckFailed when the calibrated model's output error is above ``most``."""
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
