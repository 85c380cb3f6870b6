"""Prints the accuracy of digits_resnet.py on images it was not trained on, before and after conversion.

    python samples/evaluate_digits.py [DIR ...]

Each DIR is an artefact folder that `octify convert samples/digits_resnet.py ... -o DIR` wrote. Needs
scikit-learn. `accuracy` is a metric for octify:

    octify convert samples/digits_resnet.py --weights samples/digits_resnet.safetensors \\
        --metric samples/evaluate_digits.py:accuracy
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import digits_data
import digits_resnet
import torch
from safetensors.torch import load_file
from torch import Tensor, nn


def load_original() -> nn.Module:
    model = digits_resnet.build_model()
    model.load_state_dict(load_file(Path(__file__).with_name("digits_resnet.safetensors")))
    return model.eval()


def predict(model: nn.Module, images: Tensor) -> Tensor:
    """(N, 1, 32, 32) images -> (N,) predicted digits."""
    with torch.inference_mode():
        return torch.cat([model(batch).argmax(1) for batch in images.split(100)])


def accuracy(model: nn.Module) -> float:
    """Share of the held-out images that ``model`` answers right."""
    _, test = digits_data.load()
    return (predict(model, test.images) == test.labels).double().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Held-out accuracy of the digits sample and its conversions."
    )
    parser.add_argument(
        "folders", nargs="*", type=Path, metavar="DIR", help="written by: octify convert -o DIR"
    )
    folders = parser.parse_args().folders

    train, test = digits_data.load()
    original = load_original()
    models = {"original": original}
    if folders:
        import octify

        models |= {str(folder): octify.load(folder, original).eval() for folder in folders}

    print(f"top-1 accuracy on {len(test)} held-out images (trained on {len(train)} others)")
    expected = predict(original, test.images)
    width = max(map(len, models))
    for name, model in models.items():
        predicted = predict(model, test.images)
        right = (predicted == test.labels).float().mean().item()
        error = math.sqrt(right * (1 - right) / len(test))
        same = (predicted == expected).float().mean().item()
        print(f"{name:{width}}  {right:6.1%} +- {error:.1%}   same answer as the original {same:6.1%}")


if __name__ == "__main__":
    main()
