"""``python -m tests.benchmarks.vae``: decoders of diffusers' AutoencoderKL, with random weights.

``quality`` converts and calibrates on latents, and compares with the original (PSNR). ``speed`` times the
original and the converted decoder in turn, each in a process of its own, and reads their peak memory. Each
prints one JSON line for each row. diffusers must be installed (the extra of that name).
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import octify
from octify.source import load_source
from tests.places import SAMPLES

sys.path.insert(0, str(Path(__file__).parents[1] / "quirk"))

CONFIGURATIONS = {"small": SAMPLES / "vae_small", "stable-diffusion": SAMPLES / "vae"}
LATENT = 8  # pixels of a latent's side


def decoder(name: str) -> nn.Module:
    """A decoder with seeded random weights."""
    return load_source(f"diffusers:{CONFIGURATIONS[name]}:decoder", inputs=["1x4x16x16"]).model


def latents(count: int, pixels: int, seed: int, smooth: int = 1) -> Tensor:
    """Normal noise (count, 4, pixels / 8, pixels / 8), enlarged ``smooth`` times from a smaller map of it.

    White noise (``smooth`` 1) has the most high frequencies that latents can have; those of pictures fewer.
    """
    generator = torch.Generator().manual_seed(seed)
    side = pixels // LATENT
    small = torch.randn(count, 4, side // smooth, side // smooth, generator=generator)
    if smooth == 1:
        return small
    large = F.interpolate(small, (side, side), mode="bicubic", align_corners=False)
    return large / large.std(dim=(1, 2, 3), keepdim=True)


def psnr(ours: Tensor, theirs: Tensor) -> float:
    """Peak signal-to-noise ratio in dB; the peak is the range of the original's own values."""
    error = float((ours - theirs).square().mean())
    return 10 * math.log10(float(theirs.max() - theirs.min()) ** 2 / error) if error else math.inf


@torch.no_grad()
def quality(
    name: str, alphas: list[float], efforts: list[str], count: int, pixels: int, test: int, smooth: int
) -> None:
    """Print the PSNR of converted decoders on latents that calibration did not see, at two sizes."""
    model = decoder(name)
    calibration = [latents(1, pixels, seed, smooth) for seed in range(count)]
    for alpha in alphas:
        for effort in efforts:
            start = time.process_time()
            options: Any = {} if effort == "none" else {"calibration": calibration, "effort": effort}
            with torch.enable_grad():
                result = octify.convert(model, calibration[0], alpha=alpha, **options)
            seconds = time.process_time() - start
            totals = result.report.totals
            row: dict[str, Any] = {
                "configuration": name,
                "alpha": alpha,
                "effort": effort,
                "smooth": smooth,
                "macs": totals.macs_after / totals.macs_before,
                "converted": totals.converted,
                "cpu_seconds": round(seconds),
            }
            for size in (pixels, 2 * pixels):
                pairs = [
                    (result.model(z), model(z))
                    for z in (latents(1, size, 1000 + n, smooth) for n in range(test))
                ]
                values = [psnr(*pair) for pair in pairs]
                row[f"psnr_{size}"] = [round(statistics.mean(values), 2), round(statistics.stdev(values), 2)]
                relative = [float((a - b).norm() / (b - b.mean()).norm()) for a, b in pairs]
                row[f"relative_{size}"] = round(statistics.mean(relative), 4)
            print(json.dumps(row), flush=True)


def resident(name: str) -> float:
    """Memory of this process in MiB, by its name in Linux's /proc: now (VmRSS), or at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


@torch.no_grad()
def one(name: str, alpha: float, pixels: int, rounds: int, last: bool) -> None:
    """Time one decoder in this process, and read its peak memory."""
    torch.set_num_threads(1)
    model = decoder(name)
    if alpha:
        model = octify.convert(model, latents(1, 128, 0), alpha=alpha).model
    z = latents(1, pixels, 7)
    if last:
        model, z = model.to(memory_format=torch.channels_last), z.to(memory_format=torch.channels_last)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of the conversion
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        model(z)
        times.append(time.perf_counter() - start)
    print(json.dumps({"seconds": times, "peak_mib": resident("VmHWM"), "before_mib": before}))


def speed(name: str, alphas: list[float], pixels: int, rounds: int, last: bool) -> None:
    """Print times and peak memory of the original and of converted decoders, in turns."""
    rows: dict[float, list[Any]] = {alpha: [] for alpha in (0.0, *alphas)}
    for _ in range(rounds):
        for alpha, found in rows.items():
            command = [sys.executable, "-m", "tests.benchmarks.vae", "one", "--configuration", name]
            command += ["--alpha", str(alpha), "--pixels", str(pixels), "--rounds", "1"]
            command += ["--channels-last"] if last else []
            answer = subprocess.run(command, capture_output=True, text=True, check=True)
            found.append(json.loads(answer.stdout.splitlines()[-1]))
    for alpha, found in rows.items():
        row = {
            "configuration": name,
            "alpha": alpha,
            "pixels": pixels,
            "channels_last": last,
            "seconds": [round(each["seconds"][0], 2) for each in found],
            "peak_mib": round(max(each["peak_mib"] for each in found)),
            "before_mib": round(max(each["before_mib"] for each in found)),
        }
        print(json.dumps(row), flush=True)


def main() -> None:
    """Read the command line and run one of the measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["quality", "speed", "one"])
    parser.add_argument("--configuration", choices=CONFIGURATIONS, default="small")
    parser.add_argument("--alpha", type=float, nargs="+", default=[0.25, 0.5])
    parser.add_argument("--effort", nargs="+", default=["none", "fast"])
    parser.add_argument("--count", type=int, default=32, help="latents for calibration")
    parser.add_argument("--test", type=int, default=8, help="latents to compare on")
    parser.add_argument("--smooth", type=int, default=1, help="1: white noise; 4: enlarged from a quarter")
    parser.add_argument("--pixels", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--channels-last", action="store_true")
    args = parser.parse_args()
    if args.what == "quality":
        quality(args.configuration, args.alpha, args.effort, args.count, args.pixels, args.test, args.smooth)
    elif args.what == "speed":
        speed(args.configuration, args.alpha, args.pixels, args.rounds, args.channels_last)
    else:
        one(args.configuration, args.alpha[0], args.pixels, args.rounds, args.channels_last)


if __name__ == "__main__":
    main()
