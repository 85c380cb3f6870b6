"""Run by every interpreter that the tests start with this folder on ``PYTHONPATH`` (see conftest.py)."""

import torchvision_quirk

torchvision_quirk.install()
