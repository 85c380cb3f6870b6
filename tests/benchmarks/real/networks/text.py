"""PP-OCRv4's text detector, as RapidOCR packs it. Crops have lines of text drawn on them."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from tests.benchmarks.real.measures import regions
from tests.benchmarks.real.networks.model import Network, file_of, from_onnx

_WORDS = [
    "open",
    "exit",
    "bakery",
    "street",
    "24",
    "hours",
    "menu",
    "welcome",
    "no",
    "parking",
    "library",
    "sale",
    "station",
    "1987",
]


def build() -> nn.Module:
    return from_onnx(file_of("rapidocr_onnxruntime", "models/ch_PP-OCRv4_det_infer.onnx"))


def written(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """One to four lines of text, dark or light, at random places."""
    image = image.copy()
    draw = ImageDraw.Draw(image)
    for _ in range(int(generator.integers(1, 5))):
        words = " ".join(generator.choice(_WORDS, int(generator.integers(1, 4))))
        font = ImageFont.load_default(float(generator.integers(14, 48)))
        place = tuple(float(generator.uniform(0, 0.7) * n) for n in image.size)
        shade = int(generator.choice([0, 30, 225, 255]))
        draw.text(place, str(words), fill=(shade, shade, shade), font=font)
    return image


def prepare(x: Tensor) -> Tensor:
    return (x - 0.5) / 0.5


NETWORK = Network(
    "text",
    "PP-OCRv4 text detector (RapidOCR)",
    "rapidocr-onnxruntime",
    build,
    480,
    prepare,
    regions(),
    change=written,
    images=128,
    tested=128,
    aside=True,
)
