"""``octify convert --calib``: every form of data, and what is told of data that will not do."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.cli.conftest import Octify, Outcome

pytestmark = pytest.mark.usefixtures("short_calibration")

Refused = Callable[..., str]
FAST = ("--calib-effort", "fast", "--rules", "everywhere")


def images(folder: Path, count: int, side: int = 40) -> None:
    folder.mkdir()
    generator = np.random.default_rng(0)
    for i in range(count):
        coarse = generator.integers(0, 255, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((side, side + i)).save(folder / f"{i:02d}.png")


def inputs(count: int = 24) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def error_of(outcome: Outcome) -> float:
    assert outcome.code == 0, outcome
    return float(outcome.json["calibration"]["after"]["relative_error"])


def test_a_folder_with_a_corrupt_image(octify: Octify, net: Path, tmp_path: Path) -> None:
    images(tmp_path / "photos", 12)
    (tmp_path / "photos" / "05b.jpg").write_bytes(b"no image")
    outcome = octify("convert", net, "--calib", "photos", "-o", "out", "--json", *FAST)
    assert 0 < error_of(outcome) < 1
    assert "1 image(s) could not be read" in outcome.err
    assert "05b.jpg" in outcome.err
    assert "a guess" in outcome.err  # the mean and deviation
    assert outcome.json["calibration"]["images"] == outcome.json["calibration"]["measured_on"] == 12
    assert not outcome.json["calibration"]["held_out"]  # they are too few
    given = octify("convert", net, "--calib", "photos", "--mean", ".5", "--std", ".2", "--json", *FAST)
    assert "a guess" not in given.err
    assert error_of(given) != error_of(outcome)


def test_tensor_files_and_a_loader_are_alike(octify: Octify, net: Path, tmp_path: Path) -> None:
    x = inputs()
    np.save(tmp_path / "x.npy", x.numpy())
    np.savez(tmp_path / "x.npz", x=x.numpy())
    torch.save({"inputs": x}, tmp_path / "x.pt")
    save_file({"x": x}, tmp_path / "x.safetensors")
    (tmp_path / "data.py").write_text(
        "import torch\nx = torch.load('x.pt')['inputs']\n"
        "def loader():\n    yield from zip(x.split(5), range(9))\n"
    )
    names = ("x.npy", "x.npz", "x.pt", "x.safetensors", "data.py:loader")
    found = {octify("convert", net, "--calib", name, "--json", "--dry-run", *FAST).out for name in names}
    assert len(found) == 1, [len(out) for out in found]


def test_an_error_that_is_too_large_fails_and_writes_nothing(
    octify: Octify, net: Path, tmp_path: Path, listing: Callable[[], set[str]]
) -> None:
    np.save(tmp_path / "x.npy", inputs().numpy())
    before = listing()
    outcome = octify("convert", net, "--calib", "x.npy", "-o", "out", "--max-error", "1e-9", *FAST)
    assert outcome.code == 1
    assert "above --max-error 1e-09" in outcome.err
    assert listing() == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--calib", "nowhere"), "no such calibration data: nowhere"),
        (("--calib", "empty"), "no images in empty"),
        (("--calib", "net.py"), "which loader in net.py?"),
        (("--calib", "net.py:nothing"), "has no nothing"),
        (("--calib", "net.py:Net"), "calibration needs an iterable"),
        (("--calib", "wide.npy"), "has shape 4x5x32x32"),
        (("--calib", "flat.npy"), "holds no tensor of 4 dimensions"),
        (("--calib", "bytes.npy"), "are uint8"),
        (("--calib", "pickled.pt"), "refuses to load"),
        (("--calib", "broken.npy"), "cannot be read"),
        (("--calib", "nan.npy"), "no usable calibration inputs"),
        (("--calib", "notes.txt"), "is not calibration data"),
        (("--max-error", "0.1"), "--max-error needs --calib"),
        (("--device", "cuda"), "--device needs --calib"),
        (("--calib", "synthetic", "--device", "gpu"), "'gpu' is not a device"),
        (("--calib", "synthetic", "--device", "cuda:99"), "there is no device cuda:99 here"),
        (("--calib", "synthetic", "--device", "meta"), "the meta device computes nothing"),
        (("--calib", "empty", "--mean", "x"), "--mean is 'x'"),
        (("--calib", "empty", "--mean", "1,2"), "--mean has 2 numbers"),
    ],
)
def test_bad_data(refused: Refused, net: Path, tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    (tmp_path / "empty").mkdir()
    np.save(tmp_path / "wide.npy", np.zeros((4, 5, 32, 32), np.float32))
    np.save(tmp_path / "flat.npy", np.zeros((4, 5), np.float32))
    np.save(tmp_path / "bytes.npy", np.zeros((4, 3, 32, 32), np.uint8))
    np.save(tmp_path / "nan.npy", np.full((4, 3, 32, 32), np.nan, np.float32))
    (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY")
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "pickled.pt").write_bytes(pickle.dumps(Path("x")))
    assert told in refused("convert", net, *arguments)
    assert not (tmp_path / "net-octave").exists()
