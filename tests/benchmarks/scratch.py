"""Training from scratch: accuracy against MACs at five alphas, several seeds. Writes docs/training.json.

    python -m tests.benchmarks.scratch [--seeds 3] [--epochs 15] [--images 200]

Network, data and loop are those of examples/train_octave.py, with few training images: with all 1297 six
epochs read 99.6 % of the digits at alpha 0 and .125 alike. Runs that docs/training.json has are not
repeated. ``--table`` prints the table of docs/training.md.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from typing import Any

import torch

from tests.places import ROOT

sys.path.insert(0, str(ROOT / "examples"))

import train_octave

FILE = ROOT / "docs" / "training.json"
ALPHAS = (0.0, 0.125, 0.25, 0.5, 0.75)


def run(alpha: float, seed: int, epochs: int, images: int) -> dict[str, Any]:
    """Train one network, as a row of docs/training.json."""
    start = time.process_time()
    right, share = train_octave.trained(alpha, epochs, seed, images)
    seconds = round(time.process_time() - start, 1)
    row = {"alpha": alpha, "seed": seed, "epochs": epochs, "images": images}
    return row | {"macs": share, "accuracy": right, "cpu_seconds": seconds}


def table(runs: list[dict[str, Any]]) -> str:
    """Mean accuracy over the seeds and its standard error, by alpha."""
    lines = ["| alpha | MACs | accuracy (standard error) | seeds |", "|---|---|---|---|"]
    for alpha in ALPHAS:
        rows = [each for each in runs if each["alpha"] == alpha]
        values = [100 * each["accuracy"] for each in rows]
        error = statistics.stdev(values) / math.sqrt(len(values))
        shown = f"{statistics.mean(values):.1f} % ({error:.1f})"
        lines.append(f"| {alpha:g} | {rows[0]['macs']:.3f} | {shown} | {len(rows)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    runs = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else []
    if options.table:
        print(table(runs))
        return
    torch.set_num_threads(1)
    done = {(each["alpha"], each["seed"], each["epochs"], each["images"]) for each in runs}
    for seed in range(options.seeds):
        for alpha in ALPHAS:
            if (alpha, seed, options.epochs, options.images) not in done:
                runs.append(run(alpha, seed, options.epochs, options.images))
                print(runs[-1], flush=True)
                FILE.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
