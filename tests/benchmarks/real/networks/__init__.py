"""The networks, one file each."""

from tests.benchmarks.real.networks import hed, lite0, text, vgg7, yolov8n
from tests.benchmarks.real.networks.model import Network

NETWORKS: dict[str, Network] = {
    module.NETWORK.name: module.NETWORK for module in (lite0, yolov8n, vgg7, text, hed)
}
