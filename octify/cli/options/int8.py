"""Options of the int8 export."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from octify.cli.options.calibration import CalibrationSettings
from octify.errors import OctifyError

Int8Option = Annotated[
    bool,
    typer.Option(
        "--int8",
        help="Quantize the file (static, QDQ, weights per channel) and compare it with the float file on"
        " inputs kept aside: class, relative error, size, latency. Needs --calib.",
    ),
]
CalibOption = Annotated[
    str | None,
    typer.Option(
        "--calib",
        metavar="DATA",
        help="Inputs, without labels, to measure ranges on for --int8: a folder of images, .npy, .npz,"
        " .safetensors, .pt, or file.py:loader.",
    ),
]
MinAgreementOption = Annotated[
    float | None,
    typer.Option(
        "--min-agreement",
        metavar="SHARE",
        help="Least share of inputs, 0 to 1, whose class must be the float file's; below it, exit with code 1"
        " and write nothing.",
    ),
]
MaxErrorOption = Annotated[
    float | None,
    typer.Option(
        "--max-error",
        metavar="X",
        help="Largest relative error of the int8 file; above it, exit with code 1 and write nothing.",
    ),
]
ReduceRangeOption = Annotated[
    bool | None,
    typer.Option(
        "--reduce-range/--full-range",
        help="Weights of 7 bits, for onnxruntime on processors without VNNI, whose sums of 8-bit products"
        " overflow; or of 8 bits. Default: by this processor.",
    ),
]


@dataclass(frozen=True)
class Int8Settings:
    """The int8 options of one run, as typed."""

    enabled: bool
    data: CalibrationSettings
    min_agreement: float | None
    max_error: float | None
    reduce_range: bool | None

    def check(self, target: str) -> None:
        """Validate the options before torch is imported. Raises OctifyError."""
        if not self.enabled:
            self._refuse_strays()
            return
        if target == "ncnn":
            raise OctifyError(
                "ncnn takes no int8 ONNX file",
                why="it quantizes its own files, with its own tools",
                hint="leave out --int8, or --target onnxruntime or openvino",
            )
        if self.data.data is None:
            raise OctifyError(
                "--int8 needs --calib",
                why="ranges of values are measured on inputs like those the model will see",
                hint="--int8 --calib DATA",
            )
        if self.data.data == "synthetic":
            raise OctifyError(
                "--int8 does not take --calib synthetic",
                why="ranges and agreement measured on images that nobody will show the model say nothing",
                hint="give a hundred real inputs: --calib FOLDER",
            )
        if self.min_agreement is not None and not 0 <= self.min_agreement <= 1:
            raise OctifyError(
                f"--min-agreement is {self.min_agreement:g}", why="it is a share, 0 to 1", hint="0.99, say"
            )
        self.data.check()

    def _refuse_strays(self) -> None:
        values = {
            "--calib": self.data.data,
            "--mean": self.data.mean,
            "--std": self.data.std,
            "--resize": self.data.resize,
            "--crop": self.data.crop,
            "--bgr": self.data.bgr or None,
            "--min-agreement": self.min_agreement,
            "--max-error": self.max_error,
            "--reduce-range": self.reduce_range,
        }
        for option, value in values.items():
            if value is not None:
                raise OctifyError(
                    f"{option} is for --int8",
                    why="a float file needs no data",
                    hint=f"--int8, or no {option}",
                )
