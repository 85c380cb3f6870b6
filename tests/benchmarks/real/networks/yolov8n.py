"""YOLOv8n, trained by NudeNet's authors to find faces and parts of bodies."""

from __future__ import annotations

from torch import nn

from tests.benchmarks.real.measures import boxes
from tests.benchmarks.real.networks.model import Network, file_of, from_onnx


def build() -> nn.Module:
    return from_onnx(file_of("nudenet", "320n.onnx"))


NETWORK = Network("yolov8n", "YOLOv8n (NudeNet)", "nudenet", build, 320, lambda x: x, boxes(), people=8)
