"""The device of PyTorch's runtimes: refused with a reason where there is none."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import octify
from octify.errors import OctifyError
from octify.latency.machine import facts


@pytest.mark.parametrize(
    ("device", "runtime", "told"),
    [
        ("gpu", "eager", "'gpu' is not a device"),
        ("meta", "eager", "not timed on meta"),
        ("cuda", "onnxruntime", "onnxruntime does not run on cuda"),
    ],
)
def test_what_is_no_device_for_it(device: str, runtime: str, told: str) -> None:
    with pytest.raises(OctifyError, match=told):
        octify.bench({"a": nn.Identity()}, torch.zeros(1, 3), runtimes=[runtime], device=device)


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(OctifyError, match="there is no device cuda here") as caught:
        octify.bench({"a": nn.Identity()}, torch.zeros(1, 3), runtimes=["eager"], device="cuda")
    assert "GPU" in str(caught.value)


def test_a_gpu_beyond_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(OctifyError, match="there is no device cuda:3 here"):
        octify.bench({"a": nn.Identity()}, torch.zeros(1, 3), runtimes=["eager"], device="cuda:3")


def test_the_facts_of_the_machine() -> None:
    told = facts(threads=2)
    assert told["threads"] == 2 and told["processor"]
    # The build behind "+" stands in one of the two only.
    assert told["runtimes"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert "onnxruntime" in told["runtimes"]
    assert all(isinstance(name, str) for name in told["instruction_sets"])
