"""``octify convert --calib`` with odd and broken data, and an interrupt in the middle of it."""

from __future__ import annotations

import json
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from octify.data.folder import UNREADABLE, images, read_image
from octify.data.format import ImageFormat
from octify.errors import OctifyError
from tests.cli.conftest import Octify, Signalled

pytestmark = pytest.mark.usefixtures("short_calibration")

Refused = Callable[..., str]
FAST = ("--calib-effort", "fast", "--rules", "everywhere")
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
FORM = ImageFormat(3, 16, (16, 16), MEAN, STD, assumed=False)


def levels() -> np.ndarray[Any, Any]:
    """Grey levels (16, 16), all multiples of 17, which every depth can hold."""
    return (np.arange(256).reshape(16, 16) // 16 * 17).astype(np.uint8)


def normalised(pixels: np.ndarray[Any, Any]) -> torch.Tensor:
    """(16, 16) or (16, 16, 3) of 0 to 255 as ``FORM`` says."""
    pixels = np.repeat(pixels[..., None], 3, 2) if pixels.ndim == 2 else pixels
    return torch.from_numpy((pixels / 255 - MEAN) / STD).permute(2, 0, 1).float()


def saved(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


def test_images_of_every_mode_become_what_the_options_say(tmp_path: Path) -> None:
    grey = levels()
    deep = grey.astype(np.uint16) * 257
    alpha = Image.fromarray(np.dstack([grey, grey, grey, 255 - grey]))
    palette = Image.fromarray(grey).convert("P")
    stored = {
        "L": saved(Image.fromarray(grey), tmp_path / "l.png"),
        "LA": saved(alpha.convert("LA"), tmp_path / "la.png"),
        "RGB": saved(Image.fromarray(grey).convert("RGB"), tmp_path / "rgb.png"),
        "RGBA": saved(alpha, tmp_path / "rgba.png"),
        "P": saved(palette, tmp_path / "p.png"),
        "P, transparent": saved(palette, tmp_path / "pt.png", transparency=bytes(range(256))),
        "16 bits, PNG": saved(Image.fromarray(deep), tmp_path / "deep.png"),
        "16 bits, TIFF": saved(Image.fromarray(deep), tmp_path / "deep.tif"),
    }
    for mode, path in stored.items():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = read_image(path, FORM)
        torch.testing.assert_close(found, normalised(grey), rtol=0, atol=1e-6, msg=mode)
    one = ImageFormat(1, 16, (16, 16), (0.0,), (1.0,), assumed=False)
    torch.testing.assert_close(read_image(stored["RGB"], one)[0] * 255, torch.from_numpy(grey).float())


def test_cmyk_jpegs_have_their_colours(tmp_path: Path) -> None:
    colour = np.zeros((16, 16, 3), np.uint8) + np.array([200, 100, 50], np.uint8)
    path = saved(Image.fromarray(colour).convert("CMYK"), tmp_path / "cmyk.jpg", quality=100, subsampling=0)
    with Image.open(path) as image:
        assert image.mode == "CMYK"
    difference = (read_image(path, FORM) - normalised(colour)) * torch.tensor(STD)[:, None, None] * 255
    assert difference.abs().max() <= 3  # levels, of JPEG's rounding


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_images_of_unknown_range_cannot_be_read(tmp_path: Path, dtype: type) -> None:
    path = saved(Image.fromarray(levels().astype(dtype)), tmp_path / "x.tif")
    with pytest.raises(UNREADABLE, match="of unknown range: give a tensor file"):
        read_image(path, FORM)


def test_a_folder_of_nothing_but_broken_images(tmp_path: Path) -> None:
    whole = saved(Image.fromarray(levels()), tmp_path / "0.png").read_bytes()
    (tmp_path / "0.png").write_bytes(whole[:-60])  # cut off
    (tmp_path / "1.bmp").write_bytes(b"BM and no more")
    (tmp_path / "2.jpg").write_bytes(b"")
    (tmp_path / "3.webp").write_text("<html>")
    data = images(tmp_path, FORM)
    with pytest.raises(OctifyError, match=r"none of the 4 images can be read(.|\n)*0\.png: (.|\n)*3\.webp: "):
        list(data.inputs)


def test_what_was_left_out_is_in_the_report(octify: Octify, net: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for i in range(8):
        saved(Image.fromarray(np.roll(levels(), i, 1)), tmp_path / f"photos/{i}.png")
    (tmp_path / "photos/3.png").write_bytes(b"no image")
    outcome = octify("convert", net, "--calib", "photos", "-o", "out", "--json", "--crop", "16", *FAST)
    assert outcome.code == 0, outcome
    written = json.loads((tmp_path / "out/report.json").read_text())
    for report in (written, outcome.json):
        (told,) = [w for w in report["warnings"] if "could not be read" in w]
        assert told.startswith("1 image(s) could not be read and were left out: photos/3.png: ")
        assert report["calibration"]["images"] == 7
    assert outcome.err.count("could not be read") == 1


LOADER = """\
import torch
x = torch.randn(24, 3, 32, 32)
class Data:
    def __len__(self):
        return 24
    def __getitem__(self, i):
        if i == 20:
            raise OSError("the share is gone")
        return x[i]
def raising():
    yield x[:8]
    raise ValueError("sample 8 is broken")
def leaving():
    yield x[:8]
    raise SystemExit(0)
def workers():
    return torch.utils.data.DataLoader(Data(), batch_size=4)
def nothing():
    yield from ()
data = Data()
wide = [x[:8], torch.zeros(8, 3, 0, 32)]
bytes_ = [(255 * x).to(torch.uint8)]
"""


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (
            "data.py:raising",
            ("data.py:raising failed to run", "data.py:12", "ValueError: sample 8 is broken"),
        ),
        ("data.py:leaving", ("data.py:leaving failed to run", "data.py:15", "SystemExit")),
        ("data.py:workers", ("data.py:workers failed to run", "data.py:8", "OSError: the share is gone")),
        ("data.py:data", ("data.py:data failed to run", "data.py:8", "OSError: the share is gone")),
        ("data.py:nothing", ("no usable calibration inputs", "the data yielded nothing")),
        ("data.py:wide", ("item 1 of the calibration data has shape 8x3x0x32",)),
        ("data.py:bytes_", ("item 0 of the calibration data is uint8",)),
        ("broken", ("none of the 1 images can be read", "broken/a.png: cannot identify image")),
        ("header.npz", ("header.npz cannot be read", "damaged")),
        ("cut.npz", ("cut.npz cannot be read",)),
        ("changed.npz", ("changed.npz cannot be read", "CRC")),
        ("text.npz", ("text.npz cannot be read", "damaged")),
        ("x.safetensors", ("x.safetensors cannot be read",)),
        ("text.pt", ("text.pt is damaged, or holds pickled Python objects", "refuses to load")),
        ("objects.pt", ("objects.pt holds pickled Python objects, which octify refuses to load",)),
        ("nhwc.npy", ("has shape 4x32x32x3", "x.movedim(-1, 1)")),
    ],
)
def test_broken_data_is_refused_and_nothing_written(
    refused: Refused,
    net: Path,
    tmp_path: Path,
    listing: Callable[[], set[str]],
    data: str,
    told: tuple[str, ...],
) -> None:
    (tmp_path / "data.py").write_text(LOADER)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/a.png").write_bytes(b"x")
    np.savez(tmp_path / "cut.npz", x=np.zeros((8, 3, 32, 32), np.float32))
    whole = (tmp_path / "cut.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "changed.npz").write_bytes(whole[:5000] + b"x" + whole[5001:])
    (tmp_path / "header.npz").write_bytes(b"PK\x03\x04 and no more")
    for name in ("text.npz", "x.safetensors", "text.pt"):
        (tmp_path / name).write_text("<html>not found</html>")
    torch.save({"inputs": torch.zeros(1), "path": Path("x")}, tmp_path / "objects.pt")
    np.save(tmp_path / "nhwc.npy", np.zeros((4, 32, 32, 3), np.float32))
    before = listing()
    message = refused("convert", net, "--calib", data, "-o", "out", *FAST)
    for part in told:
        assert part in message
    assert listing() == before


def test_synthetic_images_without_batchnorm(octify: Octify, tmp_path: Path) -> None:
    from tests.cli.conftest import NET

    (tmp_path / "bare.py").write_text(NET.replace("nn.BatchNorm2d(64)", "nn.Identity()"))
    arguments = ("convert", "bare.py", "--calib", "synthetic", "--rules", "everywhere", "--json")
    outcome = octify(*arguments, "-o", "out")
    assert outcome.code == 0, outcome
    assert "warning: synthetic images are made from BatchNorm statistics" in outcome.err
    assert (outcome.json["kernels"], outcome.json["calibration"]) == ("exact", None)
    held = octify(*arguments, "-o", "held", "--max-error", "0.5")
    assert held.code == 1
    assert "could not be measured against --max-error" in held.err
    assert not (tmp_path / "held").exists()


WAITING = """\
import pathlib, time, torch
def loader():
    yield torch.randn(8, 3, 32, 32)
    pathlib.Path("reading").touch()
    time.sleep(60)
"""


def test_ctrl_c_while_calibration_data_is_read(
    signalled: Signalled, net: Path, tmp_path: Path, listing: Callable[[], set[str]]
) -> None:
    (tmp_path / "data.py").write_text(WAITING)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/plan.json").write_text("the old one")
    command = ("convert", "net.py", "--calib", "data.py:loader", "-o", "out", "--force")
    returncode, out, err = signalled(signal.SIGINT, *command, once="reading")
    assert (returncode, out) == (130, ""), err
    assert "Traceback" not in err
    assert listing() == {"net.py", "data.py", "reading", "out", "out/plan.json"}
    assert (tmp_path / "out/plan.json").read_text() == "the old one"


@pytest.mark.parametrize("step", ["solve", "cautious_ridge", "write_branch"])
def test_ctrl_c_while_weights_are_fitted(
    octify: Octify, net: Path, monkeypatch: pytest.MonkeyPatch, listing: Callable[[], set[str]], step: str
) -> None:
    np.save(net.with_name("x.npy"), np.random.default_rng(0).normal(size=(8, 3, 32, 32)).astype(np.float32))
    assert octify("convert", net, "--rules", "everywhere", "-o", "out").code == 0
    before = {name: (net.parent / name).read_bytes() for name in listing() if (net.parent / name).is_file()}

    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"octify.calibrate.fit.repair.{step}", interrupted)
    outcome = octify("convert", net, "--calib", "x.npy", "-o", "out", *FAST)
    assert outcome.code == 130
    assert outcome.err.endswith("interrupted; nothing was left half written\n")
    assert {n: (net.parent / n).read_bytes() for n in listing() if (net.parent / n).is_file()} == before
